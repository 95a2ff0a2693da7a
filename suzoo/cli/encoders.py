"""`suzoo encode` and `suzoo rerank`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from suzoo.cli._files import check_output, iterate_rows, read_texts, replacing, write_jsonl
from suzoo.cli._models import add_model_options, load_tokenizer, loading, on_device, positive, source

EMBEDDING_FORMATS = (".npy", ".jsonl", ".parquet")


def _load(kind: str, options: argparse.Namespace):
    """The encoder or cross-encoder of `options.model`, ready on its device."""
    with loading(options.model):
        from transformers import AutoConfig

        from suzoo.models import CoSENTCrossEncoder, CoSENTModel

        config = AutoConfig.from_pretrained(options.model, **source(options))
        is_classifier = any(arch.endswith("ForSequenceClassification") for arch in config.architectures or [])
        if kind == "encoder" and is_classifier:
            raise ValueError("it is a cross-encoder, which scores pairs: use `suzoo rerank`")
        if kind == "cross-encoder" and not (is_classifier and config.num_labels == 1):
            raise ValueError("it is not a cross-encoder with one score, so it cannot rerank")
        model_class = CoSENTModel if kind == "encoder" else CoSENTCrossEncoder
        model = model_class.from_pretrained(options.model, dtype=options.dtype, **source(options))
        model.tokenizer = load_tokenizer(config, options)
        return on_device(model, options)


def _write_embeddings(path: Path, texts: list[str], vectors) -> None:
    if path.suffix == ".npy":
        import numpy as np

        np.save(path, vectors)
    elif path.suffix == ".jsonl":
        write_jsonl(path, [{"text": text, "embedding": row.tolist()} for text, row in zip(texts, vectors, strict=True)])
    else:
        import pyarrow as pa
        from pyarrow import parquet

        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        parquet.write_table(pa.table({"text": pa.array(texts, pa.string()), "embedding": embeddings}), path)


def encode(options: argparse.Namespace) -> int:
    path = check_output(options.output, EMBEDDING_FORMATS, options.overwrite)
    texts = read_texts(options.input, options.column)
    model = _load("encoder", options)
    vectors, truncated = model.encode(
        texts,
        prompt_name=options.prompt_name,
        normalize=True if options.normalize else None,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        progress=sys.stderr.isatty(),
        return_truncated=True,
    )
    with replacing(path) as temporary:
        _write_embeddings(temporary, texts, vectors)
    cut = int((truncated > 0).sum())
    note = f", {cut} of them cut to the model's length" if cut else ""
    print(f"{len(texts)} texts{note}: {vectors.shape[1]} dimensions, written to {path}", file=sys.stderr)
    return 0


def _queries(options: argparse.Namespace) -> list[dict]:
    """Rows of {"query", "documents", ...}."""
    if options.query is not None and options.documents is not None and options.input is None:
        return [{"query": options.query, "documents": read_texts(options.documents, options.column)}]
    from suzoo.data.readers import text_of

    if options.input is None or options.query is not None or options.documents is not None:
        raise ValueError("give --query and --documents for one query, or --input with a jsonl file of many")
    rows = []
    for where, row in iterate_rows(options.input):
        documents = row.get("documents")
        if not isinstance(row.get("query"), str):
            raise ValueError(f'{where} needs "query": a text')
        if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
            raise ValueError(f'{where} needs "documents": a list of texts')
        for text in (row["query"], *documents):
            text_of(where, {"text": text}, "a text of it", "text", may_be_empty=True)
        rows.append(row)
    if not rows:
        raise ValueError(f"{options.input} has no rows")
    return rows


def rerank(options: argparse.Namespace) -> int:
    import numpy as np

    path = check_output(options.output, (".jsonl",), options.overwrite) if options.output else None
    rows = _queries(options)
    model = _load("cross-encoder", options)
    scores = model.predict(
        [(row["query"], document) for row in rows for document in row["documents"]],
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        progress=sys.stderr.isatty(),
    )
    lengths = [len(row["documents"]) for row in rows]
    results = []
    for row, scores_N in zip(rows, np.split(scores, np.cumsum(lengths)[:-1]), strict=True):
        order = np.argsort(-scores_N, kind="stable")[: options.top_k]
        ranking = [{"corpus_id": int(i), "score": float(scores_N[i]), "text": row["documents"][i]} for i in order]
        results.append(ranking if options.input is None else [{**row, "ranking": ranking}])
    lines = [line for result in results for line in result]
    if path is None:
        print("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    else:
        with replacing(path) as temporary:
            write_jsonl(temporary, lines)
        print(f"{len(rows)} queries, {len(scores)} documents, written to {path}", file=sys.stderr)
    return 0


def _add_batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-tokens", type=positive, default=2048, help="tokens computed at once (default: 2048)")
    parser.add_argument("--max-length", type=positive, help="tokens per input; longer ones are cut")


def add_commands(command) -> None:
    sub = command("encode", encode, "Texts to vectors, in the order given.")
    add_model_options(sub)
    _add_batch_options(sub)
    sub.add_argument("input", help="txt (a text per line), jsonl, csv, tsv or parquet, or - for lines from stdin")
    sub.add_argument("--output", required=True, help="*.npy (N, D), or *.jsonl or *.parquet with text and embedding")
    sub.add_argument("--column", help="column with the text (default: text, or the only one)")
    sub.add_argument("--prompt-name", help="one of the prompts saved with the model")
    sub.add_argument("--normalize", action="store_true", help="vectors of length 1 (default: as the model was saved)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")

    sub = command("rerank", rerank, "Order documents by their score for a query.")
    add_model_options(sub)
    _add_batch_options(sub)
    sub.add_argument("--query", help="one query")
    sub.add_argument("--documents", help="its documents: txt (one per line), jsonl, csv, tsv, parquet, or - for stdin")
    sub.add_argument("--column", help="column with the document (default: text, or the only one)")
    sub.add_argument("--input", help='many queries: jsonl of {"query": ..., "documents": [...]}')
    sub.add_argument("--output", help="*.jsonl (default: stdout)")
    sub.add_argument("--top-k", type=positive, help="only the best k")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
