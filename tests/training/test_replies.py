"""Replies for the evaluation are written in batches, as one by one; which tokenizers serve UniLM."""

from __future__ import annotations

from types import SimpleNamespace

from recipes.generation import make_seq2seq_model, replies
from recipes.unilm import UniLM

import pytest

from suzoo.models._dialogue import DialogueLayout
from tests.decoding.test_chat import LAYOUTS, TALK, tokenizer_of
from tests.models.tiny import tiny, tiny_tokenizer


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


def test_a_tokenizer_without_token_types_is_refused_before_training():
    recipe, tokenizer = UniLM(output_dir="", model="e5"), tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    with pytest.raises(ValueError, match="the tokenizer of e5 gives source and target no token types 0 and 1"):
        make_seq2seq_model(recipe, tokenizer, {})
