"""`suzoo slim-vocab`: fewer tokens, the same answers, which is tried on texts before anything is left behind."""

from __future__ import annotations

import argparse
import copy
import itertools
import shutil
import sys
from pathlib import Path

from suzoo.cli._files import read_texts
from suzoo.cli._models import add_source_options, load_tokenizer, loading, model_name, positive, source

# what a tokenizer that was cut wrongly reads otherwise: capitals, accents, digits, signs, emoji, strange spaces
ASKED = (
    "Ab CDE iPhone NASA Été NAÏVE Ångström straße İstanbul ﬁn",
    "3.14 2,024 1e-5 ½ ① ２０２４ 第3名 €5 100%",
    "ok 🎉 👍🏽 👨‍👩‍👧 ☺ — … “yes” ‘no’ don't don’t",
    "a\u2028b c\u00a0d e\u3000f g\u200bh i\tj k\nl",
    "今天天气 ＡＢＣ 日本のサイエンス 서울 부산 мир سلام",
    "[SEP] [MASK] [UNK] <s> </s> <mask> <|endoftext|>",
)
NUM_ASKED = 64  # texts of the corpus whose answers are compared; how they are cut is compared for all


def slim_vocab(options: argparse.Namespace) -> int:
    out = Path(options.output)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another")
    if options.column is not None and options.corpus is None:
        raise ValueError("--column is for --corpus")
    texts = None if options.bert4keras_rule else read_texts(options.corpus, options.column)
    words = [word for word in map(str.strip, read_texts(options.add_words, None)) if word] if options.add_words else []

    with loading(options.model):
        model, tokenizer = _load_as_saved(options)

    import torch

    from suzoo.data.vocabulary import add_compound_tokens, named_ids, slim_vocabulary, token_counts, tokens_to_keep
    from suzoo.hub.golden import write_golden
    from suzoo.hub.verify import GOLDEN_FILE
    from suzoo.models._file_modes import share_weights
    from suzoo.models._tokenizer_files import save_tokenizer

    asked = [*ASKED, *(texts or ())]
    old_tokens, old_size = len(tokenizer), _size(model)
    if words:
        stock = copy.deepcopy(tokenizer)
        tokenizer, num_added = add_compound_tokens(model, tokenizer, words)
        _same_cut(stock, tokenizer, [text for text in asked if not any(word in text for word in words)])
        print(f"{num_added} of {len(words)} words added", file=sys.stderr)
    counts = None if texts is None else token_counts(tokenizer, texts)
    if counts is not None and not counts:
        raise ValueError(f"{options.corpus} has no tokens to keep")
    also = set(named_ids(model))
    for prompt in getattr(model, "prompts", {}).values():
        also |= set(tokenizer(prompt)["input_ids"])
    keep = tokens_to_keep(tokenizer, counts=counts, min_count=options.min_count, also=also)
    tried = _answerable(tokenizer, keep, asked)
    before = _answers(model, tokenizer, tried, keep)
    slim = slim_vocabulary(model, tokenizer, keep)
    try:
        model.save_pretrained(out)
        share_weights(out)  # a stock class leaves them to their owner
        save_tokenizer(slim, out)
        again, slim = _load_as_saved(argparse.Namespace(model=str(out), revision=None, trust_remote_code=False))
        _same_cut(tokenizer, slim, [*asked, *tried], keep)
        difference = _largest_difference(before, _answers(model, slim, tried), options.model)
        if not all(map(torch.equal, again.state_dict().values(), model.state_dict().values())):
            raise ValueError(f"{out} does not hold the weights that were saved: nothing was written")
        if (Path(options.model) / GOLDEN_FILE).is_file():
            write_golden(model, slim, out)  # what could be verified can be verified
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    size = f"{old_size / 1e6:.1f} to {_size(model) / 1e6:.1f} MB of weights"
    lost = ""
    if counts is not None:
        share = sum(count for token_id, count in counts.items() if token_id not in set(keep)) / sum(counts.values())
        lost = f"{share:.3%} of the corpus's pieces lost, "
    print(
        f"{old_tokens} to {len(keep)} tokens, {size}, {lost}outputs for {len(tried)} texts differ by {difference:.1e}, "
        f"written to {out}",
        file=sys.stderr,
    )
    return 0


