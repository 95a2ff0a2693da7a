"""GRUs token by token, one text at a time, as the formulas stand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gru_states(gru: nn.GRU, inputs_LE: Tensor) -> Tensor:
    """(L, D) states of one direction: r, z, n are the three gates of torch's matrices, in this order."""
    state = inputs_LE.new_zeros(gru.hidden_size)
    states = []
    for token in inputs_LE:
        from_input = (gru.weight_ih_l0 @ token + gru.bias_ih_l0).chunk(3)
        from_state = (gru.weight_hh_l0 @ state + gru.bias_hh_l0).chunk(3)
        reset, update = ((a + b).sigmoid() for a, b in zip(from_input[:2], from_state[:2], strict=True))
        candidate = (from_input[2] + reset * from_state[2]).tanh()
        state = (1 - update) * candidate + update * state
        states.append(state)
    return torch.stack(states)


def encoder_states(model, ids_L: Tensor) -> Tensor:
    """(L, D) states of `GRUEncoderModel` in eval mode for one text without padding."""
    states = model.word_embeddings(ids_L)
    for directions in model.layers:
        outputs = [gru_states(directions[0], states)]
        outputs += [gru_states(backward, states.flip(0)).flip(0) for backward in directions[1:]]
        states = torch.cat(outputs, dim=-1)
    return states
