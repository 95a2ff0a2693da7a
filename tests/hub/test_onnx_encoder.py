"""The vectors of onnxruntime are those of torch; int8 costs little; what a graph can't do is refused."""

from __future__ import annotations

import numpy as np
import pytest

from suzoo.cli import main
from suzoo.models import CoSENTModel
from tests.tiny import LABELS, PAIRS, SENTENCES, tiny_config, tiny_tokenizer

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "model"
    CoSENTModel(tiny_config(), pooling="mean").save_pretrained(folder, tokenizer=tiny_tokenizer())
    (folder.parent / "texts.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    rows = [f"{a}\t{b}\t{label}" for (a, b), label in zip(PAIRS, LABELS, strict=True)]
    (folder.parent / "pairs.tsv").write_text("\n".join(["text1\ttext2\tscore", *rows]), encoding="utf-8")
    return folder


def encode(folder, name: str, *options: str) -> np.ndarray:
    output = folder.parent / name
    assert main(["encode", str(folder), str(folder.parent / "texts.txt"), "--output", str(output), *options]) == 0
    return np.load(output)


def test_a_folder_without_a_graph_says_how_to_get_one(folder, capsys):
    assert (
        main(["encode", str(folder), str(folder.parent / "texts.txt"), "--output", "x.npy", "--backend", "onnx"]) == 2
    )
    assert "write one with `suzoo export-onnx" in capsys.readouterr().err


@pytest.mark.slow  # torch's exporter takes its time, twice
def test_encode_with_onnxruntime_and_in_int8(folder, capsys):
    exact = encode(folder, "torch.npy")
    assert main(["export-onnx", str(folder), str(folder / "model.onnx")]) == 0
    assert abs(encode(folder, "onnx.npy", "--backend", "onnx") - exact).max() < 1e-5
    command = ["export-onnx", str(folder), str(folder / "model.onnx"), "--overwrite"]
    assert main([*command, "--compare", str(folder.parent / "pairs.tsv")]) == 2
    assert main([*command, "--int8", "--compare", str(folder.parent / "pairs.tsv")]) == 0
    said = capsys.readouterr()
    assert "Spearman on 6 pairs:" in said.err and "for int8" in said.err
    int8 = encode(folder, "int8.npy", "--backend", "onnx")
    cosines = (int8 * exact).sum(1) / np.linalg.norm(int8, axis=1) / np.linalg.norm(exact, axis=1)
    assert 0.95 < cosines.min() < 1 - 1e-7  # the weights are rounded, and not much