def _size(model) -> int:
    """Bytes of the weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _answerable(tokenizer, keep: list[int], texts: list[str]) -> list[str]:
    """Texts to compare the model's answers to: those words of the given texts, and all added tokens, that keep all
    their pieces. Spread over the texts."""
    kept = set(keep)

    def survives(text: str) -> bool:
        return set(tokenizer(text, verbose=False)["input_ids"]) <= kept

    step = max(1, len(texts) // NUM_ASKED)
    chosen = [*texts[: len(ASKED)], *texts[len(ASKED) :: step][:NUM_ASKED]]
    found = [text if survives(text) else " ".join(filter(survives, text.split(" "))) for text in chosen]
    neighbour = max(found, key=len)[:20]
    found += [f"{neighbour}{token}{neighbour}" for token in itertools.islice(tokenizer.get_added_vocab(), 20)]
    return [text for text in dict.fromkeys(found) if text.strip() and survives(text)]


def _same_cut(original, other, texts: list[str], keep: list[int] | None = None) -> None:
    """Raise where two tokenizers cut a text into different tokens; texts that have a token outside `keep` must."""
    places = None if keep is None else {old: new for new, old in enumerate(keep)}
    for start in range(0, len(texts), 1000):
        group = texts[start : start + 1000]
        pairs = zip(original(group, verbose=False)["input_ids"], other(group, verbose=False)["input_ids"], strict=True)
        for text, (old, new) in zip(group, pairs, strict=True):
            if places is not None:
                if not places.keys() >= set(old):
                    continue
                old = [places[token_id] for token_id in old]
            if old != new:
                raise ValueError(f"the new tokenizer reads {text[:60]!r} otherwise: nothing was written")


def _answers(model, tokenizer, texts: list[str], rows: list[int] | None = None) -> list:
    """The first output for each text; `rows` of the logits of a language model."""
    import torch

    size = model.get_input_embeddings().num_embeddings
    longest = min(128, getattr(model.config, "max_position_embeddings", None) or 128, tokenizer.model_max_length)
    is_language_model, found = model.get_output_embeddings() is not None, []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = batch["input_ids"]
        with torch.no_grad():
            output = model(**batch)[0]
        wanted = rows is not None and is_language_model
        found.append(output[..., [row for row in rows if row < size]] if wanted else output)
    return found


def _largest_difference(before: list, after: list, name: str) -> float:
    largest = 0.0
    for old, new in zip(before, after, strict=True):
        difference = float((old - new).abs().max())
        if not difference <= 1e-5 * max(1.0, float(old.abs().max())):
            raise ValueError(f"{name} answers differently without the tokens: nothing was written")
        largest = max(largest, difference)
    return largest


def _load_as_saved(options: argparse.Namespace):
    """(model, tokenizer), the model in the class it was saved from; of suzoo's wrappers, the wrapper."""
    import transformers

    import suzoo.models
    from suzoo.models._sentence_files import read_json

    config = transformers.AutoConfig.from_pretrained(options.model, **source(options))
    saved_as = (config.architectures or ["nothing"])[0]
    is_classifier = saved_as.endswith("ForSequenceClassification")
    if is_classifier and config.num_labels == 1 and hasattr(config, "sentence_transformers"):
        saved_as = "CoSENTCrossEncoder"
    elif not is_classifier and any(
        read_json(options.model, name, {"revision": options.revision})
        for name in ("modules.json", "1_Pooling/config.json")
    ):
        saved_as = "CoSENTModel"
    model_class = getattr(suzoo.models, saved_as, None) or getattr(transformers, saved_as, None)
    if model_class is None:
        raise ValueError(f"it was saved from {saved_as}, a class that neither transformers nor suzoo has")
    tokenizer = load_tokenizer(config, options)
    return model_class.from_pretrained(options.model, **source(options)).eval(), tokenizer


def add_commands(command) -> None:
    sub = command("slim-vocab", slim_vocab, "Cut a model and its tokenizer to the tokens that are used.")
    sub.add_argument(
        "model", type=model_name, help="folder of a saved model, or its name on the Hub; WordPiece, Unigram or BPE"
    )
    sub.add_argument("output", help="folder to write")
    add_source_options(sub)
    rule = sub.add_mutually_exclusive_group(required=True)
    rule.add_argument("--corpus", help="keep the tokens of these texts: txt, jsonl, csv, tsv or parquet")
    rule.add_argument(
        "--bert4keras-rule", action="store_true", help="drop tokens of several characters with an ideograph or sign"
    )
    sub.add_argument("--column", help="column of the corpus with the text (default: text, or the only one)")
    sub.add_argument("--min-count", type=positive, default=1, help="keep what occurs so often (default: 1)")
    sub.add_argument(
        "--add-words", metavar="FILE", help="txt with a word per line: each becomes a token, the mean of its pieces"
    )
