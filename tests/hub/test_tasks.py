"""The table of kinds of models: complete, and asked before the training."""

from __future__ import annotations

from recipes.frame import unsharded_copy

import pytest
from accelerate import Accelerator
from transformers import BertForPreTraining, BertForTokenClassification

from suzoo.hub.card import template_folder
from suzoo.hub.tasks import TASKS, task_named, task_of
from suzoo.hub.verify import WAYS
from suzoo.hub.verify.language_models import ANSWERS
from tests.tiny import tiny_config


def test_every_row_has_what_the_end_of_a_run_asks_for():
    for kind, task in TASKS.items():
        assert (template_folder() / task.template).is_file(), kind
        assert task.door.endswith("(suzoo)") and callable(task.way.open) and callable(task.ask)
    assert ANSWERS.keys() <= TASKS.keys() and WAYS
    assert task_named({"kind": "masked-lm", "scores": True}) is TASKS["t-ta"]
    assert task_named({"kind": "masked-lm"}) is TASKS["masked-lm"]


@pytest.mark.parametrize("model_class", [BertForTokenClassification, BertForPreTraining])
def test_a_model_of_no_kind_is_refused_before_it_is_trained(model_class):
    model = model_class(tiny_config())
    with pytest.raises(ValueError, match=f"no golden tensors are defined for {model_class.__name__}"):
        task_of(model)
    with pytest.raises(ValueError, match="has no such kind"):
        unsharded_copy(Accelerator(cpu=True), model)
