"""`suzoo score` and `suzoo summarize`."""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys

from suzoo.chinese import local
from suzoo.cli._chunks import add_resume_option, run_in_chunks
from suzoo.cli._files import check_output, iterate_texts, json_lines
from suzoo.cli._models import (
    add_model_options,
    add_self_terminating_option,
    load_tokenizer,
    loading,
    on_device,
    positive,
    set_self_terminating,
    source,
)

BATCHES_PER_CHUNK = 16  # batches that are computed and written together


def load(model_type: str, otherwise: str, options: argparse.Namespace):
    """(model, tokenizer) of one of our models, ready on its device; `otherwise` is what is said of another."""
    with loading(options.model):
        from transformers import AutoConfig

        from suzoo.models import TTAForMaskedLM, UniLMForCausalLM

        model_class = {"tta": TTAForMaskedLM, "unilm": UniLMForCausalLM}[model_type]
        config = AutoConfig.from_pretrained(options.model, **source(options))
        if config.model_type != model_type:
            raise ValueError(otherwise)
        tokenizer = load_tokenizer(config, options)
        model = model_class.from_pretrained(options.model, dtype=options.dtype, **source(options))
        return on_device(model, options), tokenizer


def score(options: argparse.Namespace) -> int:
    path = check_output(options.output, (".jsonl", ".tsv"), options.overwrite) if options.output else None
    model, tokenizer = load("tta", "it is not a T-TA model, which score needs", options)
    limit, num_special = model.config.max_position_embeddings, tokenizer.num_special_tokens_to_add()
    columns = ["score", "tokens", "per_token", "text"]

    def compute(texts: list[str]) -> tuple[bytes, dict[str, float]]:
        batching = {"batch_size": options.batch_size, "return_counts": True}
        scores, counts = model.score(texts, tokenizer=tokenizer, **batching)
        full = [text for text, count in zip(texts, counts.tolist(), strict=True) if count >= limit - num_special]
        cut = sum(len(tokenizer(text, split_special_tokens=True)["input_ids"]) > limit for text in full)
        rows = [
            dict(zip(columns, (total, count, total / max(1, count), text), strict=True))
            for text, total, count in zip(texts, scores.tolist(), counts.tolist(), strict=True)
        ]
        totals = {"cut": cut, "tokens": int(counts.sum()), "score": sum(scores.tolist())}
        return json_lines(rows) if path is None or path.suffix == ".jsonl" else _table(columns, rows), totals

    num_texts, totals = run_in_chunks(
        options,
        path,
        lambda: iterate_texts(options.input, options.column),
        compute,
        chunk=BATCHES_PER_CHUNK * options.batch_size,
        batch=options.batch_size,
        header=_table(columns, [dict(zip(columns, columns, strict=True))]) if path and path.suffix == ".tsv" else b"",
    )
    note = f", {totals['cut']} of them cut to the model's length" if totals["cut"] else ""
    perplexity = f", pseudo-perplexity {math.exp(-totals['score'] / totals['tokens']):.2f}" if totals["tokens"] else ""
    print(local(f"{num_texts} texts{note}, {totals['tokens']} tokens{perplexity}"), file=sys.stderr)
    return 0


def _table(columns: list[str], rows: list[dict]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, dialect="excel-tab").writerows(rows)
    return text.getvalue().encode()


def summarize(options: argparse.Namespace) -> int:
    path = check_output(options.output, (".jsonl", ".txt"), options.overwrite) if options.output else None
    model, tokenizer = load("unilm", "it is not a UniLM model, which summarize needs", options)
    set_self_terminating(model, options.self_terminating)
    defaults = model.generation_config
    num_beams = options.num_beams or defaults.num_beams or 1
    max_new_tokens = options.max_new_tokens or defaults.max_new_tokens or 32
    positions = model.config.max_position_embeddings
    max_source_tokens = min(options.max_length or positions, positions - max_new_tokens)
    if max_source_tokens < 3:
        raise ValueError(f"--max-new-tokens {max_new_tokens} leaves no room for a source in {positions} positions")

    if options.bert4keras and (options.no_repeat_ngram_size or options.length_penalty != 1):
        raise ValueError("bert4keras' beam search has no --no-repeat-ngram-size and no --length-penalty")

    def write(texts: list[str]) -> list[str]:
        if options.bert4keras:
            from suzoo.decoding import bert4keras_beam_search

            summaries = []
            for text in texts:
                cut = {"truncation": True, "max_length": max_source_tokens}
                ids = tokenizer(text, **cut, split_special_tokens=True)["input_ids"]
                target = bert4keras_beam_search(
                    model, ids, num_beams=num_beams, max_new_tokens=max_new_tokens, end_id=tokenizer.sep_token_id
                )
                summaries.append(tokenizer.decode(target, skip_special_tokens=True))
            return summaries
        return model.generate_texts(
            texts,
            tokenizer=tokenizer,
            batch_size=options.batch_size,
            max_source_tokens=max_source_tokens,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            length_penalty=options.length_penalty,
            do_sample=False,
        )

    def compute(texts: list[str]) -> tuple[bytes, dict[str, float]]:
        summaries = write(texts)
        if path is not None and path.suffix == ".jsonl":
            pairs = zip(texts, summaries, strict=True)
            return json_lines({"text": text, "summary": summary} for text, summary in pairs), {}
        # line n is always article n
        return "".join(" ".join(summary.splitlines()) + "\n" for summary in summaries).encode(), {}

    num_texts, _ = run_in_chunks(
        options,
        path,
        lambda: iterate_texts(options.input, options.column),
        compute,
        chunk=BATCHES_PER_CHUNK * options.batch_size,
        batch=options.batch_size,
    )
    if path is not None:
        print(local(f"{num_texts} texts, written to {path}"), file=sys.stderr)
    return 0


def add_commands(command) -> None:
    sub = command("score", score, "Pseudo-log-likelihoods of texts under a T-TA model, in one pass each.")
    add_model_options(sub)
    sub.add_argument("input", help="txt (a text per line), jsonl, csv, tsv or parquet, or - for lines from stdin")
    sub.add_argument("--column", help="column with the text (default: text, or the only one)")
    sub.add_argument("--output", help="*.jsonl or *.tsv with score, tokens, per_token, text (default: jsonl to stdout)")
    sub.add_argument("--batch-size", type=positive, default=32, help="texts computed at once (default: 32)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_resume_option(sub)

    sub = command("summarize", summarize, "Titles or summaries of texts by a UniLM model.")
    add_model_options(sub)
    sub.add_argument("input", help="txt (a text per line), jsonl, csv, tsv or parquet, or - for lines from stdin")
    sub.add_argument("--column", help="column with the text (default: text, or the only one)")
    sub.add_argument("--output", help="*.txt or *.jsonl with text and summary (default: a line each to stdout)")
    sub.add_argument("--num-beams", type=positive, help="beams; 1 is greedy (default: as the model was saved)")
    sub.add_argument("--max-new-tokens", type=positive, help="longest summary (default: as the model was saved)")
    sub.add_argument("--max-length", type=positive, help="tokens of a text; longer ones are cut")
    sub.add_argument("--no-repeat-ngram-size", type=int, default=0, help="no n-gram twice in a summary; 0 is off")
    sub.add_argument("--length-penalty", type=float, default=1.0, help="of beams: above 0 favours long (default: 1)")
    add_self_terminating_option(sub)
    sub.add_argument("--bert4keras", action="store_true", help="bert4keras' beam search, for comparable numbers")
    sub.add_argument("--batch-size", type=positive, default=16, help="texts computed at once (default: 16)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_resume_option(sub)
