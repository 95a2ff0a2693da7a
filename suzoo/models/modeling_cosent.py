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
from ._pooling import POOLINGS, cls_pool, flat_cls_pool, flat_mean_pool, mean_pool
from ._ragged import RAGGED_SDPA, ragged_layout
from ._stock_encoder import StockEncoderWrapper, check_texts, read_json, tokenize, write_json
from ._versions import refuse_unknown

logger = logging.get_logger(__name__)

# Encoders that compute every token on its own but for attention, take it through transformers' interface, and positions
# as an argument
RAGGED_ENCODERS = ("bert", "camembert", "distilbert", "electra", "ernie", "modernbert", "roberta", "xlm-roberta")
# sentence-transformers' names for our poolings; first-last-avg has none
_ST_POOLING = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


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
        pooling: "cls" (the article's choice), "mean" or "first-last-avg" (mean of the first and last layer's states).
            The first two also open in sentence-transformers.
        normalize: whether `encode` normalises by default, as a Normalize module in the folder's modules.json says.
        prompts: texts put before an input, by name, as sentence-transformers keeps them.
        default_prompt_name: the prompt that `encode` uses when none is named.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        encoder: PreTrainedModel | None = None,
        pooling: str = "cls",
        normalize: bool = False,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        super().__init__(config, encoder)
        self.pooling = pooling
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
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

        Raises:
            ValueError: encoder weights are missing from the checkpoint, or its pooling is none of ours.
        """
        path = str(pretrained_model_name_or_path)
        with_info = kwargs.pop("output_loading_info", False)
        encoder, info = cls._load_encoder(path, kwargs)
        modules = read_json(path, "modules.json", kwargs) or []
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        if unknown:
            raise ValueError(f"{path} has the sentence-transformers module {unknown[0]}, which CoSENTModel has not")
        sidecar = next((module["path"] for module in modules if module["type"].endswith("Pooling")), "1_Pooling")
        saved_pooling = _pooling_name(read_json(path, f"{sidecar}/config.json", kwargs))
        prompts = read_json(path, "config_sentence_transformers.json", kwargs) or {}
        model = cls(
            encoder.config,
            encoder,
            pooling=pooling or saved_pooling or "cls",
            normalize="Normalize" in kinds if normalize is None else normalize,
            prompts=prompts.get("prompts"),
            default_prompt_name=prompts.get("default_prompt_name"),
        )
        lengths = read_json(path, "sentence_bert_config.json", kwargs) or {}
        saved_length = lengths.get("max_seq_length")  # some folders promise more than their positions
        if saved_length is not None and model.num_positions is not None:
            saved_length = min(saved_length, model.num_positions)
        model.max_seq_length = max_seq_length or saved_length
        model.eval()
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory, *, state_dict: dict | None = None, tokenizer=None, **kwargs) -> None:
        """One folder that opens as CoSENTModel, as the stock encoder, and in sentence-transformers.

        Args:
            save_directory: folder, made if need be.
            state_dict: weights to write instead of the model's own, with this class's key names.
            tokenizer: saved beside the weights; default is the tokenizer in use, if one was loaded or set.
            kwargs: go to the encoder's `save_pretrained`.

        "first-last-avg" has no sentence-transformers form: such a folder gets no modules.json, and a warning says so.
        """
        folder = self._save_encoder(save_directory, state_dict, tokenizer, kwargs)
        if not kwargs.get("is_main_process", True):
            return
        names = {"cls": False, "mean": False, "max": False, "mean_sqrt_len": False}
        pooling = {"word_embedding_dimension": self.config.hidden_size}
        pooling |= {f"pooling_mode_{name}_token{'' if name == 'cls' else 's'}": flag for name, flag in names.items()}
        if self.pooling in _ST_POOLING:
            pooling[_ST_POOLING[self.pooling]] = True
            types = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * self.normalize
            modules = [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(types)
            ]
            write_json(folder / "modules.json", modules)
        else:
            pooling["suzoo_pooling"] = self.pooling
            (folder / "modules.json").unlink(missing_ok=True)
            logger.warning(f"{folder}: pooling {self.pooling} opens only as CoSENTModel, not in sentence-transformers")
        write_json(folder / "1_Pooling/config.json", pooling)
        settings = {"prompts": self.prompts, "default_prompt_name": self.default_prompt_name}
        settings |= {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
        write_json(folder / "config_sentence_transformers.json", settings)
        if self.max_seq_length is not None:
            write_json(folder / "sentence_bert_config.json", {"max_seq_length": self.max_seq_length})

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        **kwargs,
    ) -> SentenceEncoderOutput:
        """Token states and one vector per sentence.

        Args:
            input_ids: (B, L) padded on either side; or, with `lengths`, (T,) sentences end to end.
            attention_mask: (B, L), 1 for tokens; all ones when absent.
            token_type_ids: same shape as input_ids, for encoders that have them.
            lengths: tokens of each of the N sentences of a flat `input_ids`. Cheaper, and equal: nothing is padded
                but the attention (`ragged`), or else little is.
            kwargs: go to the encoder (output_attentions, output_hidden_states, inputs_embeds, ...).

        Returns:
            `SentenceEncoderOutput`, sentences in the order given.
        """
        refuse_unknown(type(self).__name__, kwargs, self._known_keywords)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        if lengths is not None:
            return (
                self._forward_ragged(input_ids, lengths, **kwargs)
                if self.ragged
                else self._forward_groups(input_ids, lengths, **kwargs)
            )
        return self._forward_padded(input_ids, attention_mask, **kwargs)

    def _forward_padded(self, input_ids, attention_mask, **kwargs) -> SentenceEncoderOutput:
        first_last = self.pooling == "first-last-avg"
        if first_last:
            kwargs["output_hidden_states"] = True
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden = out.last_hidden_state
        mask = hidden.new_ones(hidden.shape[:2]) if attention_mask is None else attention_mask
        if first_last:
            hidden = (out.hidden_states[1] + out.hidden_states[-1]) / 2
        pooled = cls_pool(hidden, mask) if self.pooling == "cls" else mean_pool(hidden, mask)
        return SentenceEncoderOutput(out.last_hidden_state, pooled, out.get("hidden_states"), out.get("attentions"))

    def _forward_ragged(self, input_ids, lengths, token_type_ids=None, **kwargs) -> SentenceEncoderOutput:
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
        pool = flat_cls_pool if self.pooling == "cls" else flat_mean_pool
        pooled = pool(hidden_TD, torch.from_numpy(sorted_lengths).to(device))
        in_given_order = torch.from_numpy(np.argsort(order)).to(device)
        token_order = torch.from_numpy(np.argsort(tokens)).to(device)
        return SentenceEncoderOutput(out.last_hidden_state[:, token_order], pooled[in_given_order])

    def _forward_groups(self, input_ids, lengths, token_type_ids=None, **kwargs) -> SentenceEncoderOutput:
        rows, pooled, states, places = [], [], [], []
        for group, inputs, mask, flat in padded_groups(input_ids, token_type_ids, lengths, self.config.pad_token_id):
            out = self._forward_padded(**inputs, **kwargs)
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
        texts = [self._prompt(prompt_name, prompt) + text for text in texts]
        tokenizer = tokenizer or self.tokenizer
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids, truncated = tokenize(tokenizer, list(distinct), self._max_length(tokenizer, max_length), return_truncated)
        was_training, vectors = self.training, None
        self.eval()
        lengths = [len(row) for row in ids]
        with tqdm(total=len(ids), desc="encode", unit=" texts", disable=not progress) as bar:
            for rows in token_budget_batches(lengths, batch_tokens):
                flat = torch.tensor([token for row in rows for token in ids[row]], device=self.device)
                batch = self(flat, lengths=[lengths[row] for row in rows]).sentence_embedding
                if vectors is None:
                    vectors = batch.new_empty(len(ids), batch.shape[1])
                vectors[torch.from_numpy(rows).to(self.device)] = batch
                bar.update(len(rows))
        self.train(was_training)
        if vectors is None:
            vectors = torch.empty(0, self.config.hidden_size, device=self.device)
        if self.normalize if normalize is None else normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        places = [distinct[text] for text in texts]
        vectors = vectors[places]
        result = (vectors.cpu().numpy() if output == "numpy" else vectors)[0 if single else slice(None)]
        return (result, truncated[places]) if return_truncated else result

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        name = name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt is called {name!r}; this model has {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]


def _pooling_name(config: dict | None) -> str | None:
    """Our name for the pooling of a sentence-transformers Pooling config, old or new form."""
    if config is None:
        return None
    if "suzoo_pooling" in config:
        return config["suzoo_pooling"]
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
    names = {"pooling_mode_cls_token": "cls", "cls": "cls", "pooling_mode_mean_tokens": "mean", "mean": "mean"}
    if len(modes) != 1 or modes[0] not in names:
        raise ValueError(f"1_Pooling/config.json asks for {', '.join(modes) or 'nothing'}; suzoo has cls and mean")
    return names[modes[0]]


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

        Raises:
            ValueError: `num_labels` other than 1, or encoder weights that are missing or of another size.
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
        # a head of more labels gives way to a fresh one
        encoder, info = cls._load_encoder(path, {**kwargs, "ignore_mismatched_sizes": True})
        model = cls(encoder.config, encoder)
        model.max_seq_length = max_seq_length
        model.eval()
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory, *, state_dict: dict | None = None, tokenizer=None, **kwargs) -> None:
        """One folder that opens as CoSENTCrossEncoder, as a stock sequence classifier, and as `CrossEncoder`.

        Other libraries cut pairs at the tokenizer's `model_max_length`, so `max_seq_length` is saved as that.
        """
        tokenizer = tokenizer or self._tokenizer
        if tokenizer is not None and self.max_seq_length is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.model_max_length = self.max_seq_length
        self._save_encoder(save_directory, state_dict, tokenizer, kwargs)

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
        for group, inputs, _, _ in padded_groups(input_ids, token_type_ids, lengths, self.config.pad_token_id):
            logits.append(self.encoder(**inputs, return_dict=True, **kwargs).logits)
            rows.append(group)
        return SequenceClassifierOutput(logits=torch.cat(logits)[torch.cat(rows).argsort()])

    @torch.no_grad()  # not inference_mode: FSDP2 gathers weights that train on
    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        tokenizer=None,
        output: str = "numpy",
        max_length: int | None = None,
        batch_tokens: int = 2048,
        progress: bool = False,
    ):
        """Scores (N,), float32, of (text1, text2) pairs in their order; options as in `CoSENTModel.encode`.

        Pairs come as a list, an iterator or an array (N, 2). Too long pairs are cut at the longer text.
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
        if not pairs:
            return np.zeros(0, np.float32) if output == "numpy" else torch.zeros(0, device=self.device)
        length = self._max_length(tokenizer, max_length)
        cut = {"truncation": "longest_first", "max_length": length} if length else {}
        inputs = tokenizer(first, second, return_attention_mask=False, **cut)
        ids, types = inputs["input_ids"], inputs.get("token_type_ids")
        lengths = [len(row) for row in ids]
        scores = torch.empty(len(ids), device=self.device)
        was_training = self.training
        self.eval()
        with tqdm(total=len(ids), desc="predict", unit=" pairs", disable=not progress) as bar:
            for rows in token_budget_batches(lengths, batch_tokens):
                batch = {"input_ids": torch.tensor([t for row in rows for t in ids[row]], device=self.device)}
                if types is not None:
                    batch["token_type_ids"] = torch.tensor([t for row in rows for t in types[row]], device=self.device)
                logits = self(**batch, lengths=[lengths[row] for row in rows]).logits
                scores[torch.from_numpy(rows).to(self.device)] = logits[:, 0].float()
                bar.update(len(rows))
        self.train(was_training)
        return scores.cpu().numpy() if output == "numpy" else scores

    def rank(self, query: str, documents: Sequence[str], *, top_k: int | None = None, **options) -> list[dict]:
        """Documents by descending score, as `{"corpus_id", "score", "text"}` like sentence-transformers' `rank`.

        Equal scores keep the order of `documents`. `options` are those of `predict`.
        """
        documents = list(documents)
        scores = np.asarray(self.predict([(query, document) for document in documents], **options, output="numpy"))
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(i), "score": float(scores[i]), "text": documents[i]} for i in order]
