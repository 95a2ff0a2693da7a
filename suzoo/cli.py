"""The command `suzoo`. Every subcommand imports what it needs when it runs, so that `--help` answers at once.

Exit codes: 0 done, 1 the folder does not verify, 2 a mistake of the user's (one sentence on stderr), 130 interrupted.
SUZOO_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path

EMBEDDING_FORMATS = (".npy", ".jsonl", ".parquet")


# ---- input and output


def _read_lines(name: str) -> list[str]:
    """One text per line of a file, or of stdin for "-". Empty lines are texts too: line n is always row n."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{name} line {line} is not UTF-8: convert it, for example with iconv") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_table(name: str) -> list[dict]:
    from suzoo.data import read_rows

    rows = read_rows(name)
    if not rows:
        raise ValueError(f"{name} has no rows")
    return rows


def _read_texts(name: str, column: str | None) -> list[str]:
    """Texts of a .txt file or stdin (a line each), or of one column of a table."""
    if name == "-" or name.endswith((".txt", ".txt.gz")):
        if column is not None:
            raise ValueError("--column is for tables; a text file has one text per line")
        return _read_lines(name)
    rows = _read_table(name)
    columns = list(rows[0])
    if column is None:
        column = columns[0] if len(columns) == 1 else "text"
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(f"{name} row {number} has no column {column!r}; choose with --column: {', '.join(row)}")
        if not isinstance(row[column], str):
            raise ValueError(f"{name} row {number}: {column!r} is {type(row[column]).__name__}, not text")
    return [row[column] for row in rows]


