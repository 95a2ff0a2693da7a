"""Kinds of positions as plain functions: the articles' formulas, key by key."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from suzoo.models._position_kinds import (
    alibi_bias,
    alibi_slopes,
    distances,
    kerple_bias,
    log_n_scale,
    rerope_correction,
    sandwich_bias,
    turned,
    xpos_scales,
)
from suzoo.models._positions import equal_mean_positions, random_positions
from tests.reference.attention import rotation

N, SIZE = 20, 16
PLACES = torch.arange(N)[None]


def test_alibi_is_blooms():
    assert alibi_slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(12)[8:] == pytest.approx([0.70711, 0.35355, 0.17678, 0.08839], abs=1e-5)
    for heads in (1, 4, 8, 12, 16, 20):
        bloom = build_alibi_tensor(torch.ones(1, 5), heads, torch.float32)[:, 0, 1]
        assert alibi_slopes(heads) == pytest.approx(bloom.tolist(), rel=1e-6)
    bias = alibi_bias(distances(PLACES[:, 3:5], PLACES), 8, torch.float64)
    assert bias.shape == (1, 8, 2, N) and bias[0, 1, 0, 7] == -0.25 * 4 and bias[0, 1, 0, 3] == 0


def test_sandwich_is_the_product_of_sinusoids():
    theta = 10000 ** (-2 * torch.arange(1, 65, dtype=torch.float64) / 128)

    def vector(place):
        return torch.cat([(place * theta).sin(), (place * theta).cos()])

    bias = sandwich_bias(distances(PLACES, PLACES), 4, torch.float64)
    for head in range(4):
        for m, n in ((0, 0), (7, 2), (2, 7), (19, 0)):
            expected = (vector(m) @ vector(n) - 64) / (8 * (head + 1) / 4)
            assert bias[0, head, m, n].item() == pytest.approx(expected.item(), abs=1e-9)
    far = torch.tensor([[0, 1, 8, 64, 512, 4096]])
    values = sandwich_bias(distances(far, far[:, :1]), 8, torch.float64)[0, 0, :, 0]  # the first head divides by 1
    assert values.tolist() == pytest.approx([0.0, -1.4, -17.1, -32.9, -48.0, -67.3], abs=0.06)


def test_kerple():
    log_r1, raw_r2 = torch.randn(2, 3, dtype=torch.float64)
    apart = distances(PLACES, PLACES)
    log = kerple_bias(apart, "kerple_log", log_r1, raw_r2)
    power = kerple_bias(apart, "kerple_power", log_r1, raw_r2)
    for head in range(3):
        r1, r2 = log_r1[head].exp().item(), raw_r2[head].exp().item()
        assert log[0, head, 9, 2].item() == pytest.approx(-r1 * math.log(1 + 7 * r2))
        exponent = 2 / (1 + math.exp(-raw_r2[head].item()))
        assert power[0, head, 2, 9].item() == pytest.approx(-r1 * 7**exponent)
    assert (log.diagonal(0, 2, 3) == 0).all() and (power.diagonal(0, 2, 3) == 0).all()
    slopes = torch.tensor(alibi_slopes(4), dtype=torch.float64).log()
    linear = kerple_bias(apart, "kerple_power", slopes, torch.zeros(4, dtype=torch.float64))  # r2 = 1
    torch.testing.assert_close(linear, alibi_bias(apart, 4, torch.float64))
    # conditionally positive definite: what lets it be a kernel
    centre = torch.eye(N, dtype=torch.float64) - 1 / N
    for bias in (log, power):
        assert torch.linalg.eigvalsh(centre @ bias[0] @ centre).min() > -1e-8
    raw_r2.requires_grad_(), log_r1.requires_grad_()
    for kind in ("kerple_log", "kerple_power"):
        assert torch.autograd.gradcheck(lambda a, b, k=kind: kerple_bias(apart[:, :4, :4], k, a, b), (log_r1, raw_r2))


def test_xpos_depends_on_the_difference_and_stays_small():
    query, key = torch.randn(2, SIZE, dtype=torch.float64)
    zeta = (torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE + 0.4) / 1.4

    def product(m, n, centre):
        m, n, centre = (torch.tensor([[place]]) for place in (m, n, centre))
        q = turned(query[None, None, None], m, 10000.0) * xpos_scales(m, centre, SIZE, torch.float64)
        k = turned(key[None, None, None], n, 10000.0) / xpos_scales(n, centre, SIZE, torch.float64)
        return (q * k).sum().item()

    decay = (zeta ** (4 / 512)).repeat_interleave(2)
    expected = (rotation(query, 4) * decay * key).sum().item()
    for m, n, centre in ((7, 3, 0), (507, 503, 0), (507, 503, 400)):
        assert product(m, n, centre) == pytest.approx(expected, abs=1e-9)
    scales = xpos_scales(torch.tensor([[0, 8192]]), torch.tensor([[4096]]), SIZE, torch.float32)
    assert scales.max() < 3e4 and scales.min() > 3e-5  # float16 ends at 6.5e4 and 6e-5 (normal)


@pytest.mark.parametrize("slowdown", [None, 8.0])
def test_rerope_is_rope_in_a_window(slowdown):
    query, key = torch.randn(2, 2, 3, N, SIZE, dtype=torch.float64)
    window = 6

    def explicit(distance):
        side = 1 if distance >= 0 else -1
        if abs(distance) < window:
            return distance
        return side * (window + (0 if slowdown is None else (abs(distance) - window) / slowdown))

    rope = turned(query, PLACES, 1e4) @ turned(key, PLACES, 1e4).transpose(2, 3)
    found = rope + rerope_correction(query, key, PLACES, PLACES, theta=1e4, window=window, slowdown=slowdown)
    for i, j in ((0, 0), (5, 0), (6, 0), (19, 0), (0, 19), (3, 12), (10, 15)):
        expected = rotation(query[1, 2, i], explicit(i - j)) @ key[1, 2, j]
        assert found[1, 2, i, j].item() == pytest.approx(expected.item(), abs=1e-9)
    wide = rerope_correction(query, key, PLACES, PLACES, theta=1e4, window=N, slowdown=slowdown)
    assert wide.abs().max() == 0  # the window holds all: RoPE
    last = rerope_correction(query[:, :, -1:], key, PLACES[:, -1:], PLACES, theta=1e4, window=window, slowdown=slowdown)
    torch.testing.assert_close(last, (found - rope)[:, :, -1:], rtol=0, atol=1e-10)  # a decoding step


def test_log_n_keeps_the_entropy():
    n = torch.tensor([1, 100, 512, 4096])
    assert log_n_scale(n, 512, inference=False).tolist() == pytest.approx([0, 0.7382, 1.0, 1.3333], abs=1e-4)
    assert log_n_scale(n, 512, inference=True).tolist() == pytest.approx([1, 1, 1, 1.3333], abs=1e-4)
    plain, scaled = [], []
    for keys in (64, 256, 1024, 4096):
        scores = 1.5 * torch.randn(64, keys, dtype=torch.float64)
        for found, factor in ((plain, 1.0), (scaled, log_n_scale(torch.tensor(keys), 64, inference=False))):
            found.append(torch.special.entr((scores * factor).softmax(-1)).sum(-1).mean().item())
    assert plain == pytest.approx([3.10, 4.49, 5.80, 7.19], abs=0.1)
    assert scaled == pytest.approx([3.16, 3.86, 4.17, 4.16], abs=0.35)
    assert scaled[-1] - scaled[0] < 0.35 * (plain[-1] - plain[0])


def test_random_positions():
    drawn = random_positions(50, 40, 500, device=torch.device("cpu"))
    assert drawn.shape == (50, 40) and (drawn.diff(dim=-1) > 0).all() and drawn.min() >= 0 and drawn.max() < 500
    assert drawn.float().mean().item() == pytest.approx(249.5, abs=25)
    assert len({tuple(row) for row in drawn.tolist()}) == 50
    assert torch.equal(random_positions(2, 5, 5, device=torch.device("cpu")), torch.arange(5).expand(2, 5))
    with pytest.raises(ValueError, match="6 tokens cannot have 5 different positions"):
        random_positions(1, 6, 5, device=torch.device("cpu"))
    spaced = equal_mean_positions(4000, 64, device=torch.device("cpu"))
    assert (spaced[:, 0] == 0).all() and spaced[:, -1].mean().item() == pytest.approx(64, abs=4)
    torch.testing.assert_close(spaced.diff(dim=-1), (spaced[:, -1:] / 63).expand(-1, 63), rtol=1e-3, atol=1e-4)
