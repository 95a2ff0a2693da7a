"""How a dialogue becomes one sequence of tokens. Training, chat and the model itself use the same rules.

    blog       [CLS] u1 [SEP] u2 [SEP] …                    token types are speakers: 0 for u1 [SEP], 1 for u2 [SEP]
    cdial      [CLS] [speaker1] u1 [speaker2] u2 … [SEP]    speakers are tags in the text; [SEP] ends the last turn only
    dialogpt   u1 [SEP] u2 [SEP] …                          no sign of the speaker

Source: blog is kexue.fm/archives/7718 and bojone/nezha_gpt_dialog; cdial is thu-coai/CDial-GPT (arXiv 2008.03946). The
tag's embedding is not added to every token of its turn, so that the model stays a stock BERT. The layout dialogpt is
that of arXiv 1911.00536, with [SEP] for its end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LAYOUTS = ("blog", "cdial", "dialogpt")
SPEAKER_TOKENS = ("[speaker1]", "[speaker2]")


class Turn(NamedTuple):
    """One utterance: who said it (0 or 1), and its token ids without any special token."""

    speaker: int
    ids: tuple[int, ...]

    @classmethod
    def of_text(cls, tokenizer, text: str, speaker: int) -> Turn:
        """Special tokens in the text are plain text; spaces around it are dropped, as in `chat_template`."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}  # the session cuts
        ids = tokenizer(text.strip(), **options)["input_ids"]
        return cls(speaker, tuple(ids))


class DialogueTokens(NamedTuple):
    """A sequence: token ids, token types, and for every token the index of the turn it belongs to; -1 is none, which is
    [CLS] and the tag that only announces a turn."""

    input_ids: list[int]
    token_type_ids: list[int]
    turn_index: list[int]


class DialogueLayout:
    """The rules of one layout for one vocabulary.

    Args:
        name: `blog`, `cdial` or `dialogpt`.
        cls_id, sep_id: ids of [CLS] and [SEP]; `dialogpt` needs no [CLS].
        speaker_ids: ids of the two speaker tags, for `cdial`.

    Raises:
        ValueError: unknown layout, `blog` or `cdial` without [CLS], or `cdial` without its tags.
    """

    def __init__(self, name: str, cls_id: int | None, sep_id: int, speaker_ids: tuple[int, ...] = ()) -> None:
        if name not in LAYOUTS:
            raise ValueError(f"layout is one of {LAYOUTS}, not {name!r}")
        if cls_id is None and name != "dialogpt":
            raise ValueError(f"the {name} layout starts with [CLS], which the tokenizer does not have")
        if name == "cdial" and not speaker_ids:
            raise ValueError(f"the cdial layout needs the ids of {SPEAKER_TOKENS}: add them to the tokenizer")
        self.name, self.cls_id, self.sep_id, self.speaker_ids = name, cls_id, sep_id, speaker_ids

    @classmethod
    def of_tokenizer(cls, name: str, tokenizer) -> DialogueLayout:
        """The layout in the vocabulary of a tokenizer; without [SEP] its end-of-text token ends the turns."""
        vocabulary = tokenizer.get_vocab()
        tags = tuple(vocabulary[token] for token in SPEAKER_TOKENS if token in vocabulary)
        sep_id = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
        return cls(name, tokenizer.cls_token_id, sep_id, tags if len(tags) == 2 else ())

    def num_tokens(self, turns: Sequence[Turn]) -> int:
        """Length of `render(turns)`."""
        around = {"blog": 1, "cdial": 2, "dialogpt": 0}[self.name]
        return around + sum(len(turn.ids) + 1 for turn in turns)

    def render(self, turns: Sequence[Turn]) -> DialogueTokens:
        """All turns, finished."""
        ids, types, index = [], [], []
        if self.cls_id is not None and self.name != "dialogpt":
            ids, types, index = [self.cls_id], [0], [-1]
        for number, turn in enumerate(turns):
            if self.name == "cdial":
                ids.append(self.speaker_ids[turn.speaker])
                index.append(-1)
                ids += turn.ids
                index += [number] * len(turn.ids)
            else:
                ids += [*turn.ids, self.sep_id]
                index += [number] * (len(turn.ids) + 1)
            types += [turn.speaker if self.name == "blog" else 0] * (len(ids) - len(types))
        if self.name == "cdial" and turns:
            ids, types, index = [*ids, self.sep_id], [*types, 0], [*index, len(turns) - 1]
        return DialogueTokens(ids, types, index)

    def render_prompt(self, turns: Sequence[Turn], speaker: int) -> DialogueTokens:
        """All turns, ready for `speaker` to reply."""
        tokens = self.render(turns)
        if self.name == "cdial":
            body = slice(0, len(tokens.input_ids) - 1) if turns else slice(None)
            ids, types, index = (part[body] for part in tokens)
            tokens = DialogueTokens([*ids, self.speaker_ids[speaker]], [*types, 0], [*index, -1])
        return tokens

    def newest(self, turns: Sequence[Turn], budget: int) -> list[Turn]:
        """The newest whole turns whose `render` fits `budget` tokens. Speakers stay who they were. If not even the
        newest turn fits, its last tokens."""
        if budget <= self.num_tokens([Turn(0, ())]):
            raise ValueError(f"a budget of {budget} tokens holds no turn")
        start = 0
        while start < len(turns) - 1 and self.num_tokens(turns[start:]) > budget:
            start += 1
        kept = list(turns[start:])
        excess = self.num_tokens(kept) - budget
        if excess > 0:
            kept[0] = kept[0]._replace(ids=kept[0].ids[excess:])
        return kept


