"""CoSENT: a sentence encoder and a cross-encoder over any HuggingFace encoder.

Both wrap a stock encoder and save it under its own parameter names, so the folder also opens with stock classes and
with sentence-transformers. Source: kexue.fm/archives/8847 (encoder), 9341 (cross-encoder).
Shapes: B sentences, L padded tokens, T tokens of all sentences end to end, N sentences, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from ._batching import padded_groups, sorted_sentences, token_budget_batches
from ._modes import evaluating
from ._pooling import POOLINGS, without_prompt
from ._ragged import RAGGED_SDPA, ragged_layout
from ._sentence_files import (
    ST_POOLING,
    SentenceSettings,
    read_lengths,
    read_modules,
    read_prompts,
    read_settings,
    write_cross_encoder_settings,
    write_settings,
)
from ._stock_encoder import StockEncoderWrapper, check_texts, tokenize
from ._tokenizer_files import hub_options
from ._versions import refuse_unknown

logger = logging.get_logger(__name__)

# Encoders that compute every token on its own but for attention, take it through transformers' interface, and positions
# as an argument
RAGGED_ENCODERS = ("bert", "camembert", "distilbert", "electra", "ernie", "modernbert", "roberta", "xlm-roberta")


@dataclass
class SentenceEncoderOutput(ModelOutput):
    """last_hidden_state: (B, L, D), or (1, T, D) for flat input; sentence_embedding: (B, D), float32 at least."""

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CoSENTModel(StockEncoderWrapper):
    """Sentence encoder: `encode(texts)` gives one vector per text, compared by cosine.

    Args:
        config: config of any HuggingFace encoder; its weights are random. Use `from_pretrained` for a checkpoint.
        encoder: the encoder itself, instead of one made from `config`.
        pooling: "cls" (the article's choice), "mean", "last" (the last token, for encoders that read from left to
            right) or "first-last-avg" (mean of the first and last layer's states). All but the last one also open in
            sentence-transformers.
        normalize: whether `encode` normalises by default, as a Normalize module in the folder's modules.json says.
        prompts: texts put before an input, by name, as sentence-transformers keeps them.
        default_prompt_name: the prompt that `encode` uses when none is named.
        include_prompt: whether the tokens of a prompt count in the pooling, as `1_Pooling/config.json` says.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        encoder: PreTrainedModel | None = None,
        pooling: str = "cls",
        normalize: bool = False,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        super().__init__(config, encoder)
        self.pooling = pooling
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        pooler = getattr(self.encoder, "pooler", None)
        if pooler is not None:  # stock classes expect its weights in the folder, but no vector depends on them
            pooler.requires_grad_(False)
        if config.model_type in RAGGED_ENCODERS and config._attn_implementation == "sdpa":
            self.encoder.set_attn_implementation(RAGGED_SDPA)

    @property
    def ragged(self) -> bool:
        """True when flat input goes through the encoder without padding; else it is padded in length groups."""
        is_encoder = not getattr(self.config, "is_decoder", False)
        return self.config._attn_implementation == RAGGED_SDPA and is_encoder

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_seq_length: int | None = None,
        **kwargs,
    ) -> Any:  # the model, with output_loading_info also the info
        """Load any encoder: a folder or Hub name of a CoSENT model, a sentence-transformers model or a plain MLM.

        Args:
            pooling: overrides the folder's `1_Pooling/config.json`; without either it is "cls".
            normalize: overrides the Normalize module of the folder's `modules.json`.
            max_seq_length: tokens per text, overrides `sentence_bert_config.json`.
            kwargs: go to `AutoModel.from_pretrained` (dtype, revision, token, attn_implementation, ...).

        What sentence-transformers' side files say is honoured or refused. The tokenizer comes from the same revision.

        Raises:
            ValueError: encoder weights are missing, or the side files ask for a module, a pooling or a setting that is
                none of ours.
            OSError: a side file could not be read.
        """
        path = str(pretrained_model_name_or_path)
        with_info = kwargs.pop("output_loading_info", False)
        modules, subfolder = read_modules(path, kwargs)
        if modules and pooling is None and not any(module["type"].endswith(".Pooling") for module in modules):
            raise ValueError(f"modules.json of {path} names no Pooling: say which one by pooling=")
        inside = {"subfolder": "/".join(filter(None, [kwargs.get("subfolder"), subfolder]))} if subfolder else {}
        encoder, info = cls._load_encoder(path, kwargs | inside)
        options = hub_options(path, kwargs)
        saved = read_settings(path, modules, subfolder, options)
        model = cls(
            encoder.config,
            encoder,
            pooling=pooling or saved.pooling or "cls",
            normalize=saved.normalize if normalize is None else normalize,
            prompts=saved.prompts,
            default_prompt_name=saved.default_prompt_name,
            include_prompt=saved.include_prompt,
        )
        model._source = path, options | inside | {"trust_remote_code": bool(kwargs.get("trust_remote_code"))}
        model.do_lower_case = saved.do_lower_case
        model.max_seq_length = max_seq_length or model._within_positions(saved.max_seq_length)
        model.eval()
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory,
        *,
        state_dict: dict | None = None,
        tokenizer=None,
        with_code: bool = False,
        **kwargs,
    ) -> None:
        """One folder that opens as CoSENTModel, as the stock encoder, and in sentence-transformers.

        Args:
            save_directory: folder, made if need be.
            state_dict: weights to write instead of the model's own, with this class's key names.
            tokenizer: saved beside the weights; default is the tokenizer in use, if one was loaded or set.
            with_code: copy this class's code into the folder too, for users who have no suzoo but want `encode`: they
                open it by `AutoModel.from_pretrained(folder, trust_remote_code=True)`.
            kwargs: go to the encoder's `save_pretrained`.

        "first-last-avg" has no sentence-transformers form: such a folder gets no modules.json, and a warning says so.
        """
        folder = self._save_encoder(save_directory, state_dict, tokenizer, with_code, kwargs)
        if not kwargs.get("is_main_process", True):
            return
        names = ("pooling", "include_prompt", "normalize", "prompts", "default_prompt_name", "do_lower_case")
        settings = SentenceSettings(**{name: getattr(self, name) for name in names}, max_seq_length=self.max_seq_length)
        write_settings(folder, settings, self.config.hidden_size)
        if self.pooling not in ST_POOLING:
            logger.warning(f"{folder}: pooling {self.pooling} opens as CoSENTModel, not in sentence-transformers")

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        prompt_length: int = 0,
        **kwargs,
    ) -> SentenceEncoderOutput:
        """Token states and one vector per sentence.

        Args:
            input_ids: (B, L) padded on either side; or, with `lengths`, (T,) sentences end to end.
            attention_mask: (B, L), 1 for tokens; all ones when absent.
            token_type_ids: same shape as input_ids, for encoders that have them.
            lengths: tokens of each of the N sentences of a flat `input_ids`. Cheaper, and equal: nothing is padded
                but the attention (`ragged`), or else little is.
            prompt_length: tokens at the start of every sentence that the pooling leaves out, see `prompt_tokens`.
            kwargs: go to the encoder (output_attentions, output_hidden_states, inputs_embeds, ...).

        Returns:
            `SentenceEncoderOutput`, sentences in the order given.
        """
        refuse_unknown(type(self).__name__, kwargs, self._known_keywords)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        if lengths is not None:
            compute = self._forward_ragged if self.ragged else self._forward_groups
            return compute(input_ids, lengths, prompt_length, **kwargs)
        return self._forward_padded(input_ids, attention_mask, prompt_length, **kwargs)

    def _forward_padded(self, input_ids, attention_mask, prompt_length=0, **kwargs) -> SentenceEncoderOutput:
        first_last = self.pooling == "first-last-avg"
        if first_last:
            kwargs["output_hidden_states"] = True
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden = out.last_hidden_state
        mask = hidden.new_ones(hidden.shape[:2]) if attention_mask is None else attention_mask
        mask = without_prompt(mask, prompt_length)
        if first_last:
            hidden = (out.hidden_states[1] + out.hidden_states[-1]) / 2
        pooled = POOLINGS[self.pooling][0](hidden, mask)
        return SentenceEncoderOutput(out.last_hidden_state, pooled, out.get("hidden_states"), out.get("attentions"))

    def _forward_ragged(
        self, input_ids, lengths, prompt_length, token_type_ids=None, **kwargs
    ) -> SentenceEncoderOutput:
        order, sorted_lengths, tokens = sorted_sentences(input_ids, lengths)
        device = input_ids.device
        positions = np.arange(len(tokens)) - np.repeat(np.cumsum(sorted_lengths) - sorted_lengths, sorted_lengths)
        if self._positions_start_behind_padding:
            positions += self.config.pad_token_id + 1
        tokens_T = torch.from_numpy(tokens).to(device)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids.view(-1)[tokens_T][None]
        if (
            self.config.model_type == "modernbert"
        ):  # or it would build a (T, T) window mask; the ragged attention has its own
            kwargs["attention_mask"] = {"full_attention": None, "sliding_attention": None}
        if self.pooling == "first-last-avg":
            kwargs["output_hidden_states"] = True
        out = self.encoder(
            input_ids=input_ids.view(-1)[tokens_T][None],
            position_ids=torch.from_numpy(positions).to(device)[None],
            ragged=ragged_layout(sorted_lengths, device),
            return_dict=True,
            **kwargs,
        )
        hidden_TD = out.last_hidden_state[0]
        if self.pooling == "first-last-avg":
            hidden_TD = ((out.hidden_states[1] + out.hidden_states[-1]) / 2)[0]
        pooled = POOLINGS[self.pooling][1](hidden_TD, torch.from_numpy(sorted_lengths).to(device), prompt_length)
        in_given_order = torch.from_numpy(np.argsort(order)).to(device)
        token_order = torch.from_numpy(np.argsort(tokens)).to(device)
        return SentenceEncoderOutput(out.last_hidden_state[:, token_order], pooled[in_given_order])

    def _forward_groups(
        self, input_ids, lengths, prompt_length, token_type_ids=None, **kwargs
    ) -> SentenceEncoderOutput:
        rows, pooled, states, places = [], [], [], []
        for group, inputs, mask, flat in padded_groups(
            self.encoder, input_ids, token_type_ids, lengths, self.config.pad_token_id
        ):
            out = self._forward_padded(**inputs, prompt_length=prompt_length, **kwargs)
            assert out.last_hidden_state is not None
            rows.append(group)
            pooled.append(out.sentence_embedding)
            states.append(out.last_hidden_state[mask])
            places.append(flat)
        hidden_TD = torch.cat(states)[torch.cat(places).argsort()]
        return SentenceEncoderOutput(hidden_TD[None], torch.cat(pooled)[torch.cat(rows).argsort()])

    @torch.no_grad()  # not inference_mode: FSDP2 gathers weights that train on
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        tokenizer=None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        output: str = "numpy",
        max_length: int | None = None,
        batch_tokens: int = 2048,
        progress: bool = False,
        return_truncated: bool = False,
    ):
        """Vectors (N, D), float32, in the order of `texts`; a single text gives (D,).

        Repeated texts are computed once. Texts are batched by length, so no token budget is spent on padding.

        Args:
            tokenizer: default is the one of the model's folder.
            prompt_name: a name in `self.prompts`; `prompt`: the text itself. Default: `self.default_prompt_name`.
            normalize: unit length; default is `self.normalize`.
            output: "numpy", or "torch" for a tensor on the model's device.
            max_length: tokens per text, longer texts are cut.
            batch_tokens: tokens computed at once.
            return_truncated: also return (N,) int array, how many tokens each text lost to `max_length`.

        Raises:
            ValueError: unknown prompt name or output, not strings, max_length beyond the positions, no tokenizer.
        """
        if output not in ("numpy", "torch"):
            raise ValueError(f"output={output!r}: choose numpy or torch")
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        check_texts(texts)
        prompt = self.prompt_text(prompt_name, prompt)
        texts = self.as_read(texts, prompt)
        tokenizer = tokenizer or self.tokenizer
        prompt_length = self.prompt_tokens(tokenizer, prompt)
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids, truncated = tokenize(tokenizer, list(distinct), self._max_length(tokenizer, max_length), return_truncated)
        vectors = None
        lengths = [len(row) for row in ids]
        with evaluating(self), tqdm(total=len(ids), desc="encode", unit=" texts", disable=not progress) as bar:
            for rows in token_budget_batches(lengths, batch_tokens):
                flat = torch.tensor([token for row in rows for token in ids[row]], device=self.device)
                batch = self(flat, lengths=[lengths[row] for row in rows], prompt_length=prompt_length)
                batch = batch.sentence_embedding
                if vectors is None:
                    vectors = batch.new_empty(len(ids), batch.shape[1])
                vectors[torch.from_numpy(rows).to(self.device)] = batch
                bar.update(len(rows))
        if vectors is None:
            vectors = torch.empty(0, self.config.hidden_size, device=self.device)
        if self.normalize if normalize is None else normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        places = [distinct[text] for text in texts]
        vectors = vectors[places]
        result = (vectors.cpu().numpy() if output == "numpy" else vectors)[0 if single else slice(None)]
        return (result, truncated[places]) if return_truncated else result

    def prompt_tokens(self, tokenizer, prompt: str) -> int:
        """How many tokens of a text with this prompt in front the pooling leaves out: those of the prompt and what
        stands before it, where `include_prompt` is False."""
        if self.include_prompt or not prompt:
            return 0
        ids = tokenizer(self.as_read([prompt])[0])["input_ids"]
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)


