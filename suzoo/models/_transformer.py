"""The house Transformer: BERT's layers under BERT's parameter names, for any mask, with or without a cache.

Each model builds its own forward from these parts; what they share as HuggingFace models is `BackbonePreTrainedModel`.

Shapes: B batch, L queries, S keys, D hidden, F intermediate, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ._attention import SelfAttention
from ._decoding import forget_decoding_weights, linear
from ._file_modes import share_weights
from ._position_kinds import POSITIONS, Places, alibi_bias, distances, kerple_start, log_n_scale, sandwich_bias
from ._positions import count_positions, relative_index, relative_sinusoids, rotary_angles
from ._tokenizer_files import hub_options, load_tokenizer
from ._versions import SAVE_KEYWORDS, refuse_unknown


class Embeddings(nn.Module):
    """Token + position (absolute only) + token type, then LayerNorm and dropout."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        if POSITIONS[config.position_embedding_type].limited:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.position_embeddings = None
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, word_BLD: Tensor | None, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        """(B, L, D) from word embeddings (None adds nothing), types (B, L) and positions (1 or B, L)."""
        hidden_BLD = self.token_type_embeddings(token_type_ids)
        if word_BLD is not None:
            hidden_BLD = word_BLD + hidden_BLD
        if self.position_embeddings is not None:
            num_positions = self.position_embeddings.num_embeddings
            # elsewhere the look at the values would make the CPU wait for the device in every step
            look = position_ids.shape[-1] > num_positions or position_ids.device.type == "cpu"
            if look and not torch.compiler.is_compiling() and position_ids.numel():
                num_needed = int(position_ids.max()) + 1
                if num_needed > num_positions:
                    raise ValueError(
                        f"{num_needed} positions are needed, and the model has {num_positions} absolute positions: "
                        "truncate the input"
                    )
            hidden_BLD = hidden_BLD + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(hidden_BLD))


