"""Losses against the peer that has them, forward and backward: time and peak memory as ratios, over growing sizes.

    python benchmarks/bench_losses.py                      # all
    python benchmarks/bench_losses.py --only cosent supcon --rounds 50

Both sides get the same tensors and must agree in value, or the run stops. A ratio above 1 is a peer that is slower
(time) or needs more (memory). Peers: sentence-transformers and pytorch-metric-learning (extra `bench`), torch, and for
multi-label the way it is usually written. TaiLr has no peer: it is compared with plain cross-entropy, in cost and not
in value (marked *). Close everything else before you believe a time.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SupConLoss
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from timing import paired
from torch import Tensor

from suzoo.losses import (
    CosineLinear,
    am_softmax_loss,
    arcface_loss,
    contrastive_loss,
    cosent_loss,
    cross_entropy_loss,
    multilabel_cross_entropy,
    sparse_multilabel_cross_entropy,
    supcon_loss,
    tailr_loss,
)

DIM = 384  # of a small sentence encoder


@dataclass
class Comparison:
    """`ours(leaf)` and `peer(leaf)` are losses of one leaf tensor."""

    size: str
    leaf: Tensor
    ours: Callable[[Tensor], Tensor]
    peer: Callable[[Tensor], Tensor]
    same_value: bool = True


def cosent() -> Iterator[Comparison]:
    peer = CoSENTLoss(model=torch.nn.Identity(), similarity_fct=lambda scores, _: scores)
    for num_pairs in (32, 256, 1024, 4096, 16384, 65536):
        labels = torch.randint(0, 6, (num_pairs,)).float()
        yield Comparison(
            f"{num_pairs} pairs",
            torch.rand(num_pairs) * 2 - 1,
            lambda s, y=labels: cosent_loss(s, y),
            lambda s, y=labels: peer.compute_loss_from_embeddings([s, s], y),
        )


def contrastive() -> Iterator[Comparison]:
    peer = MultipleNegativesRankingLoss(model=torch.nn.Identity())
    for size in (32, 128, 512, 2048):
        yield Comparison(
            f"{size} x {DIM}",
            torch.randn(2, size, DIM),
            lambda e: contrastive_loss(*e),
            lambda e: peer.compute_loss_from_embeddings(list(e), None),
        )


def supcon() -> Iterator[Comparison]:
    peer = SupConLoss(temperature=0.1)
    for size in (32, 128, 512, 2048):
        labels = torch.randint(0, 16, (size,))
        yield Comparison(
            f"{size} x {DIM}",
            torch.randn(size, DIM),
            lambda e, y=labels: supcon_loss(e, y),
            lambda e, y=labels: peer(e, y),
        )


def margin(ours: Callable[..., Tensor], peer_class: type) -> Iterator[Comparison]:
    for num_classes in (100, 1000, 10_000):
        labels = torch.randint(0, num_classes, (64,))
        head, peer = CosineLinear(DIM, num_classes), peer_class(num_classes=num_classes, embedding_size=DIM)
        head.weight.data = peer.W.data.T.clone()
        options = {"scale": peer.scale, "margin": float(peer.margin)}
        yield Comparison(
            f"64 rows, {num_classes} classes",
            torch.randn(64, DIM),
            lambda e, y=labels, h=head, o=options: ours(h(e), y, **o),
            lambda e, y=labels, p=peer: p(e, y),
        )


def am_softmax() -> Iterator[Comparison]:
    return margin(am_softmax_loss, CosFaceLoss)


def arcface() -> Iterator[Comparison]:
    return margin(arcface_loss, ArcFaceLoss)


def token_logits() -> Iterator[tuple[str, Tensor, Tensor]]:
    for num_tokens, vocab_size in ((256, 1000), (256, 10_000), (512, 30_000)):
        labels = torch.randint(0, vocab_size, (num_tokens,))
        labels[::5] = -100
        yield f"{num_tokens} tokens, {vocab_size} classes", torch.randn(num_tokens, vocab_size), labels


def cross_entropy() -> Iterator[Comparison]:
    for size, logits, labels in token_logits():
        yield Comparison(
            size, logits, lambda z, y=labels: cross_entropy_loss(z, y), lambda z, y=labels: F.cross_entropy(z, y)
        )


def label_smoothing() -> Iterator[Comparison]:
    for size, logits, labels in token_logits():
        yield Comparison(
            size,
            logits,
            lambda z, y=labels: cross_entropy_loss(z, y, label_smoothing=0.1),
            lambda z, y=labels: F.cross_entropy(z, y, label_smoothing=0.1),
        )


def tailr() -> Iterator[Comparison]:
    for size, logits, labels in token_logits():
        yield Comparison(
            size,
            logits,
            lambda z, y=labels: tailr_loss(z, y, gamma=0.1, min_weight=0.3),
            lambda z, y=labels: F.cross_entropy(z, y),
            same_value=False,
        )


def _bert4keras_form(scores: Tensor, targets: Tensor) -> Tensor:
    """Multi-label cross-entropy as it is usually written: both masks by subtracting 1e12."""
    flipped = (1 - 2 * targets) * scores
    zeros = torch.zeros_like(scores[:, :1])
    negative = torch.cat([flipped - 1e12 * targets, zeros], 1).logsumexp(1)
    return (negative + torch.cat([flipped - 1e12 * (1 - targets), zeros], 1).logsumexp(1)).mean()


def multilabel() -> Iterator[Comparison]:
    for num_classes in (100, 1000, 10_000):
        targets = (torch.rand(64, num_classes) < 3 / num_classes).float()
        yield Comparison(
            f"64 rows, {num_classes} classes",
            torch.randn(64, num_classes),
            lambda z, y=targets: multilabel_cross_entropy(z, y),
            lambda z, y=targets: _bert4keras_form(z, y),
        )


def sparse_multilabel() -> Iterator[Comparison]:
    for num_classes in (100, 1000, 10_000):
        indices = torch.randint(0, num_classes, (64, 3))
        targets = torch.zeros(64, num_classes).scatter(1, indices, 1.0)
        yield Comparison(
            f"64 rows, {num_classes} classes",
            torch.randn(64, num_classes),
            lambda z, y=indices: sparse_multilabel_cross_entropy(z, y),
            lambda z, y=targets: multilabel_cross_entropy(z, y),
        )


COMPARISONS = {
    function.__name__: function
    for function in (
        cosent,
        contrastive,
        supcon,
        am_softmax,
        arcface,
        cross_entropy,
        label_smoothing,
        tailr,
        multilabel,
        sparse_multilabel,
    )
}


def forward_backward(loss: Callable[[Tensor], Tensor], leaf: Tensor) -> None:
    leaf.grad = None
    loss(leaf).backward()


def _grown(loss: Callable[[Tensor], Tensor], leaf: Tensor, pipe) -> None:
    torch.ones(2, requires_grad=True).sum().backward()  # what the first backward of any process allocates
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward_backward(loss, leaf)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def peak_memory(loss: Callable[[Tensor], Tensor], leaf: Tensor) -> float:
    """MiB by which one forward and backward raise the resident memory, in a forked process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    process = context.Process(target=_grown, args=(loss, leaf, sender))
    process.start()
    grown = receiver.recv()
    process.join()
    return grown / 1024


