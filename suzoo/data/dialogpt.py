"""Examples and batches for the dialogue model: turns laid out as in `suzoo.models._dialogue`, labels on the turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from suzoo.data._padding import pad_right
from suzoo.data.tokens import pieces
from suzoo.models._dialogue import DialogueLayout, Turn

# what the three original systems train on
LEARNED_TURNS = {"blog": "all", "cdial": "last", "dialogpt": "replies"}


class DialogueExample(TypedDict):
    """One tokenized dialogue. Lists of equal length; labels are -100 where nothing is to be learnt."""

    input_ids: list[int]
    token_type_ids: list[int]
    labels: list[int]


def encode_dialogue(
    tokenizer: PreTrainedTokenizerBase,
    layout: DialogueLayout,
    turns: Sequence[str],
    *,
    max_tokens: int,
    learn: str | None = None,
    reverse: bool = False,
) -> DialogueExample:
    """One training sequence: the newest whole turns that fit, each under the speaker it had.

    Args:
        tokenizer: special tokens in the texts are plain text; BERT's ignore spaces between Chinese characters.
        layout: see `DialogueLayout.of_tokenizer`.
        turns: what was said, the two speakers taking turns, at least one.
        max_tokens: budget of the sequence; if not even the last turn fits, its last tokens.
        learn: which turns carry labels, with what ends them: `all` (blog), `replies`, all but the first (dialogpt), or
            `last` (cdial); default that of the layout. [CLS] and speaker tags never do.
        reverse: lay the turns out from the last to the first, for a backward model (`suzoo.decoding.mmi_rerank`).

    Raises:
        ValueError: no turn, or unknown `learn`.
    """
    columns = encode_dialogues(tokenizer, layout, [turns], max_tokens=max_tokens, learn=learn, reverse=reverse)
    return {name: column[0] for name, column in columns.items()}  # ty: ignore[invalid-explicit-return]


def encode_dialogues(
    tokenizer: PreTrainedTokenizerBase,
    layout: DialogueLayout,
    dialogues: Sequence[Sequence[str]],
    *,
    max_tokens: int,
    learn: str | None = None,
    reverse: bool = False,
) -> dict[str, list[list[int]]]:
    """`encode_dialogue` of many, name -> lists."""
    learn = learn or LEARNED_TURNS[layout.name]
    if learn not in LEARNED_TURNS.values():
        raise ValueError(f"learn is one of {sorted(LEARNED_TURNS.values())}, not {learn!r}")
    if not all(dialogues):
        raise ValueError("a dialogue without turns: it needs one text or more")
    ids = iter(pieces(tokenizer, [text.strip() for turns in dialogues for text in turns]))
    columns: dict[str, list[list[int]]] = {"input_ids": [], "token_type_ids": [], "labels": []}
    for turns in dialogues:
        encoded = [Turn(place % 2, tuple(next(ids))) for place in range(len(turns))]
        window = layout.newest(encoded, max_tokens)
        tokens = layout.render(window[::-1] if reverse else window)
        first_learned = {"all": 0, "replies": 1, "last": len(window) - 1}[learn]
        columns["input_ids"].append(tokens.input_ids)
        columns["token_type_ids"].append(tokens.token_type_ids)
        columns["labels"].append(
            [
                token if turn >= first_learned else -100
                for token, turn in zip(tokens.input_ids, tokens.turn_index, strict=True)
            ]
        )
    return columns


def dialogue_batch(
    examples: Sequence[DialogueExample], *, pad_token_id: int = 0, token_types: bool = True
) -> dict[str, Tensor]:
    """(B, L) `input_ids`, `attention_mask`, `token_type_ids` and `labels` (-100 on padding), padded on the right.

    Args:
        examples: of similar length (`suzoo.models._batching`), to have little padding.
        token_types: False leaves them out, for stock models that have none (GPT-2, Qwen …).
    """
    fills = {"input_ids": pad_token_id, "labels": -100, **({"token_type_ids": 0} if token_types else {})}
    return pad_right(examples, fills)