class Residual(nn.Module):
    """What ends both halves of a layer: dense, dropout, sum with the input; post-norm also normalizes here."""

    def __init__(self, config: PreTrainedConfig, in_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm_first = config.norm_first

    def before(self, hidden_BLD: Tensor) -> Tensor:
        """What the half computes from: pre-norm normalizes here."""
        return self.LayerNorm(hidden_BLD) if self.norm_first else hidden_BLD

    def forward(self, update: Tensor, hidden_BLD: Tensor) -> Tensor:
        hidden_BLD = self.dropout(linear(self.dense, update)) + hidden_BLD
        return hidden_BLD if self.norm_first else self.LayerNorm(hidden_BLD)


class Layer(GradientCheckpointingLayer):
    """Attention and feed-forward. Keys and values come from the hidden states, or from `memory_BSD` (T-TA)."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(config, layer_idx, is_causal), "output": Residual(config, config.hidden_size)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Residual(config, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(
        self,
        hidden_BLD: Tensor,
        attention_mask: Any = None,
        memory_BSD: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        self_attention, attention_output = self.attention["self"], self.attention["output"]
        assert isinstance(attention_output, Residual)
        attended_BLD, _ = self_attention(
            attention_output.before(hidden_BLD), attention_mask, memory_BSD, cache, **kwargs
        )
        hidden_BLD = attention_output(attended_BLD, hidden_BLD)
        feed_forward: Residual = self.output
        inner_BLF = self.activation(linear(self.intermediate["dense"], feed_forward.before(hidden_BLD)))
        return feed_forward(inner_BLF, hidden_BLD)


class Encoder(nn.Module):
    """The stack of layers, and the positions that act inside attention.

    Args:
        is_causal: what an absent mask means to sdpa.
    """

    def __init__(self, config: PreTrainedConfig, is_causal: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, idx, is_causal) for idx in range(config.num_hidden_layers))
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm_first else None
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads

    def forward(
        self,
        hidden_BLD: Tensor,
        attention_mask: Any,
        position_ids: Tensor,
        memory_BSD: Tensor | None = None,
        cache: Cache | None = None,
        padding_mask: Tensor | None = None,
        num_visible: Tensor | None = None,
        is_source: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D).

        Args:
            hidden_BLD: of the new tokens.
            attention_mask: as the attention implementation wants it.
            position_ids: (1 or B, L).
            memory_BSD: what keys and values are made from, if not `hidden_BLD`.
            cache: of the tokens before.
            padding_mask: (B, S) over cached and new tokens; what has no two dimensions counts as no padding.
            num_visible: (1 or B, L) keys that a query sees, for log n scaling.
            is_source: (B, L) boolean, tokens that see each other, for linear attention.
            kwargs: go to every layer's attention.
        """
        # in the recomputation of a layer the cache would take the same tokens a second time
        recomputes = (
            self.training and torch.is_grad_enabled() and any(layer.gradient_checkpointing for layer in self.layer)
        )
        if cache is not None and recomputes:
            raise ValueError("gradient checkpointing cannot train on top of a cache: leave one of them out")
        kind, config = self.config.position_embedding_type, self.config
        if config.is_linear:
            if padding_mask is not None and len(padding_mask.shape) != 2:
                raise ValueError("linear attention takes an attention_mask of two dimensions, 1 for tokens")
            key_mask = None if padding_mask is None else padding_mask[:, -hidden_BLD.shape[1] :]
            kwargs.update(key_mask=key_mask, is_source=is_source)
        if config.log_n != "off":
            assert num_visible is not None
            dtype, inference = hidden_BLD.dtype, config.log_n == "inference"
            scale_BL = log_n_scale(num_visible, config.log_n_base, inference=inference, dtype=dtype)
            kwargs["query_scale"] = scale_BL.to(dtype)[:, None, :, None]
        if POSITIONS[kind].raw_keys or POSITIONS[kind].learned or kind in ("alibi", "sandwich"):
            places = self._places(position_ids, padding_mask, cache)
            if kind in ("alibi", "sandwich"):
                make = alibi_bias if kind == "alibi" else sandwich_bias
                kwargs["position_bias"] = make(distances(*places), config.num_attention_heads, hidden_BLD.dtype)
            else:
                kwargs["places"] = places
        elif kind == "rope":
            kwargs["rotary"] = rotary_angles(position_ids, self.head_size, config.rope_theta, hidden_BLD.dtype)
        elif kind == "nezha":
            clip, device = config.max_relative_position, hidden_BLD.device
            kwargs["relative"] = (
                relative_index(*self._places(position_ids, padding_mask, cache), clip),
                relative_sinusoids(clip, self.head_size, device, hidden_BLD.dtype),
            )
        for layer in self.layer:
            # flash attention finds the documents of a packed row in the position ids
            hidden_BLD = layer(hidden_BLD, attention_mask, memory_BSD, cache=cache, position_ids=position_ids, **kwargs)
        return hidden_BLD if self.LayerNorm is None else self.LayerNorm(hidden_BLD)

    def _places(self, position_ids: Tensor, padding_mask: Tensor | None, cache: Cache | None) -> Places:
        """Positions of the new tokens and of all that they may see."""
        num_new, device = position_ids.shape[-1], position_ids.device
        num_keys = num_new if cache is None else cache.get_mask_sizes(num_new, 0)[0]
        if num_keys == num_new:
            return Places(position_ids, position_ids)
        # those in the cache are not at hand: they are counted; a static cache has empty slots, which nobody sees
        if padding_mask is not None and len(padding_mask.shape) == 2:
            padding_mask = nn.functional.pad(padding_mask, (0, num_keys - padding_mask.shape[1]), value=1)
        keys = count_positions(padding_mask, 0, num_keys, device)
        queries = keys[:, torch.arange(num_new, device=device) + num_cached(cache)]
        return Places(queries, keys)


class _Transform(nn.Module):
    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden_BLD)))


class _Predictions(nn.Module):
    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.transform = _Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        # BERT's name for decoder.bias, and tied to it; of its own it would be a weight that nothing uses
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tie_word_embeddings else None

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        return linear(self.decoder, self.transform(hidden_BLD))


