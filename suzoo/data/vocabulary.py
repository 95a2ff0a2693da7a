"""Vocabularies of trained models: keep the tokens that are used, add compound words, decode Chinese without spaces.

Source of the slimming: bert4keras' `keep_tokens` and `compound_tokens`, kexue.fm/archives/6933 and 7758.
"""

from __future__ import annotations

import copy
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from suzoo.data._cut_vocabulary import cut_state, needed_tokens, table_of
from suzoo.data.tokenizer import PAIR_INPUTS, pair_layout
from suzoo.models._dialogue import DialogueLayout, chat_template

# characters that stand without spaces: Chinese and Japanese, and punctuation that only they have
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u3000-\u303F\u30FB\u30FC\uFF01-\uFF9F\uFFE0-\uFFE6"
# what other languages set between spaces too: it goes with what it opens, closes or follows
_OPENING, _CLOSING = "“‘", "”’…—"
_SPACES = (
    f"(?<=[{_UNSPACED}]) (?=\\S)|(?<=\\S) (?=[{_UNSPACED}])",
    f"(?<=[{_UNSPACED}][{_OPENING}{_CLOSING}]) (?=\\S)|(?<=\\S) (?=[{_CLOSING}{_OPENING}][{_UNSPACED}])",
)


def without_inner_spaces(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same tokenizer, whose `decode` puts no space beside a Chinese or Japanese character.

    BERT's decoder joins tokens by spaces, also characters. Quotation marks, dots and dashes lose their spaces where
    they stand beside such a character; in English and Korean they keep them. The result keeps its decoder in streamers
    and pipelines, and when saved and loaded: it is a `PreTrainedTokenizerFast`, because `BertTokenizer` makes a new
    decoder each time.
    """
    if not tokenizer.is_fast:
        raise ValueError("without_inner_spaces needs a fast tokenizer, one with a tokenizer.json")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    steps = [decoders.Replace(Regex(spaces), "") for spaces in _SPACES]
    steps.append(decoders.Replace(Regex(r"(?<=\p{L}) ’ (?=(?:s|t|re|ve|ll|d|m)\b)"), "’"))  # don’t, as stock does don't
    backend.decoder = decoders.Sequence([backend.decoder or decoders.WordPiece(), decoders.Fuse(), *steps])
    return _with_backend(tokenizer, backend)


def chat_tokenizer(tokenizer: PreTrainedTokenizerBase, layout: DialogueLayout) -> PreTrainedTokenizerFast:
    """The tokenizer that a dialogue model is saved with, so that other programs chat with it as `ChatSession` does.

    Many of them render the template to text and tokenize that text with the tokenizer's defaults. So this one adds no
    [CLS] and no [SEP] of its own: a text gets the tokens that it spells. It pads on the left, for `generate`, and names
    the end of a turn as its `eos_token`, and as `bos_token` what a dialogue begins with. It gives no token types: those
    of tokenizers are zeros, which are speakers to the blog layout and words to GPT-2.
    """
    if not tokenizer.is_fast:
        raise ValueError("chat_tokenizer needs a fast tokenizer, one with a tokenizer.json")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [part for part in _processors(state["post_processor"]) if part["type"] == "ByteLevel"]  # adds no token
    state["post_processor"] = kept[0] if kept else None
    chat = _with_backend(tokenizer, Tokenizer.from_str(json.dumps(state)))
    chat.eos_token = chat.convert_ids_to_tokens(layout.sep_id)
    chat.bos_token = chat.cls_token or chat.eos_token
    chat.padding_side = "left"
    chat.model_input_names = ["input_ids", "attention_mask"]
    chat.chat_template = chat_template(layout.name, "eos_token" if chat.sep_token is None else "sep_token")
    return chat


def seq2seq_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer that a UniLM is saved with, so that other programs lay out source and target as training does.

    A pair becomes `[CLS] source [SEP] target [SEP]` with token types 0 and 1, by which UniLM tells one from the other.
    BERT's tokenizer does so and is returned as it is; those of RoBERTa's kind and of chats get this layout.

    Raises:
        ValueError: the tokenizer does not do so and is not a fast one, or has no [CLS] or [SEP].
    """
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if cls is None or sep is None:
        raise ValueError("seq2seq_tokenizer needs a tokenizer with [CLS] and [SEP]")
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in "ab")
    pair = {"input_ids": [cls, *a, sep, *b, sep], "token_type_ids": [0] * (len(a) + 2) + [1] * (len(b) + 1)}
    given = tokenizer("a", text_pair="b")
    if all(given.get(name) == values for name, values in pair.items()):
        return tokenizer
    if not tokenizer.is_fast:
        raise ValueError("seq2seq_tokenizer needs a fast tokenizer, one with a tokenizer.json")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = pair_layout((tokenizer.cls_token, cls), (tokenizer.sep_token, sep))
    typed = _with_backend(tokenizer, backend)
    typed.model_input_names = list(PAIR_INPUTS)
    typed.padding_side = "right"
    typed.chat_template = None
    return typed


