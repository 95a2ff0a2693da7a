"""Vocabularies of trained models: keep the tokens that are used, add compound words, decode Chinese without spaces.

Source of the slimming: bert4keras' `keep_tokens` and `compound_tokens`, kexue.fm/archives/6933 and 7758.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# characters that stand without spaces: Chinese, Japanese, their punctuation
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u3000-\u303F\uFF00-\uFFEF“”‘’…—"


def without_inner_spaces(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same tokenizer, whose `decode` puts no space beside a Chinese or Japanese character.

    BERT's decoder joins tokens by spaces, also characters. The result keeps its decoder in streamers and pipelines, and
    when saved and loaded: it is a `PreTrainedTokenizerFast`, because `BertTokenizer` makes a new decoder each time.
    """
    if not tokenizer.is_fast:
        raise ValueError("without_inner_spaces needs a fast tokenizer, one with a tokenizer.json")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    spaces = f"(?<=[{_UNSPACED}]) (?=\\S)|(?<=\\S) (?=[{_UNSPACED}])"
    backend.decoder = decoders.Sequence(
        [backend.decoder or decoders.WordPiece(), decoders.Fuse(), decoders.Replace(Regex(spaces), "")]
    )
    return _with_backend(tokenizer, backend)


def redundant_token(token: str) -> bool:
    """Whether bert4keras' simplified vocabulary drops the token: several characters, one of them an ideograph or a
    punctuation mark, which are tokens of their own anyway. Special tokens are for the caller to keep."""
    stem = token.removeprefix("##")
    return len(token) > 1 and any(_is_ideograph(character) or _is_punctuation(character) for character in stem)


def tokens_to_keep(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] | None = None, *, min_count: int = 1
) -> list[int]:
    """Ids of the tokens worth keeping: the special tokens, then the others in ascending order.

    Args:
        tokenizer: of the model to be slimmed.
        texts: the tokens that occur here at least `min_count` times. Without texts, the rule of bert4keras: all but
            `redundant_token`s.
    """
    vocabulary = tokenizer.get_vocab()
    special = [vocabulary[token] for token in _special_tokens(tokenizer)]
    if texts is None:
        kept = [token_id for token, token_id in vocabulary.items() if not redundant_token(token)]
    else:
        counts = Counter(
            token_id for text in texts for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        kept = [token_id for token_id, count in counts.items() if count >= min_count]
    return [*sorted(special), *sorted(set(kept) - set(special))]


def slim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, keep: Sequence[int]
) -> PreTrainedTokenizerBase:
    """Cut the model to the tokens `keep`, in place, and return the tokenizer that goes with it.

    Embeddings, output weights and output bias lose the other rows, together; the logits of the kept tokens are what
    they were, bit for bit, for inputs made of kept tokens. The n-th id of `keep` becomes id n. The ids in the
    configurations (padding, [CLS], [SEP], [MASK], suppressed tokens) move along.

    Args:
        model: any model with input embeddings; output embeddings are cut where it has them.
        tokenizer: fast, with a WordPiece vocabulary.
        keep: ids without repetition, all special tokens among them; see `tokens_to_keep`.

    Raises:
        ValueError: repeated or unknown ids, a special token missing, or not a WordPiece tokenizer.
    """
    keep = [int(token_id) for token_id in keep]
    size = _embeddings(model).num_embeddings
    if len(set(keep)) != len(keep) or not all(0 <= token_id < size for token_id in keep):
        raise ValueError(f"keep must hold each id once, and ids of the model's {size} tokens only")
    missing = sorted(set(tokenizer.all_special_ids) - set(keep))
    if missing:
        raise ValueError(f"keep lacks special tokens: {', '.join(tokenizer.convert_ids_to_tokens(missing))}")
    slim = _cut_tokenizer(tokenizer, keep)
    _replace_rows(model, torch.tensor(keep, device=model.device))
    new_ids = {old: new for new, old in enumerate(keep)}
    _move_ids(model, new_ids)
    return slim


