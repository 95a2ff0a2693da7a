"""Fewer tokens in a tokenizer.json: which must stay beside the wanted ones, and the file of those that stay.

Known are WordPiece, Unigram (SentencePiece) and BPE (byte-level or not). A text whose tokens all stay is cut into the
same tokens as before:

    WordPiece   takes the longest match; what was longest stays so among fewer
    Unigram     takes the best sum of scores; the lowest score stays in the table, because an unknown character counts
                as that score less 10, so that no way through the text becomes better
    BPE         merges the pair of lowest rank; all merges on the way to a kept token stay, in their order
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import pre_tokenizers

State = dict[str, Any]  # a tokenizer.json


def table_of(state: State) -> dict[str, int]:
    """The ids of the tokenizer's own table. Added tokens may stand there too, or behind it."""
    model = state["model"]
    if model["type"] not in ("WordPiece", "Unigram", "BPE"):
        raise ValueError(f"slimming cuts WordPiece, Unigram and BPE vocabularies, not {model['type']}")
    if model["type"] == "BPE" and (model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")):
        raise ValueError("slimming knows no BPE whose tokens are marked by a suffix or a prefix, as CLIP's are")
    if model["type"] == "Unigram":
        return {piece: place for place, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def needed_tokens(state: State, wanted: Iterable[str]) -> set[str]:
    """Tokens of the table without which the `wanted` ones would not come out as before, and unknown text not at all."""
    model, table = state["model"], table_of(state)
    needed = {token for token, _ in _named_ids(state["post_processor"])}
    if model.get("unk_token") is not None:
        needed.add(model["unk_token"])
    if model.get("byte_fallback"):
        needed |= {f"<0x{byte:02X}>" for byte in range(256)}
    if "ByteLevel" in _types(state["pre_tokenizer"]) | _types(state["normalizer"]):
        needed |= set(pre_tokenizers.ByteLevel.alphabet())
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            needed.add(model["vocab"][model["unk_id"]][0])
        needed.add(min(model["vocab"], key=lambda piece: piece[1])[0])
    if model["type"] == "BPE":
        ranks = {tuple(_pair(merge)): rank for rank, merge in enumerate(model["merges"])}
        for token in {*wanted, *needed} & table.keys():
            needed |= _parts(token, ranks)
    return needed & table.keys()


def _types(part: dict | None) -> set[str]:
    """Types of a normalizer or pre-tokenizer and of what it is composed of."""
    if part is None:
        return set()
    inner = part.get("pretokenizers") or part.get("normalizers") or []
    return {part["type"]}.union(*(_types(each) for each in inner))


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _parts(token: str, ranks: dict[tuple[str, ...], int]) -> set[str]:
    """All that stands between the characters of a token and the token, both included; none if no merges lead there."""
    symbols, seen = list(token), set(token)
    while len(symbols) > 1:
        pairs = [(ranks[pair], place) for place, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not pairs:
            return set()
        place = min(pairs)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        seen.add(symbols[place])
    return seen


def cut_state(state: State, tokens: Sequence[str]) -> State:
    """The tokenizer.json with `tokens` alone, the n-th with id n; those outside the table stand last."""
    table, new_ids = table_of(state), {token: new for new, token in enumerate(tokens)}
    kept = [token for token in tokens if token in table]
    model: dict[str, Any] = dict(state["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][table[token]] for token in kept]
        if model["unk_id"] is not None:
            model["unk_id"] = new_ids[state["model"]["vocab"][model["unk_id"]][0]]
    else:
        model["vocab"] = {token: new_ids[token] for token in kept}
    if model["type"] == "BPE":
        model["merges"] = [merge for merge in model["merges"] if {*_pair(merge), "".join(_pair(merge))} <= set(kept)]
    added = [
        {**entry, "id": new_ids[entry["content"]]} for entry in state["added_tokens"] if entry["content"] in new_ids
    ]
    cut = {**state, "model": model, "added_tokens": sorted(added, key=lambda entry: entry["id"])}
    cut["post_processor"] = _renumbered(state["post_processor"], new_ids)
    if state["padding"] is not None:
        cut["padding"] = {**state["padding"], "pad_id": new_ids[state["padding"]["pad_token"]]}
    return cut


def _named_ids(processor: dict | None) -> list[tuple[str, int]]:
    """(token, id) wherever a post-processor names both."""
    if processor is None or processor["type"] == "ByteLevel":
        return []
    if processor["type"] == "Sequence":
        return [pair for each in processor["processors"] for pair in _named_ids(each)]
    if processor["type"] == "TemplateProcessing":
        specials = processor["special_tokens"].values()
        return [pair for special in specials for pair in zip(special["tokens"], special["ids"], strict=True)]
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        return [tuple(processor[side]) for side in ("sep", "cls")]
    raise ValueError(f"slimming does not know the post-processor {processor['type']}")


def _renumbered(processor: dict | None, new_ids: dict[str, int]) -> dict | None:
    if processor is None or processor["type"] == "ByteLevel":
        return processor
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_renumbered(each, new_ids) for each in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        specials = {
            name: {**special, "ids": [new_ids[token] for token in special["tokens"]]}
            for name, special in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": specials}
    return processor | {side: [processor[side][0], new_ids[processor[side][0]]] for side in ("sep", "cls")}