def _check_output(output: str, formats: tuple[str, ...], overwrite: bool) -> Path:
    """Fail before the work and not after it."""
    path = Path(output)
    if path.suffix not in formats:
        raise ValueError(f"{output}: the output's name must end in {' or '.join(formats)}")
    if path.exists() and not overwrite:
        raise ValueError(f"{output} exists; give --overwrite to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"no permission to write to {path.parent}")
    return path


@contextlib.contextmanager
def _replacing(path: Path) -> Generator[Path]:
    """A temporary neighbour of `path` that takes its place when the block succeeds, and disappears when it does not."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_embeddings(path: Path, texts: list[str], vectors) -> None:
    if path.suffix == ".npy":
        import numpy as np

        np.save(path, vectors)
    elif path.suffix == ".jsonl":
        _write_jsonl(
            path, [{"text": text, "embedding": row.tolist()} for text, row in zip(texts, vectors, strict=True)]
        )
    else:
        import pyarrow as pa
        from pyarrow import parquet

        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        parquet.write_table(pa.table({"text": pa.array(texts, pa.string()), "embedding": embeddings}), path)


# ---- models


def _reason(error: Exception) -> str:
    """Why a model cannot be loaded; transformers' own first line where the Hub has not said it plainer."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    if isinstance(cause, RepositoryNotFoundError):
        return "it is neither a folder nor a model of the Hub that this account may see"
    if cause is not None and cause.response.status_code == 401:
        return "the Hub does not accept the token: log in again with `hf auth login`, or unset HF_TOKEN"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _quiet() -> None:
    """No notes and bars of transformers on the way; errors are raised."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _load(kind: str, options: argparse.Namespace):
    """The encoder or cross-encoder of `options.model`, ready on its device."""
    import torch
    from transformers import AutoConfig

    from suzoo.models import CoSENTCrossEncoder, CoSENTModel

    name = options.model
    _quiet()
    if not Path(name).exists() and (name.count("/") > 1 or name.startswith((".", "~"))):
        raise ValueError(f"there is no folder {name}")
    try:
        config = AutoConfig.from_pretrained(name, revision=options.revision)
        is_classifier = any(arch.endswith("ForSequenceClassification") for arch in config.architectures or [])
        if kind == "encoder" and is_classifier:
            raise ValueError("it is a cross-encoder, which scores pairs: use `suzoo rerank`")
        if kind == "cross-encoder" and not (is_classifier and config.num_labels == 1):
            raise ValueError("it is not a cross-encoder with one score, so it cannot rerank")
        model_class = CoSENTModel if kind == "encoder" else CoSENTCrossEncoder
        model = model_class.from_pretrained(name, revision=options.revision, dtype=options.dtype)
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        _ = model.tokenizer  # a missing tokenizer is a mistake to hear of before the input is read
    except Exception as error:
        raise ValueError(f"cannot load {name}: {_reason(error)}") from error
    return model


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a saved model, or its name on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--batch-tokens", type=_positive, default=2048, help="tokens computed at once (default: 2048)")
    parser.add_argument("--max-length", type=_positive, help="tokens per input; longer ones are cut")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


# ---- subcommands


def encode(options: argparse.Namespace) -> int:
    path = _check_output(options.output, EMBEDDING_FORMATS, options.overwrite)
    texts = _read_texts(options.input, options.column)
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
    with _replacing(path) as temporary:
        _write_embeddings(temporary, texts, vectors)
    cut = int((truncated > 0).sum())
    note = f", {cut} of them cut to the model's length" if cut else ""
    print(f"{len(texts)} texts{note}: {vectors.shape[1]} dimensions, written to {path}", file=sys.stderr)
    return 0


def _queries(options: argparse.Namespace) -> list[dict]:
    """Rows of {"query", "documents", ...}."""
    if options.query is not None and options.documents is not None and options.input is None:
        return [{"query": options.query, "documents": _read_texts(options.documents, options.column)}]
    if options.input is None or options.query is not None or options.documents is not None:
        raise ValueError("give --query and --documents for one query, or --input with a jsonl file of many")
    rows = _read_table(options.input)
    for number, row in enumerate(rows, start=1):
        documents = row.get("documents")
        if not isinstance(row.get("query"), str):
            raise ValueError(f'{options.input} row {number} needs "query": a text')
        if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
            raise ValueError(f'{options.input} row {number} needs "documents": a list of texts')
    return rows


def rerank(options: argparse.Namespace) -> int:
    import numpy as np

    path = _check_output(options.output, (".jsonl",), options.overwrite) if options.output else None
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
        with _replacing(path) as temporary:
            _write_jsonl(temporary, lines)
        print(f"{len(rows)} queries, {len(scores)} documents, written to {path}", file=sys.stderr)
    return 0


def verify(options: argparse.Namespace) -> int:
    from suzoo.hub.golden import check_with_suzoo
    from suzoo.hub.verify import format_table, passed
    from suzoo.hub.verify import verify as verify_folder

    _quiet()
    doors = [*verify_folder(options.folder), check_with_suzoo(options.folder)]
    print(format_table(doors))
    return 0 if passed(doors) else 1


def push(options: argparse.Namespace) -> int:
    from suzoo.hub.push import push as push_folder

    _quiet()
    url = push_folder(
        options.folder,
        options.repo_id,
        private=True if options.private else None,
        revision=options.revision,
        create_pr=options.create_pr,
        commit_message=options.message,
        report=lambda table: print(table, file=sys.stderr),  # stdout is the URL
    )
    print(url)
    return 0


def export_onnx(options: argparse.Namespace) -> int:
    from suzoo.hub.export_onnx import export_onnx as export

    path = _check_output(options.output, (".onnx",), options.overwrite)
    _quiet()
    print(export(options.folder, path))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="suzoo", description="Use, check and publish suzoo's models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    sub = command("encode", encode, "Texts to vectors, in the order given.")
    _add_model_options(sub)
    sub.add_argument("input", help="txt (a text per line), jsonl, csv, tsv or parquet, or - for lines from stdin")
    sub.add_argument("--output", required=True, help="*.npy (N, D), or *.jsonl or *.parquet with text and embedding")
    sub.add_argument("--column", help="column with the text (default: text, or the only one)")
    sub.add_argument("--prompt-name", help="one of the prompts saved with the model")
    sub.add_argument("--normalize", action="store_true", help="vectors of length 1 (default: as the model was saved)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")

    sub = command("rerank", rerank, "Order documents by their score for a query.")
    _add_model_options(sub)
    sub.add_argument("--query", help="one query")
    sub.add_argument("--documents", help="its documents: txt (one per line), jsonl, csv, tsv, parquet, or - for stdin")
    sub.add_argument("--column", help="column with the document (default: text, or the only one)")
    sub.add_argument("--input", help='many queries: jsonl of {"query": ..., "documents": [...]}')
    sub.add_argument("--output", help="*.jsonl (default: stdout)")
    sub.add_argument("--top-k", type=_positive, help="only the best k")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")

    sub = command("verify", verify, "Open a saved model in every way it promises, without suzoo, and compare.")
    sub.add_argument("folder", help="folder of the saved model, with golden.safetensors")

    sub = command("push", push, "Verify a saved model and upload it to the Hub; run again to resume.")
    sub.add_argument("folder", help="folder of the saved model, with golden.safetensors")
    sub.add_argument("repo_id", metavar="REPO", help="owner/name, or name for your own account")
    sub.add_argument("--private", action="store_true", help="make the repository private when it is created")
    sub.add_argument("--revision", help="branch to push to, created when missing")
    sub.add_argument("--create-pr", action="store_true", help="propose the upload as a pull request")
    sub.add_argument("--message", default="Upload model with suzoo", help="commit message")

    sub = command("export-onnx", export_onnx, "An ONNX file of a saved encoder or cross-encoder.")
    sub.add_argument("folder", help="folder of the saved model")
    sub.add_argument("output", help="*.onnx")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.function(options)
    except BrokenPipeError:  # the reader of our stdout, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("SUZOO_TRACEBACK"):
            raise
        is_about_a_file = isinstance(error, OSError) and error.strerror and error.filename
        message = f"{error.filename}: {error.strerror}" if is_about_a_file else error
        print(f"suzoo {options.command}: {message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
