"""A dialogue language model on BERT weights: all turns in one sequence, and the MLM head predicts the next token.

Source: Su, kexue.fm/archives/7718 (NEZHA and speaker ids in the token types, bojone/nezha_gpt_dialog); DialoGPT
(arXiv 1911.00536); CDial-GPT (arXiv 2008.03946). The layouts of the three are in `_dialogue`.

Shapes: B batch, L new tokens, S cached and new tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from inspect import get_annotations
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# some because transformers before 5.17 copies from a folder only what this file names
from ._attention import SelfAttention  # noqa: F401
from ._cache import RoomyLayer  # noqa: F401
from ._configuration import BackboneConfig  # noqa: F401
from ._decoding import decoding_weights
from ._devices import to_device  # noqa: F401
from ._dialogue import extend_speaker_types, speaker_types
from ._dropout import dropout  # noqa: F401
from ._file_modes import share_weights
from ._generation import (
    left_pad_prompt,
    num_prompt_slots,
    prompt_length_must_fit,
    prompt_of,
    remember_move,
    setting,
    take_prompt,
)
from ._linear_attention import refuse_packed
from ._masks import causal_mask
from ._matmul import fast_matmul
from ._oldest import OLDEST  # noqa: F401
from ._position_kinds import POSITIONS, keys_counted
from ._positions import count_positions, document_ids, training_positions
from ._self_terminating import add_self_termination
from ._tokenizer_files import HUB_OPTIONS  # noqa: F401
from ._transformer import (
    BACKBONE_IGNORES,
    BackbonePreTrainedModel,
    Embeddings,
    Encoder,
    MLMHead,
    MLMHeadPreTrainedModel,
    keep_logits,
    num_cached,
)
from ._versions import CACHE, SAVE_KEYWORDS, cache_field, one_cache, refuse_unknown, take_cache
from .configuration_dialogpt import DialoGPTConfig

logger = logging.get_logger(__name__)


class DialoGPTPreTrainedModel(BackbonePreTrainedModel):
    config: DialoGPTConfig
    config_class = DialoGPTConfig

    @property
    def _supports_flash_attn(self) -> bool:
        config = self.config
        # random positions would look like packed rows to it
        differs = config.attention_window is not None or config.is_linear or config.random_positions is not None
        return POSITIONS[config.position_embedding_type].flash and not differs


class DialoGPTModel(DialoGPTPreTrainedModel):
    """The backbone without head. See `DialoGPTForCausalLM` for the arguments of `forward`."""

    _keys_to_ignore_on_load_unexpected = BACKBONE_IGNORES

    def __init__(self, config: DialoGPTConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, is_causal=True)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        refuse_unknown(type(self).__name__, kwargs)
        cache = one_cache(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give DialoGPT either input_ids or inputs_embeds")
        documents = document_ids(position_ids, attention_mask, cache)
        if documents is not None:
            attention_mask = None  # of ones
        if token_type_ids is None:
            token_type_ids = self._default_token_types(input_ids, inputs_embeds, cache, documents)
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        num_new, device = inputs_embeds.shape[1], inputs_embeds.device
        config, mask = self.config, None
        if config.is_linear:
            refuse_packed(documents)
        else:  # before a cache is made, with which transformers would not look for documents
            mask = causal_mask(config, inputs_embeds, attention_mask, cache, position_ids, documents)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = count_positions(attention_mask, num_cached(cache), num_new, device)
        num_visible = keys_counted(config, position_ids, attention_mask, documents, None)
        batch_size = inputs_embeds.shape[0]
        position_ids = training_positions(position_ids, batch_size, config.random_positions, self.training, cache)
        hidden_BLD = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        counted: dict[str, Any] = {"padding_mask": attention_mask, "num_visible": num_visible}
        hidden_BLD = self.encoder(hidden_BLD, mask, position_ids, cache=cache, **counted, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=hidden_BLD, **cache_field(cache if use_cache else None))

    def _default_token_types(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        cache: Cache | None,
        documents: Tensor | None,
    ) -> Tensor:
        if self.config.layout != "blog":
            new = inputs_embeds if input_ids is None else input_ids
            assert new is not None
            return torch.zeros(new.shape[:2], dtype=torch.long, device=new.device)
        if input_ids is None or (cache is not None and cache.get_seq_length() > 0):
            raise ValueError(
                "the blog layout keeps speakers in token_type_ids; embeddings or tokens on top of a cache do not tell "
                "whose turn it is, so pass token_type_ids"
            )
        return speaker_types(input_ids, self.config.turn_end_id, documents)


class DialoGPTForCausalLM(DialoGPTPreTrainedModel, MLMHeadPreTrainedModel, GenerationMixin):
    """The dialogue model with BERT's MLM head, for `generate()`, `suzoo.decoding.ChatSession` and chat templates."""

    def __init__(self, config: DialoGPTConfig) -> None:
        super().__init__(config)
        self.bert = DialoGPTModel(config)
        self.cls = MLMHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, and the language model loss.

        Args:
            input_ids: (B, L) new tokens.
            attention_mask: (B, S) 1 for tokens, 0 for padding on either side, over cached and new tokens.
            token_type_ids: (B, L) speakers in the blog layout, where they default to what the [SEP] of `input_ids` say
                with speaker 0 first; 0 in the other layouts.
            position_ids: (B, L), default counts tokens without padding. Without mask and cache, documents packed into a
                row start where they do not go on, and do not see each other.
            past_key_values, cache: a dynamic or static cache, under the older or the newer name.
            inputs_embeds: (B, L, D) instead of `input_ids`.
            labels: (B, L) token ids, shifted inside; -100 is ignored.
            logits_to_keep: compute the last so many logits only; 0 is all.
            kwargs: `COMMON_KEYWORDS`, such as `num_items_in_batch`, by which the summed loss is then divided instead
                of the number of labels; any other name is a TypeError.
        """
        outputs = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=False if labels is not None else use_cache,
            **kwargs,
        )
        logits_BLV = self.cls(keep_logits(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.language_model_loss(logits_BLV, labels, (labels[:, 1:] != -100).sum(), kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BLV,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **cache_field(outputs.get(CACHE)),
        )

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, generation_config=None, *args: Any, **kwargs: Any):
        """transformers' `generate`, with right padding turned into left padding, also in the returned prompt.

        In the blog layout the reply gets the speaker whose turn it is: after a [SEP] the other one. Token types that
        are all zero are what tokenizers write, not speakers, and are made from the [SEP]s, too.

        Raises:
            ValueError: the reply cannot fit behind the prompt.
        """
        configs = (generation_config, self.generation_config)
        take_prompt(inputs, kwargs, setting("bos_token_id", kwargs, *configs), self.device)
        cache = take_cache(kwargs)
        num_past = 0 if cache is None else int(cache.get_seq_length())
        move = left_pad_prompt(kwargs, num_past, *configs)
        prompt_length_must_fit(kwargs, setting("max_new_tokens", kwargs, *configs), self.config)
        add_self_termination(kwargs, self.config, setting("eos_token_id", kwargs, *configs))
        if self.config.layout == "blog":
            input_ids, types = kwargs.get("input_ids"), kwargs.get("token_type_ids")
            if input_ids is None:
                raise ValueError("the blog layout reads from the [SEP]s of input_ids whose turn it is: pass input_ids")
            if types is None or not types.any():
                kwargs["token_type_ids"] = speaker_types(input_ids, self.config.turn_end_id)
        prompt = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        with prompt_of(0 if prompt is None else prompt.shape[1]), fast_matmul(self.device), decoding_weights(self):
            output = super().generate(None, generation_config, *args, **kwargs)  # ty: ignore[invalid-argument-type]  (self)
        if num_past == 0:
            remember_move(output, cache, move)
        return output

    def prepare_inputs_for_generation(self, input_ids, *args: Any, inputs_embeds=None, **kwargs: Any):
        num_given = num_prompt_slots()
        if num_given is not None and self.config.layout == "blog":
            # behind the prompt transformers repeats the last type; a [SEP] hands over to the other speaker
            given_BP = kwargs["token_type_ids"][:, :num_given]
            kwargs["token_type_ids"] = extend_speaker_types(input_ids, given_BP, self.config.turn_end_id)
        return super().prepare_inputs_for_generation(  # ty: ignore[invalid-argument-type]
            input_ids, *args, inputs_embeds=inputs_embeds, **kwargs
        )

    @staticmethod
    def create_masks_for_generate(
        config, inputs_embeds, attention_mask, past_key_values=None, *, cache=None, **kwargs: Any
    ):
        """The mask a static cache needs before the compiled forward; transformers would leave the window out."""
        if config.is_linear:
            return attention_mask
        return causal_mask(config, inputs_embeds, attention_mask, cache if past_key_values is None else past_key_values)

    def save_pretrained(self, save_directory, *args: Any, **kwargs: Any) -> None:
        """Save through the widest door that is open, and log which one it is.

        With absolute positions and speakers in the text the folder is a stock `BertLMHeadModel`, which anybody opens as
        `AutoModelForCausalLM` without a flag. Else (blog layout, other positions or attention, pre-norm, a rule
        that ends texts) it carries its code and opens with `trust_remote_code=True`, or without where suzoo is
        imported.
        """
        refuse_unknown("save_pretrained", kwargs, SAVE_KEYWORDS)
        if not self.config.is_stock:
            logger.warning("saved with its code: opens with trust_remote_code=True, or where suzoo.models is imported")
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        logger.info("saved as a stock BertLMHeadModel: it opens as AutoModelForCausalLM without a flag")
        with torch.device("meta"):
            stock = BertLMHeadModel(self.stock_config()).to(self.dtype)  # its config.json tells in what to load
        stock.generation_config = self.generation_config
        state_dict = kwargs.pop("state_dict", None)
        stock.save_pretrained(save_directory, *args, state_dict=state_dict or self.state_dict(), **kwargs)
        if kwargs.get("is_main_process", True):
            share_weights(save_directory)

    def stock_config(self) -> BertConfig:
        """The configuration of the stock model that computes the same; it remembers the layout."""
        fields: dict[str, Any] = {"is_decoder": True, "layout": self.config.layout}
        for name in get_annotations(BertConfig).keys() & vars(self.config).keys() - fields.keys():
            fields[name] = getattr(self.config, name)
        return BertConfig(**fields)
