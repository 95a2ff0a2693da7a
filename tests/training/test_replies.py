"""Replies for the evaluation are written in batches, as one by one."""

from __future__ import annotations

from types import SimpleNamespace

from recipes.generation import replies

import pytest

from suzoo.models._dialogue import DialogueLayout
from tests.decoding.test_chat import LAYOUTS, TALK, tokenizer_of
from tests.models.tiny import tiny


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_writes_what_single_ones_do(layout):
    tokenizer = tokenizer_of(layout)
    model = tiny("dialogpt", layout=layout, vocab_size=len(tokenizer))
    rules = DialogueLayout.of_tokenizer(layout, tokenizer)
    model.generation_config.update(eos_token_id=rules.sep_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=6)
    recipe = SimpleNamespace(max_length=40, max_new_tokens=6)
    dialogues = [TALK[:end] for end in (2, 7, 3, 4, 6)]
    options = {"do_sample": False, "min_new_tokens": 4}
    batched, single = (replies(model, tokenizer, rules, dialogues, recipe, size, **options) for size in (3, 1))
    assert batched == single and any(batched)
