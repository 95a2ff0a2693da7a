"""CoSENT's cross-encoder: a score for two texts that are read together, over any HuggingFace encoder.

It wraps a stock sequence classifier and saves it under its own parameter names, so the folder also opens with stock
classes and with sentence-transformers. Source: kexue.fm/archives/9341.
"""

from __future__ import annotations

from ._oldest import OLDEST_AS_CODE, refuse_older_than  # isort: skip  first: it refuses a transformers that lacks what follows
import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ._batching import padded_groups, token_budget_batches
from ._devices import batch_to_device, to_device
from ._dropout import dropout  # noqa: F401
from ._file_modes import share_weights  # noqa: F401
from ._matmul import fast_matmul  # noqa: F401
from ._modes import evaluating
from ._ragged import ragged_layout  # noqa: F401
from ._sentence_files import in_subfolder, read_lengths, read_modules, read_prompts, write_cross_encoder_settings
from ._stock_encoder import StockEncoderWrapper, check_texts
from ._tokenizer_files import hub_options
from ._versions import refuse_unknown

if __name__.startswith("transformers_modules."):
    refuse_older_than(OLDEST_AS_CODE)


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
        inside = in_subfolder(subfolder, kwargs)
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
                batch = {"input_ids": torch.tensor([t for row in rows for t in ids[row]])}
                if types is not None:
                    batch["token_type_ids"] = torch.tensor([t for row in rows for t in types[row]])
                logits = self(**batch_to_device(batch, self.device), lengths=[lengths[row] for row in rows]).logits
                scores[to_device(torch.from_numpy(rows), self.device)] = logits[:, 0].float()
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