class CoSENTCrossEncoder(StockEncoderWrapper):
    """Scores a pair of texts read together: `predict(pairs)`, `rank(query, documents)`.

    The folder is a stock sequence classifier of one label with an identity activation, so the score is the raw logit
    through every door; larger is more similar. Trained with `cosent_loss(..., scale=1)`.
    """

    _auto_model = AutoModelForSequenceClassification

    def __init__(self, config: PreTrainedConfig, encoder: PreTrainedModel | None = None):
        config.num_labels = 1
        config.problem_type = "regression"  # the text-classification pipeline then gives the score, not its sigmoid
        config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        super().__init__(config, encoder)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *, max_seq_length: int | None = None, **kwargs
    ) -> Any:  # the model, with output_loading_info also the info
        """Load a cross-encoder, or any encoder with a fresh head of one label, also a classifier of more labels.

        Args:
            max_seq_length: tokens per pair.
            kwargs: go to `AutoModelForSequenceClassification.from_pretrained`.

        What sentence-transformers' side files say is honoured or refused. The tokenizer comes from the same revision.

        Raises:
            ValueError: `num_labels` other than 1, encoder weights that are missing or do not fit, or side files that
                ask for what suzoo has not.
            OSError: a side file could not be read.
        """
        path = str(pretrained_model_name_or_path)
        with_info = kwargs.pop("output_loading_info", False)
        if kwargs.pop("num_labels", 1) != 1:
            raise ValueError("a cross-encoder has one label, its score: leave num_labels out, or train a classifier")
        if "config" in kwargs:
            kwargs["config"] = copy.deepcopy(kwargs["config"])
            kwargs["config"].num_labels = 1
        else:
            kwargs["num_labels"] = 1
        modules, subfolder = read_modules(path, kwargs)
        inside = {"subfolder": "/".join(filter(None, [kwargs.get("subfolder"), subfolder]))} if subfolder else {}
        # a head of more labels gives way to a fresh one
        encoder, info = cls._load_encoder(path, {**kwargs, **inside, "ignore_mismatched_sizes": True})
        options = hub_options(path, kwargs)
        model = cls(encoder.config, encoder)
        model._source = path, options | inside | {"trust_remote_code": bool(kwargs.get("trust_remote_code"))}
        model.prompts, model.default_prompt_name = read_prompts(path, options)
        saved_length, model.do_lower_case = read_lengths(path, modules, subfolder, options)
        model.max_seq_length = max_seq_length or model._within_positions(saved_length)
        model.eval()
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory,
        *,
        state_dict: dict | None = None,
        tokenizer=None,
        with_code: bool = False,
        **kwargs,
    ) -> None:
        """One folder that opens as CoSENTCrossEncoder, as a stock sequence classifier, and as `CrossEncoder`.

        Other libraries cut pairs at the tokenizer's `model_max_length`, so `max_seq_length` is saved as that. Arguments
        are those of `CoSENTModel.save_pretrained`.
        """
        folder = self._save_encoder(save_directory, state_dict, tokenizer, with_code, kwargs)
        if kwargs.get("is_main_process", True):
            write_cross_encoder_settings(folder, self.prompts, self.default_prompt_name)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """`logits` (B, 1). Input (B, L) padded; or, with `lengths`, (T,) pairs end to end, padded in length groups."""
        refuse_unknown(type(self).__name__, kwargs, self._known_keywords)
        if lengths is None:
            if token_type_ids is not None:
                kwargs["token_type_ids"] = token_type_ids
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        rows, logits = [], []
        for group, inputs, _, _ in padded_groups(
            self.encoder, input_ids, token_type_ids, lengths, self.config.pad_token_id
        ):
            logits.append(self.encoder(**inputs, return_dict=True, **kwargs).logits)
            rows.append(group)
        return SequenceClassifierOutput(logits=torch.cat(logits)[torch.cat(rows).argsort()])

    @torch.no_grad()  # not inference_mode: FSDP2 gathers weights that train on
    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        tokenizer=None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        output: str = "numpy",
        max_length: int | None = None,
        batch_tokens: int = 2048,
        progress: bool = False,
    ):
        """Scores (N,), float32, of (text1, text2) pairs in their order; options as in `CoSENTModel.encode`.

        Pairs come as a list, an iterator or an array (N, 2). Too long pairs are cut at the longer text. A prompt stands
        before the first text of every pair.
        """
        if output not in ("numpy", "torch"):
            raise ValueError(f"output={output!r}: choose numpy or torch")
        pairs = list(pairs)
        wrong = next(
            (
                i
                for i, pair in enumerate(pairs)
                if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2
            ),
            None,
        )
        if wrong is not None:
            raise ValueError(f"pair {wrong} is not (text1, text2): {pairs[wrong]!r}")
        tokenizer = tokenizer or self.tokenizer
        first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        check_texts(first)
        check_texts(second)
        first, second = self.as_read(first, self.prompt_text(prompt_name, prompt)), self.as_read(second)
        if not pairs:
            return np.zeros(0, np.float32) if output == "numpy" else torch.zeros(0, device=self.device)
        length = self._max_length(tokenizer, max_length)
        cut = {"truncation": "longest_first", "max_length": length} if length else {}
        inputs = tokenizer(first, second, return_attention_mask=False, **cut)
        ids, types = inputs["input_ids"], inputs.get("token_type_ids")
        lengths = [len(row) for row in ids]
        scores = torch.empty(len(ids), device=self.device)
        with evaluating(self), tqdm(total=len(ids), desc="predict", unit=" pairs", disable=not progress) as bar:
            for rows in token_budget_batches(lengths, batch_tokens):
                batch = {"input_ids": torch.tensor([t for row in rows for t in ids[row]], device=self.device)}
                if types is not None:
                    batch["token_type_ids"] = torch.tensor([t for row in rows for t in types[row]], device=self.device)
                logits = self(**batch, lengths=[lengths[row] for row in rows]).logits
                scores[torch.from_numpy(rows).to(self.device)] = logits[:, 0].float()
                bar.update(len(rows))
        return scores.cpu().numpy() if output == "numpy" else scores

    def rank(self, query: str, documents: Sequence[str], *, top_k: int | None = None, **options) -> list[dict]:
        """Documents by descending score, as `{"corpus_id", "score", "text"}` like sentence-transformers' `rank`.

        Equal scores keep the order of `documents`. `options` are those of `predict`.
        """
        documents = list(documents)
        scores = np.asarray(self.predict([(query, document) for document in documents], **options, output="numpy"))
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(i), "score": float(scores[i]), "text": documents[i]} for i in order]
