"""Embedding size, the flows and gradients through time: the articles' numbers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from suzoo.analysis import (
    embedding_entropy,
    gradient_flow,
    gradients_by_layer,
    gradients_through_time,
    recommended_dim,
    set_forget_bias,
    wasserstein_flow,
)
from suzoo.analysis.flows import draw_flows
from suzoo.analysis.gradients import plot_curves
from tests.models.tiny import tiny, tokens

# ---- embedding size


def test_entropy_is_the_articles_table():
    table = {32: -7.77471, 64: -15.4734, 96: -23.1726, 128: -30.8718, 256: -61.6692, 512: -123.264}
    for dim, entropy in table.items():
        assert embedding_entropy(dim) == pytest.approx(entropy, abs=2e-3)
    slope = -0.5 * math.log((math.sqrt(5) + 1) / 2)
    assert slope == pytest.approx(-0.240606, abs=1e-6)
    assert (embedding_entropy(20000) - embedding_entropy(10000)) / 10000 == pytest.approx(slope, abs=1e-6)


def test_recommended_dimensions():
    assert recommended_dim(100_000) == recommended_dim(100_000, exact=True) == 96
    assert recommended_dim(5_000_000) == 129  # the article rounds to 128
    assert recommended_dim(2) == 6 and recommended_dim(2, exact=True) >= 2
    for vocab_size in (1000, 21128, 10**9):
        dim = recommended_dim(vocab_size, exact=True)
        now, before = (2 * math.log(vocab_size) + embedding_entropy(d) for d in (dim, dim - 1))
        assert now <= 0 < before
        assert abs(dim - recommended_dim(vocab_size)) <= 2
    with pytest.raises(ValueError, match="vocab_size is 2 or more, not 1"):
        recommended_dim(1)
    with pytest.raises(ValueError, match="an angle needs a plane"):
        embedding_entropy(1)


# ---- flows

MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def quadratic(points):
    return 0.5 * ((points @ MATRIX) * points).sum(-1)


def test_gradient_flow_is_the_closed_form_of_a_quadratic():
    start = torch.randn(5, 2, dtype=torch.float64)
    times, points = gradient_flow(quadratic, start, time=2.0, num_steps=200)
    for time, found in zip(times, points, strict=True):
        torch.testing.assert_close(found, start @ torch.matrix_exp(-time * MATRIX), rtol=0, atol=1e-8)
    energies = torch.stack([quadratic(found) for found in points])
    assert (energies.diff(dim=0) < 0).all()


def test_wasserstein_flow_has_the_moments_of_a_quadratic():
    """From N(m, S) it passes N(e^{-At} m, e^{-At} S e^{-At} + A^-1 (1 - e^{-2At})), towards e^{-f} / Z = N(0, A^-1)."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([2.0, -1.0], dtype=torch.float64)
    start = mean + 0.1 * torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    times, points = wasserstein_flow(quadratic, start, time=3.0, num_steps=150, generator=generator)
    for place in (15, 50, 150):
        decay = torch.matrix_exp(-times[place] * MATRIX)
        covariance = 0.01 * decay @ decay + torch.linalg.inv(MATRIX) @ (torch.eye(2) - decay @ decay)
        torch.testing.assert_close(points[place].mean(0), decay @ mean, rtol=0, atol=0.03)
        torch.testing.assert_close(points[place].T.cov(), covariance, rtol=0, atol=0.04)
    torch.testing.assert_close(points[-1].T.cov(), torch.linalg.inv(MATRIX), rtol=0, atol=0.05)


def test_flows_are_drawn_and_refuse_no_time(tmp_path):
    start = torch.randn(50, 2, dtype=torch.float64)
    flows = {
        "gradient flow": gradient_flow(quadratic, start, time=1.0, num_steps=10)[1],
        "Wasserstein flow": wasserstein_flow(quadratic, start, time=1.0, num_steps=10)[1],
    }
    draw_flows(quadratic, flows, tmp_path / "flows.png")
    assert (tmp_path / "flows.png").read_bytes().startswith(b"\x89PNG")
    for flow in (gradient_flow, wasserstein_flow):
        with pytest.raises(ValueError, match="must be positive, not 0"):
            flow(quadratic, start, time=0, num_steps=3)


# ---- gradients through time


def test_one_step_derivatives_are_the_articles():
    """One unit of torch's networks, against the formulas; torch resets the GRU's gate behind the product."""
    inputs = torch.randn(2, 3, dtype=torch.float64)
    rnn = nn.RNN(3, 1, dtype=torch.float64)
    hidden = rnn(inputs[:1])[1][0, 0]
    out = rnn(inputs)[0][-1, 0]
    derivative = ((1 - out**2) * rnn.weight_hh_l0[0, 0]).abs()
    assert gradients_through_time(rnn, inputs)[1].item() == pytest.approx(derivative.item(), abs=1e-12)

    gru = nn.GRU(3, 1, dtype=torch.float64)
    with torch.no_grad():
        gru.bias_hh_l0[2] = 0.0  # then the reset gate stands on h U_h alone, as in the article
    hidden = gru(inputs[:1])[1][0, 0].detach()
    (u_r, u_z, u_h), (a_r, a_z, a_h) = gru.weight_hh_l0[:, 0], (gru.weight_ih_l0 @ inputs[1] + gru.bias_ih_l0)
    r, z = (a_r + u_r * hidden + gru.bias_hh_l0[0]).sigmoid(), (a_z + u_z * hidden + gru.bias_hh_l0[1]).sigmoid()
    new = torch.tanh(a_h + u_h * r * hidden)
    z, u_z = 1 - z, -u_z  # torch's z keeps, the article's z takes
    formula = 1 - z - z * (1 - z) * hidden * u_z + z * (1 - z) * new * u_z
    formula = formula + (1 - new**2) * r * (1 + (1 - r) * hidden * u_r) * z * u_h
    assert gradients_through_time(gru, inputs)[1].item() == pytest.approx(abs(formula.item()), abs=1e-12)