def _processors(processor: dict | None) -> list[dict]:
    if processor is None:
        return []
    return processor["processors"] if processor["type"] == "Sequence" else [processor]


def redundant_token(token: str) -> bool:
    """Whether bert4keras' simplified vocabulary drops the token: several characters, one of them an ideograph or a
    punctuation mark, which are tokens of their own anyway. Special tokens are for the caller to keep."""
    stem = token.removeprefix("##")
    return len(token) > 1 and any(_is_ideograph(character) or _is_punctuation(character) for character in stem)


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[int]:
    """How often the texts use each id. What looks like a special token counts both as that and as plain text, as our
    models read it."""
    counts: Counter[int] = Counter()
    marks = [token for token in _added_tokens(tokenizer) if token]
    texts = iter(texts)
    while group := list(itertools.islice(texts, 1000)):
        encoded = tokenizer(group, add_special_tokens=False, verbose=False)["input_ids"]
        marked = [text for text in group if any(mark in text for mark in marks)]
        if marked:
            options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            encoded += tokenizer(marked, **options)["input_ids"]
        for ids in encoded:
            counts.update(ids)
    return counts


def tokens_to_keep(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str] | None = None,
    *,
    counts: Counter[int] | None = None,
    min_count: int = 1,
    also: Iterable[int] = (),
) -> list[int]:
    """Ids of the tokens worth keeping: special and added tokens of the tokenizer's table, then the others in ascending
    order, then the added tokens that stand outside the table.

    Kept besides: what the tokenizer cannot do without, as the bytes of a byte-level BPE and the merges on the way to a
    kept token.

    Args:
        tokenizer: of the model to be slimmed.
        texts: the tokens that occur here at least `min_count` times. Without texts and `counts`, the rule of
            bert4keras: all but `redundant_token`s.
        counts: the `token_counts` of the texts, instead of these.
        also: ids to keep in any case, as those that a model's configuration names.
    """
    state, vocabulary = _state(tokenizer), tokenizer.get_vocab()
    table, tokens = table_of(state), {token_id: token for token, token_id in vocabulary.items()}
    if counts is None and texts is None:
        kept = {token for token in table if not redundant_token(token)}
    else:
        counts = token_counts(tokenizer, texts or ()) if counts is None else counts
        kept = {tokens[token_id] for token_id, count in counts.items() if count >= min_count}
    kept |= {tokens[token_id] for token_id in also if token_id in tokens}
    first = (_added_tokens(tokenizer) | needed_tokens(state, ())) & vocabulary.keys()
    kept |= first | needed_tokens(state, kept | first)
    outside = sorted(vocabulary[token] for token in _added_tokens(tokenizer) - table.keys())
    special = sorted(vocabulary[token] for token in _added_tokens(tokenizer) & table.keys())
    return [*special, *sorted({vocabulary[token] for token in kept} - {*special, *outside}), *outside]