@dataclass
class Options:
    only: tuple[str, ...] = tuple(COMPARISONS)
    """Which losses."""
    rounds: int = 30
    """Timed rounds per size."""
    max_elements: int = 10**9
    """Skip sizes whose leaf has more elements."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    print("| loss | size | time, peer/ours | q10..q90 | ours ms | memory, peer/ours | ours MiB |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        for case in COMPARISONS[name]():
            if case.leaf.numel() > options.max_elements:
                continue
            leaf = case.leaf.requires_grad_()
            if case.same_value:
                torch.testing.assert_close(case.ours(leaf), case.peer(leaf), rtol=1e-4, atol=1e-4)
            ours_memory, peer_memory = peak_memory(case.ours, leaf), peak_memory(case.peer, leaf)
            ratio = paired(
                lambda _, c=case: forward_backward(c.ours, c.leaf),
                lambda _, c=case: forward_backward(c.peer, c.leaf),
                options.rounds,
            )
            # the code that is paged in takes about 10 MiB
            memory = f"{peer_memory / ours_memory:.2f}" if min(ours_memory, peer_memory) > 16 else "-"
            star = "" if case.same_value else "*"
            print(
                f"| {name}{star} | {case.size} | {ratio.median:.2f} | {ratio.q10:.2f}..{ratio.q90:.2f} | "
                f"{1000 * ratio.ours:.2f} | {memory} | {ours_memory:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