def speaker_types(input_ids: Tensor, sep_id: int, documents: Tensor | None = None) -> Tensor:
    """(B, T) speakers of the blog layout where the first turn is speaker 0: the number of [SEP] before, modulo 2.
    `documents` (1 or B, T) number the dialogues of a packed row; each starts with speaker 0."""
    is_sep = (input_ids == sep_id).long()
    before = is_sep.cumsum(-1) - is_sep
    if documents is not None:
        is_start = documents.diff(dim=-1, prepend=documents[:, :1] - 1) != 0
        before = before - torch.where(is_start, before, 0).cummax(-1).values
    return before % 2


def extend_speaker_types(input_ids: Tensor, token_type_ids: Tensor, sep_id: int) -> Tensor:
    """(B, T) types of the blog layout for `input_ids` (B, T), of which the first P <= T are known: (B, P). A [SEP]
    hands over to the other speaker."""
    num_known = token_type_ids.shape[1]
    before = (input_ids[:, num_known - 1 : -1] == sep_id).long()
    new = (token_type_ids[:, -1:] + before.cumsum(-1)) % 2
    return torch.cat([token_type_ids, new], dim=-1) if input_ids.shape[1] > num_known else token_type_ids


def chat_template(layout: str, turn_end: str = "sep_token") -> str:
    """The Jinja template of a layout, for `tokenizer.chat_template`: user is speaker 0, assistant speaker 1. What the
    assistant says is inside `{% generation %}`, so that tokenizers can mask the rest. The blog layout's token types are
    not in a template: `DialoGPTForCausalLM.generate` makes them from the [SEP]s. `turn_end` names the tokenizer's token
    that ends a turn: `eos_token` where it has no [SEP], see `DialogueLayout.of_tokenizer`."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {LAYOUTS}, not {layout!r}")
    begin = "" if layout == "dialogpt" else "{{ cls_token }}"
    # in cdial a [SEP] ends the last turn, and only once it is finished
    end = turn_end if layout != "cdial" else f"({turn_end} if loop.last and not add_generation_prompt else '')"
    tag, prompt = "", ""
    if layout == "cdial":
        user, assistant = SPEAKER_TOKENS
        tag = f"{{{{ '{user}' if message.role == 'user' else '{assistant}' }}}}"
        prompt = f"{{% if add_generation_prompt %}}{{{{ '{assistant}' }}}}{{% endif %}}"
    # masks are found by characters: of spaces and of nothing there is no token
    return (
        f"{begin}{{% for message in messages %}}"
        "{% if message.role not in ('user', 'assistant') %}"
        "{{ raise_exception('this model knows the roles user and assistant, not ' + message.role) }}{% endif %}"
        f"{tag}{{% set said = message.content | trim + {end} %}}"
        "{% if message.role == 'assistant' and said %}{% generation %}{{ said }}{% endgeneration %}"
        "{% else %}{{ said }}{% endif %}"
        f"{{% endfor %}}{prompt}"
    )
