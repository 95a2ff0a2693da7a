"""How much of a gradient arrives: through the time of a recurrent network, through the layers of a Transformer.

Source: kexue.fm/archives/7888, whose one-step derivatives are, for one unit (h = h_{t-1}, c = c_{t-1}),

    tanh RNN   (1 - h_t^2) U
    GRU        1 - z - z (1 - z) h U_z + z (1 - z) h^ U_z + (1 - h^^2) r (1 + (1 - r) h U_r) z U_h     (led by 1 - z)
    LSTM       f + o (1 - tanh^2 c) (f (1 - f) c U_f + i (1 - i) c^ U_i + (1 - c^^2) i U_c)             (led by f)

so that an LSTM whose forget bias is 1 keeps the most and a plain RNN the least; here as products of whole Jacobians.

Shapes: T steps, F features, S state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradients_through_time(network: nn.RNN | nn.GRU | nn.LSTM, inputs: Tensor) -> Tensor:
    """(T + 1,) largest singular value of d state_T / d state_t, for t = 0 … T; the last one is 1.

    The state is h, and (h, c) of an LSTM; it starts at zero.

    Args:
        network: one layer, one direction.
        inputs: (T, F) one sequence.

    Raises:
        ValueError: the network has several layers, two directions or a projection, or the inputs are not (T, F).
    """
    if network.num_layers != 1 or network.bidirectional or network.proj_size:
        raise ValueError("gradients_through_time takes networks of one layer and one direction, without projection")
    if inputs.dim() != 2 or inputs.shape[1] != network.input_size or not len(inputs):
        raise ValueError(f"inputs are one sequence (T, {network.input_size}), not {tuple(inputs.shape)}")
    is_lstm, size = isinstance(network, nn.LSTM), network.hidden_size
    states = 2 * size if is_lstm else size

    def step(state_NS: Tensor, input_F: Tensor) -> Tensor:
        parts = tuple(part.contiguous()[None] for part in state_NS.split(size, -1))
        _, new = network(input_F.expand(1, len(state_NS), -1), parts if is_lstm else parts[0])
        return torch.cat(new, -1)[0] if is_lstm else new[0]

    state_S = inputs.new_zeros(states)
    unit_SS = torch.eye(states, dtype=inputs.dtype, device=inputs.device)
    jacobians = []
    with torch.enable_grad():
        for input_F in inputs:
            # the same state in every row of a batch, and of row i the derivative of unit i: one backward in all
            rows_SS = state_S.expand(states, -1).detach().requires_grad_()
            new_SS = step(rows_SS, input_F)
            jacobians.append(torch.autograd.grad(new_SS, rows_SS, unit_SS)[0])
            state_S = new_SS[0].detach()
    product = unit_SS
    norms = [torch.linalg.matrix_norm(product, 2)]
    for jacobian in reversed(jacobians):
        product = product @ jacobian
        norms.append(torch.linalg.matrix_norm(product, 2))
    return torch.stack(norms[::-1])


def set_forget_bias(network: nn.LSTM, value: float = 1.0) -> None:
    """Let an LSTM start with open forget gates. torch has two biases per gate and draws both around zero."""
    size = network.hidden_size
    with torch.no_grad():
        for layer in range(network.num_layers):
            for direction in [""] + ["_reverse"] * network.bidirectional:
                getattr(network, f"bias_ih_l{layer}{direction}")[size : 2 * size] = value
                getattr(network, f"bias_hh_l{layer}{direction}")[size : 2 * size] = 0.0


def gradients_by_layer(
    model: Any, inputs: dict[str, Tensor], *, num_steps: int = 10, seed: int = 0
) -> list[dict[str, float]]:
    """For the embeddings and every layer of a Transformer: how strongly its output moves the last hidden states.

    Args:
        model: any model of transformers that returns `hidden_states`, with a loss if `inputs` has labels.
        inputs: of one batch.
        num_steps: power iterations for the norm of the Jacobian; ten are within a few percent.
        seed: of their first vector.

    Returns:
        One dict per hidden state, the embeddings first: `jacobian`, the largest singular value of the derivative of the
        last hidden states in this one, over the whole batch, and `loss_gradient`, the norm of the gradient of the loss
        (nan without labels).

    Raises:
        ValueError: the model gives no hidden states.
    """
    # the fused attention kernels have no second derivative, which the norm of a Jacobian takes
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        output = model(**inputs, output_hidden_states=True)
        hidden = output.hidden_states
        if not hidden:
            raise ValueError(f"{type(model).__name__} gives no hidden_states, which the layers are told by")
        loss = getattr(output, "loss", None)
        of_loss: Sequence[Tensor | None] = [None] * len(hidden)
        if loss is not None:
            of_loss = torch.autograd.grad(loss, hidden, retain_graph=True, allow_unused=True)
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for state, gradient in zip(hidden, of_loss, strict=True):
            norm = 1.0 if state is hidden[-1] else _jacobian_norm(state, hidden[-1], num_steps, generator)
            rows.append(
                {"jacobian": norm, "loss_gradient": float("nan") if gradient is None else float(gradient.norm())}
            )
    return rows


def _jacobian_norm(source: Tensor, target: Tensor, num_steps: int, generator: torch.Generator) -> float:
    """Largest singular value of d target / d source by power iteration on J^T J."""
    direction = torch.randn(target.shape, generator=generator).to(target)
    direction /= direction.norm()
    # the product with J from the one with J^T: the derivative of v^T J w in v
    dummy = torch.zeros_like(target, requires_grad=True)
    (back,) = torch.autograd.grad(target, source, dummy, create_graph=True)
    norm = 0.0
    for _ in range(num_steps):
        (right,) = torch.autograd.grad(target, source, direction, retain_graph=True)
        (left,) = torch.autograd.grad(back, dummy, right, retain_graph=True)
        norm = float(left.norm()) ** 0.5  # |J J^T v| of a unit vector v
        if norm == 0.0:
            break
        direction = left / left.norm()
    return norm


def plot_curves(curves: dict[str, Sequence[float]], path: str | Path, *, xlabel: str, ylabel: str) -> None:
    """Curves over 0, 1, …, on a logarithmic axis, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, values), style in zip(curves.items(), ["-", "--", "-.", ":"] * len(curves), strict=False):
        axes.semilogy(range(len(values)), values, style, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend()
    figure.savefig(path, dpi=150)
