"""The flags of `suzoo.regularizers` and of flooding, and what contradicts them; `step.py` makes a loss of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from recipes.base import ExampleTraining
from recipes.settings import Setting, flag, is_on

if TYPE_CHECKING:
    from accelerate import Accelerator

STRENGTH = Setting(least=0, off=0)
REGULARIZERS = ("fgm", "pgd", "vat", "gradient_penalty", "embedding_noise", "rdrop", "flood", "weissi")


@dataclass(frozen=True, kw_only=True)
class Regularized(ExampleTraining):
    group = "regularizers"

    fgm: Annotated[float, STRENGTH] = 0.0
    """Adversarial training: the loss is taken at the embeddings moved by this length along its gradient."""
    pgd: Annotated[float, STRENGTH] = 0.0
    """The same in several steps within this distance."""
    pgd_step_size: Annotated[float, Setting(above=0, part_of=("pgd",))] = 0.3
    """Length of each step of --pgd."""
    pgd_steps: Annotated[int, Setting(least=1, part_of=("pgd",))] = 3
    """Steps of --pgd; each costs a forward and a backward."""
    vat: Annotated[float, STRENGTH] = 0.0
    """Virtual adversarial training: adds the divergence of the prediction when the embeddings move by this length."""
    vat_weight: Annotated[float, Setting(least=0, part_of=("vat",))] = 1.0
    """Weight of that divergence."""
    disturbance_norm: Annotated[
        Literal["token", "sample", "batch", "matrix"], Setting(part_of=("fgm", "pgd", "vat"))
    ] = "token"
    """What moves by the length of --fgm, --pgd and --vat: every token, row or batch, or the embedding matrix, as in the
    article. Except for token, one length is shared by many tokens, so each moves less."""
    gradient_penalty: Annotated[float, STRENGTH] = 0.0
    """Weight of half the squared gradient of the loss by the embeddings (with a loss per row: of each row's)."""
    embedding_noise: Annotated[float, STRENGTH] = 0.0
    """Standard deviation of Gaussian noise on the embeddings."""
    rdrop: Annotated[float, STRENGTH] = 0.0
    """Weight of R-Drop: two passes with their own dropout should agree; the blog takes 4, with --dropout 0.3."""
    flood: Annotated[float, STRENGTH] = 0.0
    """Flooding: where the training loss is below this level, climb."""
    weissi: Annotated[float, STRENGTH] = 0.0
    """Weight of WEISSI, the weight penalty that does not change when scale moves between layers."""

    @property
    def regularizers(self) -> list[str]:
        """Those that are on."""
        return [name for name in REGULARIZERS if is_on(self, name)]

    @property
    def cited(self) -> list[str]:
        return [*super().cited, *["rdrop_loss"] * bool(self.rdrop), *["flooding"] * bool(self.flood)]

    def check_regularizers(self, accelerator: Accelerator, *, coupled: bool, flat: bool = False) -> None:
        """Refuse what would run and be wrong.

        Args:
            coupled: the loss compares the examples of the whole step.
            flat: the model gets the tokens of a batch end to end, in one row.
        """

        def refuse(name: str, reason: str) -> None:
            raise ValueError(f"{flag(name)} {reason}")

        attacks = [name for name in ("fgm", "pgd", "gradient_penalty") if is_on(self, name)]
        if len(attacks) > 1:
            refuse(attacks[0], f"and {flag(attacks[1])} are forms of one method: choose one")
        if coupled and self.micro_batches > 1:
            for name in self.regularizers:
                if name != "rdrop":
                    refuse(name, "and a loss over the whole step need it at once: use --micro-batches 1")
        sharded = accelerator.distributed_type == "FSDP"
        for name in [*attacks, *(["vat"] if self.vat else [])]:
            if self.precision == "fp16":
                refuse(name, "needs gradients that the loss scale of fp16 does not reach: use --precision bf16")
            if self.compile:
                refuse(name, "hooks into the embeddings, which a compiled model passes by: leave --compile out")
            if flat and self.disturbance_norm == "sample" and name != "gradient_penalty":
                refuse("disturbance_norm", "sample knows no rows in texts that lie end to end: use token or batch")
            if self.micro_batches > 1 and self.disturbance_norm in ("batch", "matrix") and name != "gradient_penalty":
                refuse(name, f"with the norm of the {self.disturbance_norm} needs --micro-batches 1")
        if self.gradient_penalty:
            if sharded:
                refuse("gradient_penalty", "needs second derivatives, which FSDP2 does not have: use DDP")
            if self.gradient_checkpointing:
                refuse("gradient_penalty", "needs second derivatives: leave --gradient-checkpointing out")
            if coupled and accelerator.num_processes > 1:
                refuse("gradient_penalty", "needs second derivatives, which do not pass between processes: use one")
        if self.embedding_noise and self.compile:
            refuse("embedding_noise", "hooks into the embeddings, which a compiled model passes by")
        if self.flood and self.micro_batches > 1:
            refuse("flood", "needs the loss of the whole step at once: use --micro-batches 1")
        if self.weissi and sharded:
            refuse("weissi", "needs whole matrices, which FSDP2 shards: use DDP")
