"""UniLM sequence-to-sequence: one BERT whose attention mask lets the source see itself and the target see its past.

Source: Su, kexue.fm/archives/6933 ("from language models to Seq2Seq"); the mask is that of UniLM (arXiv 1905.03197),
the pre-training is not: weights come from any masked language model, whole head included.

    tokens            [CLS] s1 … sm [SEP] t1 … tn [SEP]
    token_type_ids      0   0  …  0   0   1  …  1   1      0 is source, 1 is target
    labels            the target and its [SEP]; the source's [SEP] predicts t1

Shapes: B batch, L new tokens, S cached and new tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, Cache, DynamicCache, PreTrainedTokenizerBase
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# some because transformers before 5.17 copies from a folder only what this file names
from ._attention import SelfAttention  # noqa: F401
from ._cache import RoomyLayer  # noqa: F401
from ._configuration import BackboneConfig  # noqa: F401
from ._decoding import decoding_weights
from ._devices import to_device  # noqa: F401
from ._dropout import dropout  # noqa: F401
from ._file_modes import share_weights  # noqa: F401
from ._generation import (
    left_pad_prompt,
    num_prompt_slots,
    prompt_length_must_fit,
    prompt_of,
    remember_move,
    rules_count_the_target,
    setting,
    take_prompt,
)
from ._linear_attention import refuse_packed
from ._masks import prefix_mask
from ._matmul import fast_matmul
from ._modes import evaluating
from ._oldest import OLDEST  # noqa: F401
from ._position_kinds import keys_counted
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
from ._versions import CACHE, cache_field, one_cache, refuse_unknown, take_cache
from .configuration_unilm import UniLMConfig


class UniLMPreTrainedModel(BackbonePreTrainedModel):
    config: UniLMConfig
    config_class = UniLMConfig
    # flash kernels know causal and full attention only and would ignore the prefix
    _supports_flash_attn = False


class UniLMModel(UniLMPreTrainedModel):
    """The backbone without head. See `UniLMForCausalLM` for the arguments of `forward`."""

    _keys_to_ignore_on_load_unexpected = BACKBONE_IGNORES

    def __init__(self, config: UniLMConfig) -> None:
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
            raise ValueError("give UniLM either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        batch_size, num_new = inputs_embeds.shape[:2]
        device = inputs_embeds.device
        if token_type_ids is None:
            if input_ids is None:
                raise ValueError(
                    "UniLM got embeddings without token_type_ids, as from peft's prompt tuning and p-tuning; it would "
                    "silently become a causal model. Pass token_type_ids (0 source, 1 target), or tune with LoRA"
                )
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError(
                    "UniLM got a filled cache without token_type_ids, as peft's prefix tuning does; the source would "
                    "silently turn into target. Pass token_type_ids (0 source, 1 target), or tune with LoRA"
                )
            token_type_ids = torch.ones(batch_size, num_new, dtype=torch.long, device=device)
        documents = document_ids(position_ids, attention_mask, cache)
        if documents is not None:
            attention_mask = None  # of ones
        config, is_source, mask = self.config, token_type_ids == 0, None
        if config.is_linear:
            refuse_packed(documents)
        else:  # before a cache is made, with which transformers would not look for documents
            mask = prefix_mask(config, inputs_embeds, attention_mask, is_source, cache, position_ids, documents)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = count_positions(attention_mask, num_cached(cache), num_new, device)
        num_visible = keys_counted(config, position_ids, attention_mask, documents, is_source)
        position_ids = training_positions(position_ids, batch_size, config.random_positions, self.training, cache)

        hidden_BLD = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        counted: dict[str, Any] = {"padding_mask": attention_mask, "num_visible": num_visible, "is_source": is_source}
        hidden_BLD = self.encoder(hidden_BLD, mask, position_ids, cache=cache, **counted, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=hidden_BLD, **cache_field(cache if use_cache else None))


class UniLMForCausalLM(UniLMPreTrainedModel, MLMHeadPreTrainedModel, GenerationMixin):
    """UniLM with BERT's MLM head, for `generate()` from a source, `[CLS] source [SEP]`.

    Any BERT folder with its MLM head loads; where all tokens are source it computes what `BertForMaskedLM` does.
    """

    def __init__(self, config: UniLMConfig) -> None:
        super().__init__(config)
        self.bert = UniLMModel(config)
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
        """Logits of the next token, and the loss on the target.

        Args:
            input_ids: (B, L) new tokens.
            attention_mask: (B, S) 1 for tokens, 0 for padding on either side, over cached and new tokens; or a mask
                with four dimensions as the attention implementation wants it.
            token_type_ids: (B, L) 0 source, 1 target. Default: all target, that is a causal language model. What
                follows a filled cache is target.
            position_ids: (B, L), default counts tokens without padding. Without mask and cache, pairs of source and
                target packed into a row start where they do not go on, and do not see each other.
            past_key_values, cache: a dynamic or static cache, under the older or the newer name.
            inputs_embeds: (B, L, D) instead of `input_ids`.
            labels: (B, L) token ids, shifted inside; -100 is ignored, and so are labels on source tokens, because their
                predecessors see them.
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
            if token_type_ids is not None:
                labels = self._labels_of_target(labels, token_type_ids, kwargs)
            loss = self.language_model_loss(logits_BLV, labels, (labels[:, 1:] != -100).sum(), kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BLV,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **cache_field(outputs.get(CACHE)),
        )

    @staticmethod
    def _labels_of_target(labels: Tensor, token_type_ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """`labels` without those of source tokens, also without them in the count `num_items_in_batch` of `kwargs`."""
        targets = labels.masked_fill(token_type_ids == 0, -100)
        if kwargs.get("num_items_in_batch") is None:
            return targets
        num_given, num_left = (int((some[:, 1:] != -100).sum()) for some in (labels, targets))
        num_items = int(kwargs["num_items_in_batch"])
        # a smaller number did not count these labels, but something else
        if num_given == num_left or num_items < num_given:
            return targets
        num_unshifted = int((labels != -100).sum())  # what the Trainer counts before transformers 5.10
        if num_items not in (num_given, num_unshifted):
            raise ValueError(
                f"{num_given - num_left} labels lie on source tokens, where UniLM learns nothing, and "
                "num_items_in_batch counts those of several batches: set labels to -100 where token_type_ids are 0"
            )
        kwargs["num_items_in_batch"] = max(num_left, 1)
        return targets

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, generation_config=None, *args: Any, **kwargs: Any):
        """transformers' `generate`, where the prompt is the source and what is generated is the target.

        Token types may be left out: a prompt is source. Tokens on top of a filled cache are target, whatever their
        type: what the cache holds has not seen them, so they cannot be source any more. Right padding is turned into
        left padding, also in the returned prompt. `no_repeat_ngram_size`, `repetition_penalty` and `min_length` count
        the target alone; `max_length` counts the source, too, as in transformers.

        Raises:
            ValueError: `prefill_chunk_size` is set (the source must be read in one piece to see itself), or the target
                cannot fit behind the source.
        """
        configs = (generation_config, self.generation_config)
        if setting("prefill_chunk_size", kwargs, *configs) is not None:
            raise ValueError(
                "prefill_chunk_size would read the source in pieces that cannot see what follows them; leave it out"
            )
        take_prompt(inputs, kwargs, setting("bos_token_id", kwargs, *configs), self.device)
        prompt = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        cache, move = take_cache(kwargs), None
        num_past = 0 if cache is None else int(cache.get_seq_length())
        if prompt is not None:
            if kwargs.get("token_type_ids") is None:
                kwargs["token_type_ids"] = torch.zeros(prompt.shape[:2], dtype=torch.long, device=prompt.device)
            move = left_pad_prompt(kwargs, num_past, *configs)
            prompt_length_must_fit(kwargs, setting("max_new_tokens", kwargs, *configs), self.config)
        add_self_termination(kwargs, self.config, setting("eos_token_id", kwargs, *configs))
        num_source = num_past or (0 if prompt is None else prompt.shape[1])
        # of embeddings alone, generate() shows the new tokens only
        rules_count_the_target(kwargs, 0 if kwargs.get("input_ids") is None else num_source, *configs)
        with prompt_of(num_source), fast_matmul(self.device), decoding_weights(self):
            output = super().generate(None, generation_config, *args, **kwargs)  # ty: ignore[invalid-argument-type]  (self)
        if num_past == 0:
            remember_move(output, cache, move)
        return output

    def generate_texts(
        self,
        sources: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 16,
        max_source_tokens: int | None = None,
        **generation: Any,
    ) -> list[str]:
        """The target of each source, as title, summary or answer: what `generate` writes, as text.

        Args:
            sources: N texts.
            tokenizer: default the one saved with the model.
            batch_size: sources per call, taken in order of length.
            max_source_tokens: longer sources are cut at their end; default what fits beside `max_new_tokens`.
            generation: what `generate` takes, such as `num_beams` or `max_new_tokens`; lengths count the target alone.

        Raises:
            ValueError: one text instead of a list; a setting that asks for something else than one text per source.
        """
        if isinstance(sources, str):
            raise ValueError("sources is a list of texts; put the one text into a list")
        configs = (generation.get("generation_config"), self.generation_config)
        if (setting("num_return_sequences", generation, *configs) or 1) > 1:
            raise ValueError(
                "generate_texts writes one text per source: repeat the sources, with do_sample=True, instead of "
                "num_return_sequences, or call generate"
            )
        if setting("return_dict_in_generate", generation, *configs):
            raise ValueError("generate_texts returns texts: for scores and attentions call generate")
        if setting("max_length", generation, *configs[:1]) is not None:
            raise ValueError("max_length counts the source, too: give generate_texts max_new_tokens")
        tokenizer = tokenizer or self._own_tokenizer()
        if max_source_tokens is None:
            max_new = setting("max_new_tokens", generation, *configs)
            max_source_tokens = self.config.max_position_embeddings - (max_new or 32)
        encodings = [
            tokenizer(source, truncation=True, max_length=max_source_tokens, split_special_tokens=True)
            for source in sources
        ]
        order = sorted(range(len(sources)), key=lambda row: len(encodings[row]["input_ids"]))
        targets = [""] * len(sources)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch: BatchEncoding = tokenizer.pad(
                [encodings[row] for row in rows], padding_side="left", return_tensors="pt"
            )
            with evaluating(self):
                output = self.generate(**batch.to(self.device), **generation)
            new_tokens = output[:, batch["input_ids"].shape[1] :]
            for row, text in zip(rows, tokenizer.batch_decode(new_tokens, skip_special_tokens=True), strict=True):
                targets[row] = text
        return targets

    def prepare_inputs_for_generation(self, input_ids, *args: Any, inputs_embeds=None, **kwargs: Any):
        num_source = num_prompt_slots()
        if num_source is not None and kwargs.get("token_type_ids") is not None:
            # behind the prompt transformers repeats the last type, which is source
            kwargs["token_type_ids"] = kwargs["token_type_ids"].clone()
            kwargs["token_type_ids"][:, num_source:] = 1
        return super().prepare_inputs_for_generation(  # ty: ignore[invalid-argument-type]
            input_ids, *args, inputs_embeds=inputs_embeds, **kwargs
        )

    @staticmethod
    def create_masks_for_generate(
        config,
        inputs_embeds,
        attention_mask,
        past_key_values=None,
        *,
        token_type_ids: Tensor,
        cache=None,
        **kwargs: Any,
    ):
        """The mask a static cache needs before the compiled forward; transformers would make a causal one. `kwargs` are
        what transformers passes for the masks of others."""
        if config.is_linear:
            return attention_mask
        cache = one_cache(cache, past_key_values)
        assert cache is not None, "transformers asks for this mask only where there is a static cache"
        return prefix_mask(config, inputs_embeds, attention_mask, token_type_ids == 0, cache)
