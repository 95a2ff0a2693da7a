"""T-TA: a masked language model that predicts every token from all others in one pass, without masking.

Source: Shin et al., "Fast and Accurate Deep Bidirectional Language Representations" (ACL 2020, arXiv 2004.08097, code
joongbo/tta); Su, kexue.fm/archives/7661. Two things keep a token from seeing itself: the diagonal of the attention is
masked, and keys and values of every layer come from the input embeddings. With the mask alone, the output of layer one
at another position already holds the token, and layer two would read it back.

    memory    LayerNorm(token + type + position), once          keys and values of every layer
    queries   LayerNorm([MASK]  + type + position)              the only stream with residuals
    logits    BERT's MLM head on the last queries: row i is the distribution of token i given all others

Departure from the authors' code: token types are added in both streams, as BERT's weights expect; they do not depend on
the token.

Shapes: B batch, L tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# some because transformers before 5.17 copies from a folder only what this file names
from ._attention import SelfAttention  # noqa: F401
from ._cache import RoomyLayer  # noqa: F401
from ._configuration import BackboneConfig  # noqa: F401
from ._decoding import decoding_product  # noqa: F401
from ._devices import to_device  # noqa: F401
from ._dropout import dropout  # noqa: F401
from ._file_modes import share_weights  # noqa: F401
from ._linear_attention import refuse_packed
from ._masks import off_diagonal_mask
from ._matmul import fast_matmul  # noqa: F401
from ._modes import evaluating
from ._oldest import OLDEST  # noqa: F401
from ._position_kinds import keys_counted
from ._positions import count_positions, document_ids, training_positions
from ._spelling import confusions, same_script
from ._tokenizer_files import HUB_OPTIONS  # noqa: F401
from ._transformer import (
    BACKBONE_IGNORES,
    BackbonePreTrainedModel,
    Embeddings,
    Encoder,
    MLMHead,
    MLMHeadPreTrainedModel,
)
from ._versions import refuse_unknown
from .configuration_tta import TTAConfig


class TTAPreTrainedModel(BackbonePreTrainedModel):
    config: TTAConfig
    config_class = TTAConfig
    # flash kernels know causal and full attention only and would let a token see itself
    _supports_flash_attn = False


class TTAModel(TTAPreTrainedModel):
    """The backbone without head. See `TTAForMaskedLM` for the arguments of `forward`."""

    _keys_to_ignore_on_load_unexpected = BACKBONE_IGNORES

    def __init__(self, config: TTAConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, is_causal=False)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        refuse_unknown(type(self).__name__, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give T-TA either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        batch_size, num_tokens = inputs_embeds.shape[:2]
        if token_type_ids is None:
            token_type_ids = torch.zeros(batch_size, num_tokens, dtype=torch.long, device=inputs_embeds.device)
        documents = document_ids(position_ids, attention_mask, None)
        if documents is not None:
            documents = documents.expand(batch_size, -1)
        if position_ids is None:
            position_ids = count_positions(attention_mask, 0, num_tokens, inputs_embeds.device)
        sees_all = torch.ones(batch_size, num_tokens, dtype=torch.bool, device=inputs_embeds.device)
        num_visible = keys_counted(self.config, position_ids, attention_mask, documents, sees_all)
        if num_visible is not None:
            num_visible = num_visible - 1  # all but itself
        drawn = self.config.random_positions
        position_ids = training_positions(position_ids, batch_size, drawn, self.training, None)

        if self.config.is_linear:
            refuse_packed(documents)
            mask = None
        else:
            mask = off_diagonal_mask(self.config, inputs_embeds, attention_mask, documents)
        memory_BLD = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        query_BLD = None
        if self.config.query_init == "mask":
            mask_id, num_embeddings = self.config.mask_token_id, self.config.vocab_size
            assert mask_id is not None
            if mask_id >= num_embeddings:
                raise ValueError(
                    f"mask_token_id {mask_id} is outside the {num_embeddings} tokens to which the embeddings were cut: "
                    "queries start from [MASK], so keep it and set config.mask_token_id"
                )
            # the module and not its weight: quantizers and adapters put others in its place
            mask_ids = torch.full((), mask_id, device=inputs_embeds.device)
            query_BLD = self.embeddings.word_embeddings(mask_ids).expand_as(memory_BLD)
        query_BLD = self.embeddings(query_BLD, token_type_ids, position_ids)
        hidden_BLD = self.encoder(
            query_BLD,
            mask,
            position_ids,
            memory_BSD=memory_BLD,
            padding_mask=attention_mask,
            num_visible=num_visible,
            **kwargs,
        )
        return BaseModelOutput(last_hidden_state=hidden_BLD)


class Suggestion(NamedTuple):
    """A correction: `text[start:end]` was `original` and is more likely `replacement`, by `gain` nats."""

    start: int
    end: int
    original: str
    replacement: str
    gain: float


class TokenScore(NamedTuple):
    """`text[start:end]` has the log-probability `log_prob`, in nats, given all other tokens."""

    start: int
    end: int
    text: str
    log_prob: float


class TTAForMaskedLM(TTAPreTrainedModel, MLMHeadPreTrainedModel):
    """T-TA with BERT's MLM head. Any BERT folder with its MLM head loads, as a start for training.

    `score`, `encode`, `suggest` and `rerank` take a tokenizer or load the one saved with the model. "[SEP]" or "[MASK]"
    in their texts is text, as in training.
    """

    def __init__(self, config: TTAConfig) -> None:
        super().__init__(config)
        self.bert = TTAModel(config)
        self.cls = MLMHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits of every token given all others, and the mean cross-entropy of `labels`.

        Args:
            input_ids: (B, L), nothing masked; what stands at i has no influence on row i.
            attention_mask: (B, L) 1 for tokens, 0 for padding on either side.
            token_type_ids: (B, L), default 0.
            position_ids: (B, L), default counts tokens without padding.
            inputs_embeds: (B, L, D) instead of `input_ids`.
            labels: (B, L) token ids, usually `input_ids`; -100 is ignored.
            kwargs: `COMMON_KEYWORDS`, such as `num_items_in_batch`, by which the summed loss is then divided instead
                of the number of labels; any other name is a TypeError. The authors divide by B * L, padding included:
                pass `labels.numel()` for that.

        A token alone in its row has no key to read: its attention is zero, and its logits come from the query.
        """
        outputs = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits_BLV = self.cls(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.language_model_loss(logits_BLV, labels, (labels != -100).sum(), kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits_BLV, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @torch.no_grad()
    def score(
        self,
        texts: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
        per_token: bool = False,
        return_counts: bool = False,
    ) -> Any:  # the scores, with return_counts also the counts
        """Pseudo-log-likelihood of each text in one pass: the sum of log p(token | all others), in nats.

        [CLS], [SEP] and padding are context and are not scored. Equal to masking one token after the other, because row
        i never depends on token i. A text without tokens scores 0.

        Args:
            texts: N texts; longer ones than the model are cut at its end.
            tokenizer: default the one saved with the model.
            batch_size: texts per forward, taken in order of length.
            per_token: divide by the number of scored tokens.
            return_counts: also return (N,) numbers of scored tokens.

        Returns:
            (N,) float32 on the CPU, in the order of `texts`.
        """
        scores_N, counts_N = torch.zeros(len(texts)), torch.zeros(len(texts), dtype=torch.long)
        for rows, batch, scored_BL in self._batches(texts, tokenizer, batch_size):
            with evaluating(self):
                log_probs_BLV = self(**batch).logits.float().log_softmax(-1)
            log_probs_BL = log_probs_BLV.gather(-1, batch["input_ids"][..., None])[..., 0]
            total_B = (log_probs_BL * scored_BL).sum(-1)
            scores_N[rows] = (total_B / scored_BL.sum(-1).clamp_min(1) if per_token else total_B).cpu()
            counts_N[rows] = scored_BL.sum(-1).long().cpu()
        return (scores_N, counts_N) if return_counts else scores_N

    @torch.no_grad()
    def score_tokens(self, text: str, *, tokenizer: PreTrainedTokenizerBase | None = None) -> list[TokenScore]:
        """log p(token | all others) of each token of one text, in its order; their sum is what `score` gives.

        Args:
            text: a longer one than the model is cut at its end.
            tokenizer: a fast tokenizer, default the one saved with the model.
        """
        encoding, log_probs_LV = self._read(text, tokenizer or self._own_tokenizer())
        rows = zip(encoding["input_ids"], encoding["special_tokens_mask"], encoding["offset_mapping"], strict=True)
        return [
            TokenScore(start, end, text[start:end], float(log_probs_LV[place, token_id]))
            for place, (token_id, special, (start, end)) in enumerate(rows)
            if not special
        ]

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase | None = None, batch_size: int = 32
    ) -> Tensor:
        """Sentence vectors (N, D), float32 on the CPU: the mean of the last hidden states without [CLS] and [SEP], as
        the authors compare by cosine on STS. A text without tokens is the zero vector."""
        vectors_ND = torch.zeros(len(texts), self.config.hidden_size)
        for rows, batch, scored_BL in self._batches(texts, tokenizer, batch_size):
            with evaluating(self):
                hidden_BLD = self.bert(**batch).last_hidden_state.float()
            total_BD = (hidden_BLD * scored_BL[..., None]).sum(1)
            vectors_ND[rows] = (total_BD / scored_BL.sum(-1, keepdim=True).clamp_min(1)).cpu()
        return vectors_ND

    @torch.no_grad()
    def suggest(
        self,
        text: str,
        *,
        confusion: Mapping[str, Iterable[str]] | None = None,
        error_rate: float = 0.01,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[Suggestion]:
        """Spelling corrections of single tokens by a noisy channel, in the order of the text.

        The prior of a token is T-TA's distribution given all others (the other errors included). The channel keeps a
        token with probability 1 - `error_rate` and else writes one of its confusions, all equally likely. A
        replacement is suggested where its posterior exceeds that of what is written.

        Args:
            text: one sentence.
            confusion: for a token what it may have been meant to be, say characters of the same sound. Without it,
                every token of the same script; words stay words and continuations (##) stay continuations.
            error_rate: between 0 and 1, how often a token is wrong. Lower is more careful.
            tokenizer: a fast tokenizer, default the one saved with the model.
        """
        if not 0 < error_rate < 1:
            raise ValueError(f"error_rate is a probability between 0 and 1, not {error_rate}")
        tokenizer = tokenizer or self._own_tokenizer()
        encoding, log_probs_LV = self._read(text, tokenizer)
        suggestions = []
        for place, (token_id, special) in enumerate(
            zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True)
        ):
            if special:
                continue
            if confusion is None:
                candidates = same_script(token_id, tokenizer, self.config.vocab_size)
            else:
                candidates = confusions(token_id, tokenizer, confusion)
            if len(candidates) == 0:
                continue
            log_probs = log_probs_LV[place, candidates]
            best = int(log_probs.argmax())
            # log of: p(best) p(written | meant best) / (p(written) p(written | meant written))
            channel = torch.tensor(error_rate / (1 - error_rate) / len(candidates)).log()
            gain = float(log_probs[best] - log_probs_LV[place, token_id] + channel)
            if gain > 0:
                start, end = encoding["offset_mapping"][place]
                replacement = str(tokenizer.convert_ids_to_tokens(int(candidates[best]))).removeprefix("##")
                suggestions.append(Suggestion(start, end, text[start:end], replacement, gain))
        return suggestions

    def rerank(
        self,
        hypotheses: Sequence[str],
        *,
        scores: Sequence[float] | None = None,
        weight: float = 1.0,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
    ) -> list[int]:
        """Order of an n-best list, best first: indices by `scores + weight * pseudo-log-likelihood`.

        Args:
            hypotheses: N texts for one input.
            scores: N scores of the system that made them, larger is better; default 0.
            weight: of the pseudo-log-likelihood, tuned on held-out lists.
        """
        if scores is not None and len(scores) != len(hypotheses):
            raise ValueError(f"{len(hypotheses)} hypotheses, but {len(scores)} scores")
        total_N = weight * self.score(hypotheses, tokenizer=tokenizer, batch_size=batch_size)
        if scores is not None:
            total_N = total_N + torch.tensor(scores)
        return total_N.argsort(descending=True, stable=True).tolist()

    def _read(self, text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[BatchEncoding, Tensor]:
        """One text's tokens with their places in it, and (L, V) log-probabilities of each given all others."""
        encoding = tokenizer(
            text, truncation=True, max_length=self.config.max_position_embeddings, return_offsets_mapping=True,
            return_special_tokens_mask=True, split_special_tokens=True,
        )  # fmt: skip
        names = [name for name in ("input_ids", "token_type_ids") if name in encoding]
        inputs = {name: torch.tensor(encoding[name])[None].to(self.device) for name in names}
        with evaluating(self):
            return encoding, self(**inputs).logits[0].float().log_softmax(-1).cpu()

    def _batches(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None, batch_size: int
    ) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        """Rows, model inputs and (B, L) 1.0 for tokens to score, in batches of similar length."""
        if isinstance(texts, str):
            raise ValueError("texts is a list of texts; put the one text into a list")
        tokenizer = tokenizer or self._own_tokenizer()
        options = {"return_special_tokens_mask": True, "split_special_tokens": True}
        longest = self.config.max_position_embeddings
        encodings = [tokenizer(text, truncation=True, max_length=longest, **options) for text in texts]
        order = torch.tensor([len(encoding["input_ids"]) for encoding in encodings]).argsort(stable=True)
        for rows in order.split(batch_size) if texts else ():
            batch: BatchEncoding = tokenizer.pad([encodings[row] for row in rows], return_tensors="pt")
            batch = batch.to(self.device)
            scored_BL = (1 - batch.pop("special_tokens_mask")) * batch["attention_mask"]
            yield rows, dict(batch), scored_BL.float()
