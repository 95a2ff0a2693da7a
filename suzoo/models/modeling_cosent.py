"""CoSENT: a sentence encoder over any HuggingFace encoder; the cross-encoder is in modeling_cosent_cross_encoder.py.

It wraps a stock encoder and saves it under its own parameter names, so the folder also opens with stock classes and
with sentence-transformers. Source: kexue.fm/archives/8847.
Shapes: B sentences, L padded tokens, T tokens of all sentences end to end, N sentences, D hidden size, E of a vector.
"""

from __future__ import annotations

from ._oldest import OLDEST_AS_CODE, refuse_older_than  # isort: skip  first: it refuses a transformers that lacks what follows
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from ._batching import padded_groups, sorted_sentences, token_budget_batches
from ._devices import to_device
from ._dropout import dropout  # noqa: F401
from ._file_modes import share_weights  # noqa: F401
from ._matmul import fast_matmul  # noqa: F401
from ._modes import evaluating
from ._pooling import POOLINGS, without_prompt
from ._projection import Projection, read_projection, write_projection
from ._ragged import RAGGED_SDPA, ragged_layout
from ._sentence_files import ST_POOLING, SentenceSettings, in_subfolder, read_modules, read_settings, write_settings
from ._stock_encoder import StockEncoderWrapper, check_texts, tokenize
from ._tokenizer_files import hub_options
from ._versions import refuse_unknown

logger = logging.get_logger(__name__)

if __name__.startswith("transformers_modules."):
    refuse_older_than(OLDEST_AS_CODE)


@dataclass
class SentenceEncoderOutput(ModelOutput):
    """last_hidden_state: (B, L, D), or (1, T, D) for flat input; sentence_embedding: (B, E), float32 at least."""

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CoSENTModel(StockEncoderWrapper):
    """Sentence encoder: `encode(texts)` gives one vector per text, compared by cosine.

    Args:
        config: config of any HuggingFace encoder; its weights are random. Use `from_pretrained` for a checkpoint. A
            `UniLMConfig` reads in both directions, all of a text being source, with any of our positions, windows and
            linear attention; a `DialoGPTConfig` from left to right.
        encoder: the encoder itself, instead of one made from `config`.
        pooling: "cls" (the article's choice), "mean", "last" (the last token, for encoders that read from left to
            right) or "first-last-avg" (mean of the first and last layer's states). All but the last one also open in
            sentence-transformers.
        normalize: whether `encode` normalises by default, as a Normalize module in the folder's modules.json says.
        prompts: texts put before an input, by name, as sentence-transformers keeps them.
        default_prompt_name: the prompt that `encode` uses when none is named.
        include_prompt: whether the tokens of a prompt count in the pooling, as `1_Pooling/config.json` says.
        projection: a linear layer behind the pooling, as SimBERT's vector has; E is D without.
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
        projection: Projection | None = None,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        if projection is not None and pooling not in ST_POOLING:
            raise ValueError(f"pooling={pooling!r} has no form in a folder that a projection could stand behind")
        super().__init__(config, encoder)
        self.pooling = pooling
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        self.projection = projection
        pooler = getattr(self.encoder, "pooler", None)
        if pooler is not None:  # stock classes expect its weights in the folder, but no vector depends on them
            pooler.requires_grad_(False)

    @property
    def embedding_size(self) -> int:
        """E, the size of a vector."""
        return self.config.hidden_size if self.projection is None else self.projection.linear.out_features

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
        inside = in_subfolder(subfolder, kwargs)
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
            projection=read_projection(path, modules, encoder.config.hidden_size, options),
        )
        if model.projection is not None:
            model.projection.to(encoder.device, encoder.dtype)
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
        weights = {} if self.projection is None else self.projection.state_dict()
        if state_dict is not None:
            weights = {name: state_dict[f"projection.{name}"] for name in weights}
            state_dict = {name: value for name, value in state_dict.items() if not name.startswith("projection.")}
        folder = self._save_encoder(save_directory, state_dict, tokenizer, with_code, kwargs)
        if not kwargs.get("is_main_process", True):
            return
        names = ("pooling", "include_prompt", "normalize", "prompts", "default_prompt_name", "do_lower_case")
        settings = SentenceSettings(**{name: getattr(self, name) for name in names}, max_seq_length=self.max_seq_length)
        write_settings(folder, settings, self.config.hidden_size, with_dense=self.projection is not None)
        if self.projection is not None:
            write_projection(folder, self.projection, weights)
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
        if token_type_ids is None and self.config.model_type == "unilm":  # all source, which sees itself, and no target
            shape, device = (kwargs["inputs_embeds"][..., 0] if input_ids is None else input_ids).shape, self.device
            token_type_ids = torch.zeros(shape, dtype=torch.long, device=device)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        if "use_cache" in self._known_keywords:  # no token follows
            kwargs.setdefault("use_cache", False)
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
        pooled = self._project(POOLINGS[self.pooling][0](hidden, mask))
        return SentenceEncoderOutput(out.last_hidden_state, pooled, out.get("hidden_states"), out.get("attentions"))

    def _project(self, pooled_ND: Tensor) -> Tensor:
        return pooled_ND if self.projection is None else self.projection(pooled_ND)

    def _forward_ragged(
        self, input_ids, lengths, prompt_length, token_type_ids=None, **kwargs
    ) -> SentenceEncoderOutput:
        order, sorted_lengths, tokens = sorted_sentences(input_ids, lengths)
        positions = np.arange(len(tokens)) - np.repeat(np.cumsum(sorted_lengths) - sorted_lengths, sorted_lengths)
        if self._positions_start_behind_padding:
            positions += self.config.pad_token_id + 1
        beside = (tokens, positions, np.argsort(order), np.argsort(tokens))
        layout, moved = ragged_layout(sorted_lengths, input_ids.device, beside=beside)
        tokens_T, positions_T, in_given_order, token_order = moved
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
            position_ids=positions_T[None],
            ragged=layout,
            return_dict=True,
            **kwargs,
        )
        hidden_TD = out.last_hidden_state[0]
        if self.pooling == "first-last-avg":
            hidden_TD = ((out.hidden_states[1] + out.hidden_states[-1]) / 2)[0]
        pooled = self._project(POOLINGS[self.pooling][1](hidden_TD, layout.lengths_N, prompt_length))
        return SentenceEncoderOutput(out.last_hidden_state[:, token_order], pooled[in_given_order])

    def _forward_groups(
        self, input_ids, lengths, prompt_length, token_type_ids=None, **kwargs
    ) -> SentenceEncoderOutput:
        rows, pooled, states, places = [], [], [], []
        for group, inputs, slots, flat in padded_groups(
            self.encoder, input_ids, token_type_ids, lengths, self.config.pad_token_id
        ):
            out = self._forward_padded(**inputs, prompt_length=prompt_length, **kwargs)
            assert out.last_hidden_state is not None
            rows.append(group)
            pooled.append(out.sentence_embedding)
            states.append(out.last_hidden_state.flatten(0, 1).index_select(0, slots))
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
        """Vectors (N, E), float32, in the order of `texts`; a single text gives (E,).

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
                flat = to_device(torch.tensor([token for row in rows for token in ids[row]]), self.device)
                batch = self(flat, lengths=[lengths[row] for row in rows], prompt_length=prompt_length)
                batch = batch.sentence_embedding
                if vectors is None:
                    vectors = batch.new_empty(len(ids), batch.shape[1])
                vectors[to_device(torch.from_numpy(rows), self.device)] = batch
                bar.update(len(rows))
        if vectors is None:
            vectors = torch.empty(0, self.embedding_size, device=self.device)
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
