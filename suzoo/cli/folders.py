"""`suzoo verify`, `suzoo push` and `suzoo export-onnx`: saved folders."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from suzoo.cli._files import check_output
from suzoo.cli._models import add_trust_option, loading, model_name, positive


def verify(options: argparse.Namespace) -> int:
    from suzoo.hub.check import open_doors
    from suzoo.hub.verify import format_table, passed

    doors = open_doors(options.folder, trust_remote_code=options.trust_remote_code, timeout=options.timeout)
    print(format_table(doors))
    return 0 if passed(doors) else 1


def push(options: argparse.Namespace) -> int:
    from suzoo.hub.push import push as push_folder

    url = push_folder(
        options.folder,
        options.repo_id,
        private=True if options.private else None,
        revision=options.revision,
        create_pr=options.create_pr,
        card=options.card,
        commit_message=options.message,
        trust_remote_code=options.trust_remote_code,
        timeout=options.timeout,
        report=lambda table: print(table, file=sys.stderr),  # stdout is the URL
    )
    print(url)
    return 0


def export_onnx(options: argparse.Namespace) -> int:
    if options.compare and not options.int8:
        raise ValueError("--compare says what --int8 costs: give both")
    path = check_output(options.output, (".onnx",), options.overwrite)
    with loading(options.folder):
        from suzoo.hub.export_onnx import export_model, load_model

        model = load_model(options.folder, trust_remote_code=options.trust_remote_code)
        model.tokenizer  # noqa: B018 loaded on first use, and it may need code, too
    if not options.int8:
        print(export_model(model, path))
        return 0
    from suzoo.data import read_pairs
    from suzoo.hub.onnx_encoder import quantize, with_onnx
    from suzoo.models import CoSENTModel

    if not isinstance(model, CoSENTModel):
        raise ValueError("--int8 is for encoders; a cross-encoder exports in float32")
    pairs = read_pairs(options.compare) if options.compare else None
    exact = _spearman(model, pairs) if pairs else 0.0
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        print(quantize(export_model(model, Path(folder) / "model.onnx"), path))
    if pairs:
        rounded = _spearman(with_onnx(model, path), pairs)
        print(
            f"Spearman on {len(pairs)} pairs: {exact:.4f} in float32, {rounded:.4f} in int8, "
            f"{rounded - exact:+.4f} for int8",
            file=sys.stderr,
        )
    return 0


def _spearman(model, pairs) -> float:
    from suzoo.data import numbers
    from suzoo.evaluation import pair_cosines, pair_metrics

    return pair_metrics(pair_cosines(model.encode, pairs), numbers(pairs, "label"))["spearman"]


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    add_trust_option(parser)
    parser.add_argument(
        "--timeout", type=positive, metavar="SECONDS", help="for all ways of opening it (default: by the folder's size)"
    )


def add_commands(command) -> None:
    sub = command("verify", verify, "Open a saved model in every way it promises, without suzoo, and compare.")
    sub.add_argument("folder", type=model_name, help="folder of the saved model, with golden.safetensors")
    _add_check_options(sub)

    sub = command("push", push, "Verify a saved model and upload it to the Hub; run again to resume.")
    sub.add_argument("folder", type=model_name, help="folder of the saved model, with golden.safetensors")
    sub.add_argument("repo_id", metavar="REPO", help="owner/name, or name for your own account")
    sub.add_argument("--private", action="store_true", help="make the repository private when it is created")
    sub.add_argument("--revision", help="branch to push to, created when missing")
    sub.add_argument("--create-pr", action="store_true", help="propose the upload as a pull request")
    sub.add_argument("--message", default="Upload model with suzoo", help="commit message")
    sub.add_argument(
        "--card", choices=["keep", "replace"], help="what to do with a README.md that was edited on the Hub"
    )
    _add_check_options(sub)

    sub = command("export-onnx", export_onnx, "An ONNX file of a saved encoder or cross-encoder.")
    sub.add_argument("folder", type=model_name, help="folder of the saved model")
    sub.add_argument("output", help="*.onnx")
    sub.add_argument("--int8", action="store_true", help="weights in int8, a scale per channel (encoders)")
    sub.add_argument(
        "--compare", metavar="PAIRS", help="with --int8: pairs with a score, to print Spearman before and after"
    )
    add_trust_option(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
