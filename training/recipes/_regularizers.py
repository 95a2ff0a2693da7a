"""The flags of `suzoo.regularizers` and of flooding, and what they make of a loss, for the scripts that take them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel

from recipes._base import ExampleTraining
from suzoo.losses import flooding, rdrop_sum, symmetric_kl
from suzoo.regularizers import embedding_noise, fgm, gradient_penalty, pgd, vat_loss, weissi_penalty

REGULARIZERS = ("fgm", "pgd", "vat", "gradient_penalty", "embedding_noise", "rdrop", "flood", "weissi")


@dataclass(frozen=True, kw_only=True)
class Regularized(ExampleTraining):
    fgm: float = 0.0
    """Adversarial training: the loss is taken at the embeddings moved by this length along its gradient."""
    pgd: float = 0.0
    """The same in several steps within this distance."""
    pgd_step_size: float = 0.3
    """Length of each step of --pgd."""
    pgd_steps: int = 3
    """Steps of --pgd; each costs a forward and a backward."""
    vat: float = 0.0
    """Virtual adversarial training: adds the divergence of the prediction when the embeddings move by this length."""
    vat_weight: float = 1.0
    """Weight of that divergence."""
    disturbance_norm: Literal["token", "sample", "batch", "matrix"] = "token"
    """What moves by the length of --fgm, --pgd and --vat: every token, row or batch, or the embedding matrix, as in the
    article; all but token is spread over more tokens."""
    gradient_penalty: float = 0.0
    """Weight of half the squared gradient of the loss by the embeddings (with a loss per row: of each row's)."""
    embedding_noise: float = 0.0
    """Standard deviation of Gaussian noise on the embeddings."""
    rdrop: float = 0.0
    """Weight of R-Drop: two passes with their own dropout should agree; the blog takes 4, with --dropout 0.3."""
    flood: float = 0.0
    """Flooding: where the training loss is below this level, climb."""
    weissi: float = 0.0
    """Weight of WEISSI, the weight penalty that does not change when scale moves between layers."""

    @property
    def cited(self) -> list[str]:
        """The losses among the flags, by the names that `suzoo.losses.citations.cite` knows."""
        return ["rdrop_loss"] * bool(self.rdrop) + ["flooding"] * bool(self.flood)

    def check_regularizers(self, accelerator: Accelerator, *, coupled: bool, flat: bool = False) -> None:
        """Refuse what would run and be wrong.

        Args:
            coupled: the loss compares the examples of the whole step.
            flat: the model gets the tokens of a batch end to end, in one row.
        """

        def refuse(flag: str, reason: str) -> None:
            raise ValueError(f"--{flag.replace('_', '-')} {reason}")

        values = {flag: getattr(self, flag) for flag in REGULARIZERS}
        for flag, value in values.items():
            if value < 0:
                refuse(flag, f"must not be negative, but is {value}")
        attacks = [flag for flag in ("fgm", "pgd", "gradient_penalty") if values[flag]]
        if len(attacks) > 1:
            refuse(attacks[0], f"and --{attacks[1].replace('_', '-')} are forms of one method: choose one")
        if coupled and self.micro_batches > 1:
            for flag in REGULARIZERS:
                if values[flag] and flag != "rdrop":
                    refuse(flag, "and a loss over the whole step need it at once: use --micro-batches 1")
        for flag in [*attacks, *(["vat"] if self.vat else [])]:
            if accelerator.distributed_type == DistributedType.DEEPSPEED:
                refuse(flag, "needs several passes per step, and DeepSpeed steps in each backward: use DDP or FSDP2")
            if self.precision == "fp16":
                refuse(flag, "needs gradients that the loss scale of fp16 does not reach: use --precision bf16")
            if self.compile:
                refuse(flag, "hooks into the embeddings, which a compiled model passes by: leave --compile out")
            if flat and self.disturbance_norm == "sample" and flag != "gradient_penalty":
                refuse("disturbance_norm", "sample knows no rows in texts that lie end to end: use token or batch")
            if self.micro_batches > 1 and self.disturbance_norm in ("batch", "matrix") and flag != "gradient_penalty":
                refuse(flag, f"with the norm of the {self.disturbance_norm} needs --micro-batches 1")
        if self.gradient_penalty:
            if accelerator.distributed_type == DistributedType.FSDP:
                refuse("gradient_penalty", "needs second derivatives, which FSDP2 does not have: use DDP")
            if self.gradient_checkpointing:
                refuse("gradient_penalty", "needs second derivatives: leave --gradient-checkpointing out")
            if coupled and accelerator.num_processes > 1:
                refuse("gradient_penalty", "needs second derivatives, which do not pass between processes: use one")
        if self.embedding_noise and self.compile:
            refuse("embedding_noise", "hooks into the embeddings, which a compiled model passes by")
        if self.flood and self.micro_batches > 1:
            refuse("flood", "needs the loss of the whole step at once: use --micro-batches 1")
        if self.weissi and accelerator.distributed_type == DistributedType.FSDP:
            refuse("weissi", "needs whole matrices, which FSDP2 shards: use DDP")

    def set_dropout(self, model: nn.Module) -> None:
        super().set_dropout(model)
        if self.rdrop and not any(layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)):
            raise ValueError("--rdrop compares two passes with dropout, and this model has none: give a --dropout")

    def regularized(
        self,
        compute_loss: Callable[[], Tensor],
        model: PreTrainedModel,
        *,
        compute_logits: Callable[[], Tensor],
        num_rows: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(what to call backward on, numbers to log) for a loss that may be computed several times.

        Args:
            compute_loss: runs the model and returns the scalar loss.
            model: the module with the embeddings and matrices.
            compute_logits: runs the model and returns what it predicts, (..., C), for --vat.
            num_rows: number of rows the loss is a mean over; None if it is none.
        """
        embedding = model.get_input_embeddings()
        noise = embedding_noise(embedding, self.embedding_noise) if self.embedding_noise else nullcontext()
        parts: dict[str, Tensor] = {}
        norm: Any = self.disturbance_norm
        with noise:
            if self.fgm:
                loss = fgm(compute_loss, embedding, epsilon=self.fgm, norm=norm)
            elif self.pgd:
                loss = pgd(
                    compute_loss,
                    embedding,
                    epsilon=self.pgd,
                    step_size=self.pgd_step_size,
                    num_steps=self.pgd_steps,
                    norm=norm,
                )
            elif self.gradient_penalty:
                loss = gradient_penalty(compute_loss, embedding, epsilon=self.gradient_penalty, num_rows=num_rows)
            else:
                loss = compute_loss()
            if self.vat:
                parts["vat"] = vat_loss(compute_logits, embedding, epsilon=self.vat, norm=norm)
                loss = loss + self.vat_weight * parts["vat"]
        if self.weissi:
            layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
            weights = [m.weight for m in layers if m.weight.requires_grad]
            parts["weissi"] = weissi_penalty(weights, log_weight=self.weissi, direction_weight=self.weissi)
            loss = loss + parts["weissi"]
        parts = {name: value.detach() for name, value in {"loss": loss, **parts}.items()}
        return flooding(loss, self.flood) if self.flood else loss, parts


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The numbers to log of a step from those of its micro-batches."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def preferences(scores_P: Tensor, scale: float) -> Tensor:
    """(P, P, 2) logits of what a loss on the order of scores predicts: which of every two pairs is more alike."""
    differences = scale * (scores_P[:, None] - scores_P)
    return torch.stack([differences, torch.zeros_like(differences)], -1)


def rdrop_of_scores(scores: Tensor, loss: Callable[[Tensor], Tensor], *, alpha: float, scale: float) -> Tensor:
    """R-Drop, in the blog's scale, for a loss on scores of pairs: the `preferences` of two passes (P, 2) should agree.

    With alpha 0 the scores are (P,), and this is the loss.
    """
    if not alpha:
        return loss(scores)
    first, second = scores.unbind(1)
    divergence = symmetric_kl(preferences(first, scale), preferences(second, scale)).mean()
    return rdrop_sum(loss(first), loss(second), divergence, alpha=alpha)