def add_compound_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> int:
    """Add whole words, each starting as the mean of its pieces, in embeddings, output weights and output bias.

    Words that are tokens already, or that are spelt by unknown tokens only, are left out. Both model and tokenizer
    change in place. The tokenizer finds words that are not plain ASCII anywhere, ASCII words only as whole words.

    Returns:
        The number of words added.
    """
    num_tokens, num_rows = len(tokenizer), _embeddings(model).num_embeddings
    if num_rows < num_tokens:
        raise ValueError(f"the tokenizer has {num_tokens} tokens, the model only {num_rows}: they are not a pair")
    vocabulary = tokenizer.get_vocab()
    pieces: dict[str, list[int]] = {}
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        ids = [token_id for token_id in ids if token_id != tokenizer.unk_token_id]
        if word not in vocabulary and ids:
            pieces[word] = ids
    # BERT's normalizer puts spaces around Chinese characters: words with such are looked for before it
    added = tokenizer.add_tokens(
        [AddedToken(word, single_word=word.isascii(), normalized=word.isascii()) for word in pieces]
    )
    assert added == len(pieces)
    # rows that the model has beyond the tokenizer's tokens are no tokens yet and are used first
    if num_tokens + added > num_rows:
        model.resize_token_embeddings(num_tokens + added, mean_resizing=False)
    with torch.no_grad():
        for parameter in _vocabulary_parameters(model):
            for number, ids in enumerate(pieces.values()):
                parameter[num_tokens + number] = parameter[ids].mean(0)
    return added


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
    padding = None if embeddings.padding_idx is None else keep.tolist().index(embeddings.padding_idx)
    cut = nn.Embedding(len(keep), embeddings.embedding_dim, padding_idx=padding)
    cut.weight = nn.Parameter(embeddings.weight.detach()[keep])
    model.set_input_embeddings(cut)
    if head is not None:
        new_head = nn.Linear(head.in_features, len(keep), bias=head.bias is not None)
        new_head.weight = cut.weight if head.weight is embeddings.weight else nn.Parameter(head.weight.detach()[keep])
        if head.bias is not None:
            new_head.bias = nn.Parameter(head.bias.detach()[keep])
        model.set_output_embeddings(new_head)
    model.config.vocab_size = len(keep)
    model.tie_weights()


def _vocabulary_parameters(model: PreTrainedModel) -> list[torch.Tensor]:
    """Parameters with one row per token, each once."""
    found, head = [_embeddings(model).weight], _head(model)
    if head is not None:
        found += [parameter for parameter in (head.weight, head.bias) if parameter is not None]
    return list({id(parameter): parameter for parameter in found}.values())


def _move_ids(model: PreTrainedModel, new_ids: dict[int, int]) -> None:
    configs = [model.config]
    if getattr(model, "generation_config", None) is not None:
        configs.append(model.generation_config)
    for config in configs:
        for name, value in list(config.__dict__.items()):
            if value is None or not name.endswith(("_token_id", "suppress_tokens")):
                continue
            if name.endswith("suppress_tokens"):  # of a generation config; what is gone need not be suppressed
                setattr(config, name, [new_ids[old] for old in value if old in new_ids])
            elif isinstance(value, list):
                setattr(config, name, [new_ids[old] for old in value])
            elif value in new_ids:
                setattr(config, name, new_ids[value])
            else:
                raise ValueError(f"keep lacks token {value}, the model's {name}")


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())


def _cut_tokenizer(tokenizer: PreTrainedTokenizerBase, keep: Sequence[int]) -> PreTrainedTokenizerBase:
    if not tokenizer.is_fast:
        raise ValueError("slimming needs a fast tokenizer, one with a tokenizer.json")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "WordPiece":
        raise ValueError(f"slimming cuts WordPiece vocabularies, not {state['model']['type']}")
    tokens = tokenizer.convert_ids_to_tokens(list(keep))
    new_ids = {token: new for new, token in enumerate(tokens)}
    state["model"]["vocab"] = {token: new for token, new in new_ids.items() if token in state["model"]["vocab"]}
    state["added_tokens"] = [
        {**added, "id": new_ids[added["content"]]} for added in state["added_tokens"] if added["content"] in new_ids
    ]
    _renumber_post_processor(state["post_processor"], new_ids)
    return _with_backend(tokenizer, Tokenizer.from_str(json.dumps(state)))


def _renumber_post_processor(processor: dict | None, new_ids: dict[str, int]) -> None:
    if processor is None:
        return
    if processor["type"] == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            special["ids"] = [new_ids[token] for token in special["tokens"]]
    elif processor["type"] == "BertProcessing":
        for side in ("sep", "cls"):
            processor[side] = [processor[side][0], new_ids[processor[side][0]]]
    else:
        raise ValueError(f"slimming does not know the post-processor {processor['type']}")


def _with_backend(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> PreTrainedTokenizerFast:
    """`tokenizer` around another `backend`, as the class that keeps whatever its tokenizer.json says."""
    special = {name: value for name, value in copy.deepcopy(tokenizer.special_tokens_map).items() if value}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
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
