"""Our losses in other people's trainers; docs/losses.md shows each in use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from suzoo.losses.citations import cite

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class EmbeddingLoss(nn.Module):
    """A loss for sentence-transformers' Trainer from a function of embeddings and labels.

    Args:
        model: the SentenceTransformer; the trainer replaces it by its wrapped version.
        function: called with one embedding (B, D) per text column and then the labels (B,), or None without a label
            column: `lambda a, b, labels: cosent_loss(F.cosine_similarity(a, b), labels)`. If it is a module itself, it
            is trained.
        names: the losses it uses, as in `cite`; they reach the model card.
        modules: what `function` uses and the trainer shall train too, such as a `CosineLinear`.

    Raises:
        ValueError: `function` refers by a variable to a module with trainable parameters that is not in `modules`. What
            it reaches otherwise, as by an attribute, is not seen: the trainer would leave it as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[..., Tensor],
        *,
        names: Iterable[str] = (),
        modules: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.model, self.function, self.names = model, function, tuple(names)
        self.heads = nn.ModuleList(modules)
        self.citation = cite(*self.names)
        _check_all_trained(self, function)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        return self.function(*[self.model(column)["sentence_embedding"] for column in sentence_features], labels)

    def get_config_dict(self) -> dict[str, str]:
        return {"losses": ", ".join(self.names)}


class PairScoreLoss(nn.Module):
    """A loss for sentence-transformers' CrossEncoderTrainer from a function of scores and labels.

    Args:
        model: the CrossEncoder, of one label.
        function: called with scores (B,), the raw logits, and labels (B,):
            `lambda scores, labels: cosent_loss(scores, labels, scale=1.0)`.
        names, modules: as in `EmbeddingLoss`.

    Raises:
        ValueError: as `EmbeddingLoss`.
    """

    def __init__(
        self,
        model: CrossEncoder,
        function: Callable[[Tensor, Tensor], Tensor],
        *,
        names: Iterable[str] = (),
        modules: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.model, self.function, self.names = model, function, tuple(names)
        self.heads = nn.ModuleList(modules)
        self.citation = cite(*self.names)
        _check_all_trained(self, function)

    def forward(self, inputs, labels: Tensor, prompt: str | None = None, task: str | None = None) -> Tensor:
        """`inputs`: the two columns of texts."""
        tokens = self.model.preprocess(list(zip(*inputs, strict=True)), prompt=prompt, task=task)
        tokens = {
            key: value.to(self.model.device) if isinstance(value, Tensor) else value for key, value in tokens.items()
        }
        return self.function(self.model(tokens)["scores"].view(-1), labels)

    def get_config_dict(self) -> dict[str, str]:
        return {"losses": ", ".join(self.names)}


def _check_all_trained(loss: nn.Module, function: Callable[..., Tensor]) -> None:
    """The trainer's optimizer gets the parameters of the loss: those of a module that only a lambda knows stay as they
    are, and nothing would say so."""
    if not inspect.isfunction(function):
        return
    trained = {id(parameter) for parameter in loss.parameters()}
    used = inspect.getclosurevars(function)
    for name, value in {**used.globals, **used.nonlocals}.items():
        if isinstance(value, nn.Module) and any(p.requires_grad and id(p) not in trained for p in value.parameters()):
            raise ValueError(
                f"{type(loss).__name__}: the function uses the module {name!r}, which the trainer would not train; "
                f"pass modules=[{name}], or freeze it with {name}.requires_grad_(False)"
            )