def test_one_step_of_an_lstm_is_the_articles():
    """d c_t / d c_{t-1}, where h_{t-1} = o tanh c_{t-1} and o stays."""
    lstm, inputs = nn.LSTM(3, 1, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    c, o = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), 0.6
    _, (_, after) = lstm(inputs, ((o * c.tanh()).view(1, 1), c.view(1, 1)))
    (found,) = torch.autograd.grad(after.sum(), c)
    u = lstm.weight_hh_l0[:, 0]
    gates = lstm.weight_ih_l0 @ inputs[0] + lstm.bias_ih_l0 + lstm.bias_hh_l0 + u * o * c.tanh()
    i, f, new = gates[0].sigmoid(), gates[1].sigmoid(), gates[2].tanh()
    inner = f * (1 - f) * c * u[1] + i * (1 - i) * new * u[0] + (1 - new**2) * i * u[2]
    formula = f + o * (1 - c.tanh() ** 2) * inner
    assert found.item() == pytest.approx(formula.item(), abs=1e-12)


def test_a_tanh_network_bounds_its_derivative():
    """|(1 - h_t^2) U| <= (.4477 + |W x + b|) / |h_{t-1}| for every U, since x sech^2 x has its maximum at .4477."""
    x = torch.linspace(0, 5, 100_001, dtype=torch.float64)
    assert (x * (1 - x.tanh() ** 2)).max().item() == pytest.approx(0.4477, abs=1e-4)
    u = torch.linspace(-300, 300, 100_001, dtype=torch.float64)
    for hidden, rest in ((0.3, 0.0), (-0.8, 1.5), (0.05, -0.4)):
        derivative = ((1 - (rest + u * hidden).tanh() ** 2) * u).abs().max()
        assert derivative <= (0.4478 + abs(rest)) / abs(hidden)


def test_jacobians_are_those_of_autograd_over_the_whole_sequence():
    inputs = torch.randn(6, 3, dtype=torch.float64)
    gru = nn.GRU(3, 4, dtype=torch.float64)
    for place in (0, 3, 5):
        before = gru(inputs[:place])[1].detach() if place else torch.zeros(1, 4, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda h, place=place: gru(inputs[place:], h)[1][0], before)[:, 0]
        expected = torch.linalg.matrix_norm(jacobian, 2).item()
        assert gradients_through_time(gru, inputs)[place].item() == pytest.approx(expected, rel=1e-9)
    assert gradients_through_time(gru, inputs)[-1] == 1


def test_an_open_forget_gate_keeps_the_gradient():
    """The article's order, RNN << GRU < LSTM << LSTM with a forget bias of 1, over 40 random steps."""
    norms = {}
    for name, kind in {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM, "open": nn.LSTM}.items():
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            network = kind(16, 16)
            if name == "open":
                set_forget_bias(network)
            found.append(gradients_through_time(network, torch.randn(40, 16))[0].log())
        norms[name] = float(torch.stack(found).mean())
    assert norms["RNN"] + 3 < norms["GRU"] < norms["LSTM"] < norms["open"] - 3
    with pytest.raises(ValueError, match="one layer and one direction"):
        gradients_through_time(nn.GRU(3, 4, num_layers=2), torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"one sequence \(T, 3\)"):
        gradients_through_time(nn.GRU(3, 4), torch.randn(2, 5, 3))


def test_gradients_by_layer():
    model = tiny("dialogpt", num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    ids = tokens(1, 4)
    rows = gradients_by_layer(model, {"input_ids": ids, "labels": ids}, num_steps=200)
    assert len(rows) == 3 and rows[-1]["jacobian"] == 1
    states = model(ids, output_hidden_states=True).hidden_states

    def rest(hidden):
        for layer in model.bert.encoder.layer[1:]:
            hidden = layer(hidden, None)
        return hidden

    jacobian = torch.autograd.functional.jacobian(rest, states[1].detach()).reshape(32, 32)
    assert rows[1]["jacobian"] == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item(), rel=1e-4)
    output = model(ids, labels=ids, output_hidden_states=True)
    (gradient,) = torch.autograd.grad(output.loss, output.hidden_states[1])
    assert rows[1]["loss_gradient"] == pytest.approx(gradient.norm().item())


def test_gradients_by_layer_of_stock_models(tmp_path):
    sizes = {"vocab_size": 41, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    bert = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=4, num_labels=3)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).eval()
    for model in (bert, llama):
        with torch.no_grad():  # a caller's setting
            rows = gradients_by_layer(model, {"input_ids": tokens(2, 7)})
        assert len(rows) == 4 and all(row["jacobian"] > 0 for row in rows)
        assert all(math.isnan(row["loss_gradient"]) for row in rows)
    plot_curves({"norm": [row["jacobian"] for row in rows]}, tmp_path / "c.png", xlabel="layer", ylabel="norm")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="gives no hidden_states"):
        gradients_by_layer(lambda **inputs: type("Output", (), {"hidden_states": None}), {})
