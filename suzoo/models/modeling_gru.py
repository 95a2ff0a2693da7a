"""A GRU over token embeddings: the small sentence encoder, for small devices.

`CoSENTModel` pools it as any other encoder; `pooling="last"` is the article's vector, the state behind the last token.
Source: kexue.fm/archives/5743 (characters, embeddings of 128, GRU of 128, AM-softmax over groups of sentences).

Shapes: B batch, L tokens, E embedding size, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from ._oldest import OLDEST  # noqa: F401  before 5.17 transformers copies from a folder only what this file names
from ._versions import refuse_unknown
from .configuration_gru import GRUEncoderConfig


class GRUEncoderModel(PreTrainedModel):
    """Token states of a stack of GRUs. Padding changes nothing, on whichever side it stands."""

    config: GRUEncoderConfig
    config_class = GRUEncoderConfig
    base_model_prefix = "gru"
    main_input_name = "input_ids"

    def __init__(self, config: GRUEncoderConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        directions = 2 if config.bidirectional else 1
        in_sizes = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        # a module per direction: which token is the last differs between the rows of a batch
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.GRU(in_size, config.hidden_size // directions, batch_first=True) for _ in range(directions)
            )
            for in_size in in_sizes
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keras' initialisation, as in the article: orthogonal recurrent matrices, Glorot's uniform ones for the input,
        no bias, each of the three gates by itself."""
        if not isinstance(module, nn.GRU):
            super()._init_weights(module)
            return
        for name, parameter in module.named_parameters():
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            for gate in parameter.chunk(3):
                if parameter.dim() == 1:
                    init.zeros_(gate)
                elif name.startswith("weight_hh"):
                    init.orthogonal_(gate)
                else:
                    init.xavier_uniform_(gate)

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Token states.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), 1 for tokens, 0 for padding wherever it stands; default all ones.
            token_type_ids: not used; BERT's tokenizers give them.
            inputs_embeds: (B, L, E) instead of `input_ids`.
            output_hidden_states: also return the embeddings and the states of every layer.
            kwargs: `COMMON_KEYWORDS`; any other name is a TypeError.

        Returns:
            last_hidden_state (B, L, D), zeros at padding.
        """
        refuse_unknown(type(self).__name__, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give the GRU encoder either input_ids or inputs_embeds")
        states = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch_size, num_tokens = states.shape[:2]
        if attention_mask is None:
            attention_mask = states.new_ones(batch_size, num_tokens, dtype=torch.long)
        is_token_BL = attention_mask.bool()
        # tokens first and padding behind, where no state depends on it; by sums, since ONNX has no stable sort
        places_L = torch.arange(num_tokens, device=states.device)
        lengths_B1 = is_token_BL.sum(1, keepdim=True)
        tokens_before_BL = is_token_BL.cumsum(1)
        back_BL = torch.where(is_token_BL, tokens_before_BL - 1, lengths_B1 + places_L - tokens_before_BL)
        order_BL = torch.zeros_like(back_BL).scatter(1, back_BL, places_L.expand_as(back_BL))
        reversed_BL = torch.where(places_L < lengths_B1, lengths_B1 - 1 - places_L, places_L)

        def as_given(states_BLD: Tensor) -> Tensor:
            return _take(states_BLD, back_BL) * is_token_BL[:, :, None]

        states = _take(states, order_BL)
        hidden_states = [as_given(states)]
        for layer in self.layers:
            forward, *backward = layer.children()
            states = self.dropout(states)
            outputs = [forward(states)[0]]
            outputs += [_take(gru(_take(states, reversed_BL))[0], reversed_BL) for gru in backward]
            states = torch.cat(outputs, dim=-1)
            hidden_states.append(as_given(states))
        return BaseModelOutput(
            last_hidden_state=hidden_states[-1],
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )


def _take(states_BLD: Tensor, places_BL: Tensor) -> Tensor:
    """The states of each row in another order."""
    return states_BLD.gather(1, places_BL[:, :, None].expand(-1, -1, states_BLD.shape[-1]))