class MLMHead(nn.Module):
    """BERT's masked-language-model head, whole: dense, activation, LayerNorm, tied decoder, bias. (…, D) to (…, V)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.predictions = _Predictions(config)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        return self.predictions(hidden_BLD)


def num_cached(cache: Cache | None) -> int | Tensor:
    """Tokens in the cache; a tensor for a static cache."""
    return 0 if cache is None else cache.get_seq_length()


# weights of BERT's that our models do not have, the untied ones not its second name for the bias; the backbones without
# head have no `cls` at all
HEAD_IGNORES = [r"pooler", r"cls\.seq_relationship", r"position_ids", r"^cls\.predictions\.bias$"]
BACKBONE_IGNORES = [r"pooler", r"^cls\.", r"position_ids"]


class BackbonePreTrainedModel(PreTrainedModel):
    """What DialoGPT, UniLM and T-TA are to HuggingFace: BERT's prefix and tying, honest flags, strict loading."""

    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 not the embeddings: the tied head must stay in their shard
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = HEAD_IGNORES
    _input_embed_layer = "word_embeddings"
    _can_record_outputs = {"hidden_states": Layer, "attentions": SelfAttention}  # noqa: RUF012

    @property
    def _supports_sdpa(self) -> bool:
        return POSITIONS[self.config.position_embedding_type].sdpa

    @property
    def _supports_flex_attn(self) -> bool:
        return POSITIONS[self.config.position_embedding_type].flex

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """As in transformers, where this is asked at the start and by `set_attn_implementation`.

        Raises:
            ValueError: it does not compute this model's attention; the message names those that do.
        """
        parts = {
            "sdpa": ("sdpa", self._supports_sdpa),
            "flex": ("flex_attention", self._supports_flex_attn),
            "flash": ("flash_attention_2", self._supports_flash_attn),
        }
        if any(part in (attn_implementation or "") and not is_able for part, (_, is_able) in parts.items()):
            able = ["eager", *(name for name, is_able in parts.values() if is_able)]
            raise ValueError(
                f"attn_implementation={attn_implementation!r} does not compute the attention of {type(self).__name__} "
                f"with {self.config.position_embedding_type} positions and these options; use {' or '.join(able)}"
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)

    def train(self, mode: bool = True):
        if mode:
            forget_decoding_weights(self)
        return super().train(mode)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, _Predictions) and module.bias is not None:
            init.zeros_(module.bias)
        if isinstance(module, SelfAttention) and POSITIONS[module.kind].learned:
            log_r1_H, raw_r2_H = kerple_start(module.kind, self.config.num_attention_heads)
            init.copy_(module.log_r1, log_r1_H)
            init.copy_(module.raw_r2, raw_r2_H)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load a folder of ours or of any BERT.

        Missing or unexpected weights are an error, except BERT's pooler and next-sentence head, which these models do
        not have. `output_loading_info=True` returns `(model, info)` and leaves the judgement to the caller.

        Raises:
            ValueError: the folder does not hold exactly the weights of this class.
        """
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        name = str(pretrained_model_name_or_path)
        model._source = name, hub_options(name, kwargs)
        if output_loading_info:
            return model, info
        problems = {
            name: sorted(str(key) for key in info[f"{name}_keys"])
            for name in ("missing", "unexpected")
            if info[f"{name}_keys"]
        }
        # without a path the caller passed the weights by hand
        if problems and pretrained_model_name_or_path is not None:
            listing = "; ".join(
                f"{name}: {', '.join(keys[:5])}" + " …" * (len(keys) > 5) for name, keys in problems.items()
            )
            raise ValueError(
                f"the weights in {pretrained_model_name_or_path} are not those of {cls.__name__} ({listing}). It "
                "starts from BERT folders that have their MLM head; pass output_loading_info=True to load what fits "
                "and see the rest"
            )
        return model


class MLMHeadPreTrainedModel(BackbonePreTrainedModel):
    """What a model with a backbone `self.bert` and BERT's head `self.cls` adds."""

    bert: PreTrainedModel
    cls: MLMHead
    _tokenizer: PreTrainedTokenizerBase | None = None
    _source: tuple[str, dict[str, Any]] | None = None  # where its files are, and how they are read

    _tied_weights_keys = {  # noqa: RUF012 the type is transformers'
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias if self.config.tie_word_embeddings else None

    def save_pretrained(self, save_directory, *args: Any, **kwargs: Any) -> None:
        """As in transformers; where the class carries its code along, `AutoModel` finds the backbone too."""
        refuse_unknown("save_pretrained", kwargs, SAVE_KEYWORDS)
        if self._auto_class is not None:
            backbone = type(self.bert)
            entry = {"AutoModel": f"{backbone.__module__.split('.')[-1]}.{backbone.__name__}"}
            self.config.auto_map = {**getattr(self.config, "auto_map", {}), **entry}
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            share_weights(save_directory)

    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer saved with the model, of the same revision, loaded once."""
        if self._tokenizer is None:
            if self._source is None:
                raise ValueError("this model was not loaded from a folder, so it has no tokenizer: pass tokenizer=")
            name, options = self._source
            # with the config at hand, the code that it came with need not be trusted again
            self._tokenizer = load_tokenizer(name, config=self.config, **options)
        assert self._tokenizer is not None
        return self._tokenizer

    def language_model_loss(
        self, logits_BLV: Tensor, labels: Tensor, num_labels: Tensor, kwargs: dict[str, Any]
    ) -> Tensor:
        """transformers' loss of this class (shifted for causal models), summed and divided by `num_items_in_batch` if
        the caller gives it, else by `num_labels`; without any label an attached zero instead of its NaN."""
        if kwargs.get("num_items_in_batch") is None:
            kwargs = {**kwargs, "num_items_in_batch": num_labels.clamp_min(1)}
        return self.loss_function(logits=logits_BLV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)


def keep_logits(hidden_BLD: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The rows whose logits are wanted: the last `logits_to_keep` (0 is all), or those a tensor of indices names."""
    if isinstance(logits_to_keep, int):
        return hidden_BLD[:, -logits_to_keep:] if logits_to_keep else hidden_BLD
    return hidden_BLD[:, logits_to_keep]
