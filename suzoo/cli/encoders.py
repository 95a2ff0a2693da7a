"""`suzoo encode` and `suzoo rerank`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from suzoo.chinese import local
from suzoo.cli._chunks import add_resume_option, run_in_chunks
from suzoo.cli._files import check_output, iterate_rows, iterate_texts, json_lines, read_texts
from suzoo.cli._models import add_model_options, load_tokenizer, loading, on_device, positive, source

EMBEDDING_FORMATS = (".npy", ".jsonl", ".parquet")
CHUNK = 4096  # texts, or documents, that are computed and written together
BATCH = 64  # the fewest, unless there are no more
ROW_GROUP_CHUNKS = 16  # chunks in a row group of a parquet file


def load(kind: str, options: argparse.Namespace):
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


def _npy_header(num_rows: int, num_dimensions: int) -> bytes:
    """numpy leaves room in it, so that any number of rows takes the same bytes."""
    import io

    import numpy as np

    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, num_dimensions)}
    np.lib.format.write_array_header_1_0(header, shape)
    return header.getvalue()


def _embeddings_schema(num_dimensions: int):
    import pyarrow as pa

    return pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32(), num_dimensions))])


def _embeddings_as(suffix: str, texts: list[str], vectors) -> bytes:
    """One chunk: rows of an .npy, lines of a .jsonl, or a message of an Arrow stream, of which `_to_parquet` makes a
    .parquet in the end. A .parquet itself can't be continued: its table of contents is behind the last row."""
    import pyarrow as pa

    if suffix == ".npy":
        return vectors.tobytes()
    if suffix == ".jsonl":
        rows = zip(texts, vectors, strict=True)
        return json_lines({"text": text, "embedding": row.tolist()} for text, row in rows)
    schema = _embeddings_schema(vectors.shape[1])
    columns = [
        pa.array(texts, pa.string()),
        pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), type=schema[1].type),
    ]
    return pa.record_batch(columns, schema=schema).serialize().to_pybytes()


def _to_parquet(path: Path) -> None:
    """The Arrow stream in place of itself as parquet, in row groups."""
    import pyarrow as pa
    from pyarrow import parquet

    new = path.with_name(f"{path.name}.parquet")
    with (
        pa.memory_map(str(path)) as source,
        pa.ipc.open_stream(source) as stream,
        parquet.ParquetWriter(new, stream.schema) as writer,
    ):
        batches = iter(stream)
        while group := list(islice(batches, ROW_GROUP_CHUNKS)):
            writer.write_table(pa.Table.from_batches(group))
    new.replace(path)


def encode(options: argparse.Namespace) -> int:
    path = check_output(options.output, EMBEDDING_FORMATS, options.overwrite)
    model = load("encoder", options)
    if options.backend == "onnx":
        from suzoo.hub.onnx_encoder import graph_of, with_onnx

        model = with_onnx(model.to("cpu").float(), graph_of(options.model))
    num_dimensions = model.embedding_size
    headers = {".npy": lambda: _npy_header(0, num_dimensions), ".jsonl": bytes}
    headers[".parquet"] = lambda: _embeddings_schema(num_dimensions).serialize().to_pybytes()

    def compute(texts: list[str]) -> tuple[bytes, dict[str, float]]:
        vectors, truncated = model.encode(
            texts,
            prompt_name=options.prompt_name,
            normalize=True if options.normalize else None,
            max_length=options.max_length,
            batch_tokens=options.batch_tokens,
            return_truncated=True,
        )
        return _embeddings_as(path.suffix, texts, vectors), {"cut": int((truncated > 0).sum())}

    def complete(partial: Path, num_rows: int) -> None:
        if path.suffix == ".npy":
            with partial.open("r+b") as file:
                file.write(_npy_header(num_rows, num_dimensions))
        elif path.suffix == ".parquet":
            _to_parquet(partial)

    num_texts, totals = run_in_chunks(
        options,
        path,
        lambda: iterate_texts(options.input, options.column),
        compute,
        chunk=CHUNK,
        batch=BATCH,
        header=headers[path.suffix](),
        complete=complete,
    )
    note = f", {totals['cut']} of them cut to the model's length" if totals["cut"] else ""
    print(local(f"{num_texts} texts{note}: {num_dimensions} dimensions, written to {path}"), file=sys.stderr)
    return 0


def _queries(options: argparse.Namespace) -> Iterator[dict]:
    """Rows of {"query", "documents", ...}."""
    from suzoo.data._values import text_of

    if options.input is None:
        yield {"query": options.query, "documents": read_texts(options.documents, options.column)}
        return
    for where, row in iterate_rows(options.input):
        documents = row.get("documents")
        if not isinstance(row.get("query"), str):
            raise ValueError(f'{where} needs "query": a text')
        if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
            raise ValueError(f'{where} needs "documents": a list of texts')
        for text in (row["query"], *documents):
            text_of(where, {"text": text}, "a text of it", "text", may_be_empty=True)
        yield row


def rerank(options: argparse.Namespace) -> int:
    import numpy as np

    one, many = (options.query is not None and options.documents is not None), options.input is not None
    if one == many or (many and (options.query is not None or options.documents is not None)):
        raise ValueError("give --query and --documents for one query, or --input with a jsonl file of many")
    path = check_output(options.output, (".jsonl",), options.overwrite) if options.output else None
    model = load("cross-encoder", options)

    def compute(rows: list[dict]) -> tuple[bytes, dict[str, float]]:
        scores = model.predict(
            [(row["query"], document) for row in rows for document in row["documents"]],
            max_length=options.max_length,
            batch_tokens=options.batch_tokens,
            progress=one and sys.stderr.isatty(),
        )
        lines = []
        for row, scores_N in zip(
            rows, np.split(scores, np.cumsum([len(row["documents"]) for row in rows])), strict=False
        ):
            order = np.argsort(-scores_N, kind="stable")[: options.top_k]
            ranking = [{"corpus_id": int(i), "score": float(scores_N[i]), "text": row["documents"][i]} for i in order]
            lines += ranking if one else [{**row, "ranking": ranking}]
        return json_lines(lines), {"documents": len(scores)}

    num_queries, totals = run_in_chunks(
        options,
        path,
        lambda: _queries(options),
        compute,
        chunk=CHUNK,
        batch=BATCH,
        weight=lambda row: len(row["documents"]),
    )
    if not num_queries:
        raise ValueError(f"{options.input} has no rows")
    if path:
        print(local(f"{num_queries} queries, {totals['documents']} documents, written to {path}"), file=sys.stderr)
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
    sub.add_argument(
        "--backend",
        choices=["torch", "onnx"],
        default="torch",
        help="onnx: the model.onnx in MODEL, which `suzoo export-onnx` writes, also in int8 (default: torch)",
    )
    sub.add_argument("--normalize", action="store_true", help="vectors of length 1 (default: as the model was saved)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_resume_option(sub)

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
    add_resume_option(sub)
