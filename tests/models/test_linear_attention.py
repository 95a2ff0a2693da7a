"""Linear attention: the sums as they are written, recurrence, chunks and masks of scores alike; padding; precision."""

from __future__ import annotations

import math

import pytest
import torch

from suzoo.models import _linear_attention
from suzoo.models._linear_attention import LINEAR_KINDS, LinearState, features, linear_attention
from tests.reference.attention import linear, similarity


def parts(length: int = 23, keys: int | None = None, dtype=torch.float64):
    """Queries, keys and values, (2, 3, length, 8) and values of size 6."""
    sizes = ((length, 8), (keys or length, 8), (keys or length, 6))
    return [torch.randn(2, 3, *size, dtype=torch.float64).to(dtype) for size in sizes]


def reference(kind, query, key, value, visible):
    rows = [
        [linear(kind, *head, visible) for head in zip(*row, strict=True)] for row in zip(query, key, value, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("is_causal", [True, False])
def test_equals_the_sums_as_written(kind, is_causal):
    query, key, value = parts()
    expected = reference(kind, query, key, value, lambda i, j: j <= i or not is_causal)
    for chunk_size in (1, 4, 16, 64):
        found, _ = linear_attention(query, key, value, kind=kind, is_causal=is_causal, chunk_size=chunk_size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("most", [1, 200, 10**6])
def test_as_many_chunks_at_once_as_there_is_room_for(kind, most, monkeypatch):
    """Of one, of a few, of all: the same output, state and gradients."""
    monkeypatch.setattr(_linear_attention, "MOST_AT_ONCE", most)
    for length in (1, 4, 22, 24):
        whole = [x.requires_grad_() for x in parts(length)]
        found, state = linear_attention(*whole, kind=kind, is_causal=True, chunk_size=4)
        expected, end = linear_attention(*whole, kind=kind, is_causal=True, chunk_size=64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(state.values, end.values, rtol=0, atol=1e-10)
        torch.testing.assert_close(state.keys, end.keys, rtol=0, atol=1e-10)
        cotangent = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad(x, whole, cotangent) for x in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_the_state_continues_a_text_token_by_token(kind):
    query, key, value = parts()
    whole, end = linear_attention(query, key, value, kind=kind, is_causal=True)
    outputs, state = [], None
    for start, stop in ((0, 9), *((place, place + 1) for place in range(9, 23))):
        cut = [x[:, :, start:stop] for x in (query, key, value)]
        output, state = linear_attention(*cut, kind=kind, is_causal=True, state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 2), whole, rtol=0, atol=1e-10)
    for found, expected in zip(state, end, strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    both, _ = linear_attention(query, key, value, kind=kind, is_causal=False)
    torch.testing.assert_close(both[:, :, -1], whole[:, :, -1], rtol=0, atol=1e-10)  # the last sees all


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_on_either_side_changes_nothing(kind, is_causal):
    query, key, value = parts()
    mask = torch.ones(2, 23)
    mask[0, 17:], mask[1, :5] = 0, 0
    found, _ = linear_attention(query, key, value, kind=kind, is_causal=is_causal, key_mask=mask, chunk_size=8)
    for row, real in ((0, slice(0, 17)), (1, slice(5, 23))):
        cut = [x[row : row + 1, :, real] for x in (query, key, value)]
        alone, _ = linear_attention(*cut, kind=kind, is_causal=is_causal)
        torch.testing.assert_close(found[row : row + 1, :, real], alone, rtol=0, atol=1e-10)
    nothing, _ = linear_attention(query, key, value, kind=kind, is_causal=is_causal, key_mask=torch.zeros(2, 23))
    assert nothing.abs().max() == 0


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_gradients_are_those_of_the_sums(kind):
    tensors = [x[:1, :1, :5, :3].clone().requires_grad_() for x in parts()]
    for is_causal in (True, False):
        assert torch.autograd.gradcheck(
            lambda *x, c=is_causal: linear_attention(*x, kind=kind, is_causal=c, chunk_size=2)[0], tensors
        )


def test_features_are_the_similarities():
    q, k = torch.randn(2, 40, 8, dtype=torch.float64)
    for kind in ("elu1", "taylor1", "taylor2"):
        found = (features(q, kind) * features(k, kind)).sum(-1)
        expected = torch.stack([similarity(kind, a, b) for a, b in zip(q, k, strict=True)])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert (found >= (0.5 if kind == "taylor2" else 0)).all()
    assert features(q, "taylor2").shape == (40, 1 + 8 + 64) and features(q, "taylor1").shape == (40, 9)
    # Su's form is flat: its entropy is close to log n, where softmax is not
    query, key, _ = parts(64)
    weights = features(query, "taylor1") @ features(key, "taylor1").transpose(2, 3)
    flat = torch.special.entr(weights / weights.sum(-1, keepdim=True)).sum(-1).mean()
    sharp = torch.special.entr((query @ key.transpose(2, 3) / math.sqrt(8)).softmax(-1)).sum(-1).mean()
    assert math.log(64) - 0.1 < flat < math.log(64) and sharp < flat - 0.15


def test_extremes():
    one = torch.tensor([[[[1.0, 0.0]]]])
    output, _ = linear_attention(one, -one, one, kind="taylor1", is_causal=True)
    assert output.isfinite().all()  # 1 + q.k is 0
    query, key, value = parts(32, dtype=torch.float32)
    key = 10 * key + 200  # e^200 would overflow
    found, _ = linear_attention(query, key, value, kind="efficient", is_causal=True)
    expected = reference("efficient", query.double(), key.double(), value.double(), lambda i, j: j <= i)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    empty, state = linear_attention(*(x[:, :, :0] for x in (query, key, value)), kind="elu1", is_causal=False)
    assert empty.shape == (2, 3, 0, 6) and isinstance(state, LinearState)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        low = [x.to(dtype) for x in parts(300)]
        for kind in LINEAR_KINDS:
            found, state = linear_attention(*low, kind=kind, is_causal=True)
            exact, _ = linear_attention(*(x.double() for x in low), kind=kind, is_causal=True)
            assert found.dtype == dtype and state.values.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


def test_bad_arguments():
    query, key, value = parts()
    with pytest.raises(ValueError, match="is one of"):
        linear_attention(query, key, value, kind="cosine", is_causal=True)
    with pytest.raises(ValueError, match="a key for each query"):
        linear_attention(query[:, :, :4], key, value, is_causal=True)
    state = linear_attention(query, key, value, is_causal=True)[1]
    with pytest.raises(ValueError, match="a state goes with causal"):
        linear_attention(query, key, value, is_causal=False, state=state)