def slim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, keep: Sequence[int]
) -> PreTrainedTokenizerBase:
    """Cut the model to the tokens `keep`, in place, and return the tokenizer that goes with it.

    Embeddings, output weights and output bias lose the other rows, together, and keep the bits of theirs. A text whose
    tokens are all kept is cut into the same tokens, and their logits are what they were. The n-th id of `keep` becomes
    id n. The ids in the configurations (padding, [CLS], [SEP], [MASK], suppressed tokens) move along.

    Args:
        model: any model with input embeddings; output embeddings are cut where it has them.
        tokenizer: fast: WordPiece, Unigram or BPE.
        keep: ids as `get_vocab()` says them, without repetition, all special and added tokens among them, those outside
            the tokenizer's table last; see `tokens_to_keep`. A token that the tokenizer has added, but for which the
            model has no row, has none afterwards either.

    Raises:
        ValueError: an id that is repeated, no token's, or two tokens'; a needed token is missing; another kind of
            tokenizer. Then nothing has changed.
    """
    keep, state = [int(token_id) for token_id in keep], _state(tokenizer)
    size, table = _embeddings(model).num_embeddings, table_of(state)
    tokens: dict[int, str] = {}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in tokens:
            raise ValueError(
                f"the tokenizer gives id {token_id} to {tokens[token_id]} and to {token}: its vocabulary has a hole, "
                "which added tokens then count wrongly. Make the pair anew, with `add_tokens` of suzoo.data"
            )
        tokens[token_id] = token
    unknown = [
        token_id for token_id in keep if token_id not in tokens or (token_id >= size and tokens[token_id] in table)
    ]
    if len(set(keep)) != len(keep) or unknown:
        raise ValueError(f"keep must hold each id once, and ids of the model's {size} tokens only")
    kept = [tokens[token_id] for token_id in keep]
    if [token in table for token in kept] != sorted((token in table for token in kept), reverse=True):
        raise ValueError("tokens that were added outside the tokenizer's table must stand last in keep")
    missing = (_added_tokens(tokenizer) | needed_tokens(state, kept)) - set(kept)
    missing |= {tokens.get(token_id, f"id {token_id}") for token_id in named_ids(model) - set(keep)}
    if missing:
        raise ValueError(f"keep lacks special or needed tokens: {', '.join(sorted(missing)[:10])}")
    slim = _with_backend(tokenizer, Tokenizer.from_str(json.dumps(cut_state(state, kept))))
    wrong = [token for new, token in enumerate(kept) if slim.convert_tokens_to_ids(token) != new]
    assert len(slim.get_vocab()) == len(kept) and not wrong, wrong
    rows = [token_id for token_id in keep if token_id < size]
    _replace_rows(model, torch.tensor(rows, device=model.device))
    _move_ids(model, {old: new for new, old in enumerate(rows)})
    return slim


def num_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that a model needs for the tokenizer: one more than its largest id. `len(tokenizer)` is less where a
    vocabulary has holes, as from a line that a vocab.txt holds twice."""
    return max(tokenizer.get_vocab().values()) + 1


def added_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that were added behind the tokenizer's own table, in ascending order."""
    added = tokenizer.get_added_vocab()
    table = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False) if tokenizer.is_fast else {}
    return sorted(token_id for token, token_id in added.items() if token not in table)


