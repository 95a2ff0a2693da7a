"""bert4keras' beam search: as its slow form, greedy with one beam, and with its two known consequences."""

from __future__ import annotations

import pytest
import torch

from suzoo.decoding import bert4keras_beam_search
from tests.models.tiny import tiny, tokens
from tests.reference.bert4keras_beam_search import beam_search

END = 2


def model_that_ends(seed: int, bonus: float):
    """[SEP] is about as likely as the other good tokens."""
    model = tiny("unilm", seed=seed, initializer_range=0.15)
    with torch.no_grad():
        model.cls.predictions.bias[END] += bonus
    return model


@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("min_new_tokens", [1, 3])
def test_equals_the_slow_form(num_beams, min_new_tokens):
    lengths = set()
    for seed in range(6):
        model, source = model_that_ends(seed, 1.0), tokens(5, seed=seed).tolist()
        expected, _, _ = beam_search(model, source, num_beams, 6, END, min_new_tokens)
        found = bert4keras_beam_search(
            model, source, num_beams=num_beams, max_new_tokens=6, end_id=END, min_new_tokens=min_new_tokens
        )
        assert found == expected
        lengths.add(len(found))
    assert len(lengths) > 1  # some end, some run out


def test_one_beam_is_greedy():
    for seed in range(4):
        model, source = model_that_ends(seed, 0.5), tokens(5, seed=seed)
        greedy = model.generate(source[None], max_new_tokens=6, eos_token_id=END)[0, 5:].tolist()
        found = bert4keras_beam_search(model, source.tolist(), num_beams=1, max_new_tokens=6, end_id=END)
        assert found == greedy


def test_a_finished_beam_that_was_thrown_away_may_have_been_better():
    better = 0
    for seed in range(12):
        model, source = model_that_ends(seed, 1.0), tokens(5, seed=seed).tolist()
        _, score, thrown = beam_search(model, source, 3, 6, END)
        better += any(other > score for other in thrown.values())
    assert better > 0


def test_counts_must_be_positive():
    model = tiny("unilm")
    good = {"num_beams": 2, "max_new_tokens": 3, "end_id": END}
    for bad in ({"num_beams": 0}, {"max_new_tokens": 0}, {"min_new_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            bert4keras_beam_search(model, [1, 5, 2], **{**good, **bad})
    with pytest.raises(ValueError, match="at least 1"):
        bert4keras_beam_search(model, [], **good)
    # more beams than the vocabulary has tokens
    assert len(bert4keras_beam_search(model, [1, 5, 2], **{**good, "num_beams": 100})) <= 3
