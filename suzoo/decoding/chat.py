"""A chat with memory: the key-value cache lives from turn to turn.

Source of the layouts and of the sampling defaults: kexue.fm/archives/7718 (top-5 sampling, 32 tokens, temperature 1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from suzoo.decoding.consistent import ConsistentTopKLogitsWarper, ConsistentTopPLogitsWarper
from suzoo.decoding.mmi import MMIReranker
from suzoo.models._dialogue import DialogueLayout, DialogueTokens, Turn
from suzoo.models._self_terminating import add_self_termination
from suzoo.models._versions import CACHE

USER, BOT = 0, 1


class ReplyNoRepeatNGram(LogitsProcessor):
    """Forbid that an n-gram occurs twice in the reply. What the history says may be said again.

    Args:
        start: length of the prompt.
        ngram_size: n.
    """

    def __init__(self, start: int, ngram_size: int) -> None:
        self.start = start
        self.rule = NoRepeatNGramLogitsProcessor(ngram_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.rule(input_ids[:, self.start :], scores)


class ChatSession:
    """Talk with a dialogue model, turn by turn.

    Keys and values of what was said are kept, so a turn costs its own tokens only. Its logits are those of the whole
    dialogue computed anew: the history is kept as tokens, and the cache is cut to what the new prompt shares with it.
    When the budget is full, the oldest turns are dropped until half of it is free, so that the recomputation (which is
    exact, unlike cutting the cache) happens once in several turns. Who said what is never forgotten.

    Args:
        model: a causal language model, `DialoGPTForCausalLM` or a stock one; in evaluation mode.
        tokenizer: of the model.
        layout: `blog`, `cdial` or `dialogpt`; default what the model's configuration says.
        max_tokens: the budget: prompt and reply together. Default the model's absolute positions, else 512.
        max_new_tokens: longest reply.
        do_sample, top_k, top_p, temperature: sampling, as in `generate`; `do_sample=False` is greedy.
        consistent: top-k and top-p always keep the end of the turn (`suzoo.decoding.consistent`).
        no_repeat_ngram_size: no n-gram twice in one reply, against loops; 0 is off.
        reranker: chooses among `num_candidates` sampled replies.
        num_candidates: sampled at once; 1 takes what comes.
        reuse_cache: False recomputes the history in every turn, with the same replies.

    Raises:
        ValueError: the layout is unknown or does not fit model or tokenizer; a reply may fill half of the budget;
            candidates without a reranker or without sampling.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layout: str | None = None,
        max_tokens: int | None = None,
        max_new_tokens: int = 32,
        do_sample: bool = True,
        top_k: int = 5,
        top_p: float = 1.0,
        temperature: float = 1.0,
        consistent: bool = False,
        no_repeat_ngram_size: int = 4,
        reranker: MMIReranker | None = None,
        num_candidates: int = 1,
        reuse_cache: bool = True,
    ) -> None:
        layout = layout or getattr(model.config, "layout", None)
        if layout is None:
            raise ValueError("the model does not say how it was trained: pass layout='blog', 'cdial' or 'dialogpt'")
        if layout == "blog" and getattr(model.config, "layout", None) != "blog":
            raise ValueError("the blog layout needs a DialoGPTForCausalLM with layout='blog', others ignore who speaks")
        self.model, self.tokenizer = model, tokenizer
        self.layout = DialogueLayout.of_tokenizer(layout, tokenizer)
        if max_tokens is None:
            positions = getattr(model.config, "position_embedding_type", "absolute")
            max_tokens = getattr(model.config, "max_position_embeddings", 512) if positions == "absolute" else 512
        if not 0 < max_new_tokens < max_tokens // 2:
            raise ValueError(f"max_new_tokens {max_new_tokens} must be under half of max_tokens {max_tokens}")
        self.max_tokens, self.max_new_tokens = max_tokens, max_new_tokens
        self.no_repeat_ngram_size, self.reuse_cache = no_repeat_ngram_size, reuse_cache
        if num_candidates < 1 or (num_candidates > 1) != (reranker is not None):
            raise ValueError(f"{num_candidates} candidates: a reranker chooses among two or more, one needs none")
        self.reranker, self.num_candidates = reranker, num_candidates
        self.set_sampling(do_sample=do_sample, top_k=top_k, top_p=top_p, temperature=temperature, consistent=consistent)
        unwanted = {*tokenizer.all_special_ids, *self.layout.speaker_ids} - {self.layout.sep_id}
        self.suppress_tokens = sorted(unwanted)
        self.reset()

    def set_sampling(
        self, *, do_sample: bool, top_k: int, top_p: float, temperature: float, consistent: bool = False
    ) -> None:
        """How the next replies are drawn; the history and its cache stay.

        Raises:
            ValueError: a value out of its range; filters or candidates without sampling.
        """
        if top_k < 1 or not 0 < top_p <= 1 or not 0 < temperature < float("inf"):
            raise ValueError(
                f"top_k {top_k}, top_p {top_p}, temperature {temperature}: the first is 1 or more, the second above 0 "
                "and at most 1, the third above 0"
            )
        if not do_sample and (consistent or self.num_candidates > 1):
            raise ValueError("greedy search has one candidate and no filter: consistent and num_candidates sample")
        self.sampling: dict[str, Any] = {"do_sample": do_sample}
        self.filters: list[LogitsProcessor] = []
        if do_sample and consistent:
            # generate() would filter behind these: so they, and the temperature before them, are given by hand
            self.sampling |= {"top_k": 0, "top_p": 1.0, "temperature": 1.0}
            self.filters = [
                TemperatureLogitsWarper(float(temperature)),
                ConsistentTopKLogitsWarper(top_k, self.layout.sep_id),
                ConsistentTopPLogitsWarper(top_p, self.layout.sep_id),
            ]
        elif do_sample:
            self.sampling |= {"top_k": top_k, "top_p": top_p, "temperature": temperature}

    def reset(self) -> None:
        """Forget everything."""
        self.turns: list[Turn] = []  # all that was said
        self._window: list[Turn] = []  # what the model still sees
        self._cache: Cache | None = None
        self._cached = DialogueTokens([], [], [])  # the tokens whose keys and values the cache holds

    @property
    def history(self) -> list[tuple[str, str]]:
        """All turns as ("user" or "assistant", text)."""
        names = ("user", "assistant")
        return [(names[turn.speaker], self._decode(turn.ids)) for turn in self.turns]

    def reply(self, text: str, *, streamer: BaseStreamer | None = None) -> str:
        """What the model says to `text`. Both become part of the history.

        Args:
            text: special tokens in it are plain text.
            streamer: gets the reply token by token, such as `TextStreamer(tokenizer, skip_prompt=True,
                skip_special_tokens=True)`; what was chosen among candidates it gets at once.
        """
        heard = Turn.of_text(self.tokenizer, text, USER)
        if not heard.ids:
            raise ValueError("there is nothing to reply to: the text has no tokens")
        window = self._fit([*self._window, heard])
        said = Turn(BOT, tuple(self._generate(window, streamer)))
        # only now, so that an interrupted reply leaves no half turn behind
        self._window = [*window, said]
        self.turns += [heard, said]
        return self._decode(said.ids)

    def save(self, path: str | Path) -> None:
        """Write the history as JSON: layout, and a line for each turn with its speaker, text and token ids."""
        turns = [{"speaker": turn.speaker, "text": self._decode(turn.ids), "ids": turn.ids} for turn in self.turns]
        lines = ",\n".join(f"  {json.dumps(turn, ensure_ascii=False)}" for turn in turns)
        head = f'"layout": {json.dumps(self.layout.name)}, "window": {len(self._window)}'
        Path(path).write_text(f'{{{head}, "turns": [\n{lines}\n]}}\n', encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Continue a saved history, in the same state; the next reply reads it once.

        A JSON list of texts is a history too: the user's and the model's in turns, the user's first.

        Raises:
            ValueError: it is neither, was saved with another layout, or its tokens say something else in this
                vocabulary.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # also what is not UTF-8
            raise ValueError(f"{path} is not JSON: {error}") from error
        if isinstance(content, list) and all(isinstance(text, str) for text in content):
            turns = [Turn.of_text(self.tokenizer, text, (USER, BOT)[i % 2]) for i, text in enumerate(content)]
            window = turns
        else:
            turns, window = self._saved_turns(content, path)
        self.reset()
        self.turns, self._window = turns, list(window)

    def _saved_turns(self, content: Any, path: str | Path) -> tuple[list[Turn], list[Turn]]:
        """All turns, and those that the model still saw."""
        try:
            layout, num_seen, saved = content["layout"], int(content["window"]), content["turns"]
            turns = [Turn(turn["speaker"], tuple(turn["ids"])) for turn in saved]
            texts = [turn["text"] for turn in saved]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is neither a saved history nor a list of texts") from error
        if layout != self.layout.name:
            raise ValueError(f"{path} has layout {layout}, this chat {self.layout.name}")
        for number, (turn, text) in enumerate(zip(turns, texts, strict=True)):
            if self._decode(turn.ids) != text:
                raise ValueError(f"{path} turn {number} says something else with this tokenizer: another model's chat")
        return turns, turns[len(turns) - num_seen :]

    def _fit(self, window: list[Turn]) -> list[Turn]:
        """All of `window` if a reply still fits, else its newest turns in half of the budget."""
        if self.layout.num_tokens(window) + self.max_new_tokens <= self.max_tokens:
            return window
        return self.layout.newest(window, self.max_tokens // 2)

    @torch.no_grad()
    def _generate(self, window: Sequence[Turn], streamer: BaseStreamer | None) -> list[int]:
        prompt = self.layout.render_prompt(window, BOT)
        device = self.model.device
        options: dict[str, Any] = dict(self.sampling)
        if self.layout.name == "blog":
            options["token_type_ids"] = torch.tensor([prompt.token_type_ids], device=device)
        if self.reuse_cache and self._cut_cache(prompt):
            assert self._cache is not None
            if self.num_candidates > 1:
                self._cache.batch_repeat_interleave(self.num_candidates)
            options[CACHE] = self._cache
        if self.no_repeat_ngram_size:
            options["logits_processor"] = [ReplyNoRepeatNGram(len(prompt.input_ids), self.no_repeat_ngram_size)]
        add_self_termination(options, self.model.config, self.layout.sep_id)
        options["logits_processor"] = LogitsProcessorList([*options.get("logits_processor", []), *self.filters])
        if self.num_candidates > 1:
            options["num_return_sequences"] = self.num_candidates
        self._cache = None  # generate() fills it in place: if that is interrupted, its content is unknown
        input_ids = torch.tensor([prompt.input_ids], device=device)
        output: Any = self.model.generate(  # ty: ignore[not-callable]  (a model with GenerationMixin)
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=1,
            eos_token_id=self.layout.sep_id,
            pad_token_id=self.layout.sep_id,
            suppress_tokens=self.suppress_tokens,
            return_dict_in_generate=True,
            streamer=streamer if self.num_candidates == 1 else None,
            **options,
        )
        replies = output.sequences[:, input_ids.shape[1] :].tolist()
        replies = [
            reply[: reply.index(sep) + 1] if (sep := self.layout.sep_id) in reply else reply for reply in replies
        ]
        self._cache = output[CACHE]
        best = 0
        if self.reranker is not None:
            best = self._choose(window, replies)
            self._keep_of_cache(best, len(prompt.input_ids) + len(replies[best]) - 1)
            if streamer is not None:
                for part in (input_ids, torch.tensor(replies[best])):
                    streamer.put(part)
                streamer.end()
        reply = replies[best]
        # the last token was sampled but never read
        types = [BOT if self.layout.name == "blog" else 0] * len(reply)
        self._cached = DialogueTokens([*prompt.input_ids, *reply][:-1], [*prompt.token_type_ids, *types][:-1], [])
        return reply[:-1] if reply[-1] == self.layout.sep_id else reply

    def _until_end(self, ids: list[int]) -> list[int]:
        """A row of a batch without the padding behind its end."""
        return ids[: ids.index(self.layout.sep_id) + 1] if self.layout.sep_id in ids else ids

    def _choose(self, window: Sequence[Turn], replies: Sequence[Sequence[int]]) -> int:
        assert self.reranker is not None
        history = [(turn.speaker, self._decode(turn.ids)) for turn in window]
        return self.reranker.order(history, [self._decode(reply) for reply in replies])[0]

    def _keep_of_cache(self, row: int, num_tokens: int) -> None:
        """Of all candidates' keys and values those of one, without what was read behind its end."""
        assert self._cache is not None
        self._cache.batch_select_indices(torch.tensor([row], device=self.model.device))
        excess = int(self._cache.get_seq_length()) - num_tokens
        if excess > 0 and not _is_croppable(self._cache):
            self._cache = None
        elif excess > 0:
            self._cache.crop(-excess)

    def _cut_cache(self, prompt: DialogueTokens) -> bool:
        """Cut the cache to what it shares with the prompt, of which at least the last token is left to be read."""
        if self._cache is None:
            return False
        cached = list(zip(self._cached.input_ids, self._cached.token_type_ids, strict=True))
        wanted = list(zip(prompt.input_ids, prompt.token_type_ids, strict=True))[:-1]
        shared = 0
        while shared < min(len(cached), len(wanted)) and cached[shared] == wanted[shared]:
            shared += 1
        if shared == 0:
            return False
        if shared < len(cached):
            if not _is_croppable(self._cache):
                return False
            self._cache.crop(shared - len(cached))
        return True

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _is_croppable(cache: Cache) -> bool:
    """Whether what was read can be taken back; the state of linear attention cannot."""
    return all(getattr(layer, "is_croppable", True) for layer in cache.layers)