def add_tokens(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str | AddedToken], *, special: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer with more tokens, each under an id that was free.

    `tokenizers` counts its tokens to find a free id, and so hands out one in use where the vocabulary has holes. There
    the holes get names first, and the result is another tokenizer; else it is the same one, changed.
    """
    vocabulary = tokenizer.get_vocab()
    holes = sorted(set(range(max(vocabulary.values()))) - set(vocabulary.values()))
    if holes and tokenizer.is_fast:
        state = _state(tokenizer)
        if isinstance(state["model"]["vocab"], dict):
            state["model"]["vocab"] |= {f"[hole{token_id}]": token_id for token_id in holes}
            tokenizer = _with_backend(tokenizer, Tokenizer.from_str(json.dumps(state)))
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    ids = list(tokenizer.get_vocab().values())
    if len(set(ids)) != len(ids):
        raise ValueError("the tokenizer's vocabulary has holes, so that a new token gets the id of an old one")
    return tokenizer


def add_compound_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, int]:
    """Add whole words, each starting as the mean of its pieces, in embeddings, output weights and output bias.

    Words that are tokens already, or that are spelt by unknown tokens only, are left out. The model changes in place,
    and so does the tokenizer but for one with holes, see `add_tokens`. The tokenizer finds words that are not plain
    ASCII anywhere, ASCII words only as whole words.

    Returns:
        The tokenizer, and the number of words added.
    """
    num_rows, vocabulary = _embeddings(model).num_embeddings, tokenizer.get_vocab()
    if num_rows < num_ids(tokenizer):
        raise ValueError(
            f"the tokenizer has ids up to {num_ids(tokenizer) - 1}, the model {num_rows} rows: they are not a pair"
        )
    pieces: dict[str, list[int]] = {}
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        ids = [token_id for token_id in ids if token_id != tokenizer.unk_token_id]
        if word not in vocabulary and ids:
            pieces[word] = ids
    # BERT's normalizer puts spaces around Chinese characters: words with such are looked for before it
    new = [AddedToken(word, single_word=word.isascii(), normalized=word.isascii()) for word in pieces]
    tokenizer = add_tokens(tokenizer, new)
    vocabulary = tokenizer.get_vocab()
    # rows that the model has beyond the tokenizer's ids are no tokens yet and are used first
    if num_ids(tokenizer) > num_rows:
        model.resize_token_embeddings(num_ids(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for parameter in _vocabulary_parameters(model):
            for word, ids in pieces.items():
                parameter[vocabulary[word]] = parameter[ids].mean(0)
    return tokenizer, len(pieces)


def _embeddings(model: PreTrainedModel) -> nn.Embedding:
    embeddings = model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        raise ValueError(f"{type(model).__name__} keeps tokens in {type(embeddings).__name__}, not in nn.Embedding")
    return embeddings


def _head(model: PreTrainedModel) -> nn.Linear | None:
    head = model.get_output_embeddings()
    if head is not None and not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__} predicts tokens by {type(head).__name__}, not by nn.Linear")
    return head


def _replace_rows(model: PreTrainedModel, keep: torch.Tensor) -> None:
    embeddings, head = _embeddings(model), _head(model)
    padding = keep.tolist().index(embeddings.padding_idx) if embeddings.padding_idx in keep.tolist() else None
    cut = nn.Embedding(len(keep), embeddings.embedding_dim, padding_idx=padding)
    cut.weight = nn.Parameter(embeddings.weight.detach()[keep])
    cut._is_hf_initialized = True  # ty: ignore[invalid-assignment]  or a model around this one draws it anew
    model.set_input_embeddings(cut)
    if head is not None:
        new_head = nn.Linear(head.in_features, len(keep), bias=head.bias is not None)
        new_head.weight = cut.weight if head.weight is embeddings.weight else nn.Parameter(head.weight.detach()[keep])
        if head.bias is not None:
            new_head.bias = nn.Parameter(head.bias.detach()[keep])
        new_head._is_hf_initialized = True  # ty: ignore[invalid-assignment]
        model.set_output_embeddings(new_head)
    model.config.vocab_size = len(keep)
    model.tie_weights()


def _vocabulary_parameters(model: PreTrainedModel) -> list[torch.Tensor]:
    """Parameters with one row per token, each once."""
    found, head = [_embeddings(model).weight], _head(model)
    if head is not None:
        found += [parameter for parameter in (head.weight, head.bias) if parameter is not None]
    return list({id(parameter): parameter for parameter in found}.values())


def _settings_with_ids(model: PreTrainedModel) -> Iterator[tuple[Any, str, Any]]:
    """(configuration, name, value) of every setting that holds token ids."""
    configs: list[Any] = [model.config]
    if getattr(model, "generation_config", None) is not None:
        configs.append(model.generation_config)
    for config in configs:
        for name, value in list(config.__dict__.items()):
            if value is not None and name.endswith(("_token_id", "suppress_tokens", "bad_words_ids")):
                yield config, name, value


def named_ids(model: PreTrainedModel) -> set[int]:
    """Ids of rows that the model's configurations name as its padding, start, end or mask. What is to be suppressed is
    not among them: what is gone need not be suppressed."""
    values = [value for _, name, value in _settings_with_ids(model) if name.endswith("_token_id")]
    ids = {token_id for value in values for token_id in (value if isinstance(value, list) else [value])}
    return {token_id for token_id in ids if 0 <= token_id < _embeddings(model).num_embeddings}


def _move_ids(model: PreTrainedModel, new_ids: dict[int, int]) -> None:
    for config, name, value in _settings_with_ids(model):
        if name.endswith("suppress_tokens"):
            setattr(config, name, [new_ids[old] for old in value if old in new_ids])
        elif name == "bad_words_ids":
            setattr(config, name, [[new_ids[old] for old in word] for word in value if set(word) <= new_ids.keys()])
        elif isinstance(value, list):
            setattr(config, name, [new_ids.get(old, old) for old in value])
        else:  # an id beyond the rows is none before and after
            setattr(config, name, new_ids.get(value, value))


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Special tokens, and all that were added to the tokenizer's table or behind it."""
    return set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if not tokenizer.is_fast:
        raise ValueError("slimming needs a fast tokenizer, one with a tokenizer.json")
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _with_backend(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> PreTrainedTokenizerFast:
    """`tokenizer` around another `backend`, as the class that keeps whatever its tokenizer.json says."""
    special = {name: value for name, value in copy.deepcopy(tokenizer.special_tokens_map).items() if value}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        extra_special_tokens=list(tokenizer.extra_special_tokens),
        model_input_names=list(tokenizer.model_input_names),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        chat_template=tokenizer.chat_template,
    )


def _is_ideograph(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH"))


def _is_punctuation(character: str) -> bool:
    """ASCII symbols count as punctuation, as BERT has it."""
    ascii_symbol = character.isascii() and not character.isalnum() and not character.isspace()
    return ascii_symbol or unicodedata.category(character).startswith("P")
