"""An encoder and the layer that a loss or a second task adds to it, as the one module that Accelerate prepares."""

from __future__ import annotations

from torch import Tensor, nn

from suzoo.losses import RunningF1, SoftmaxPairLoss
from suzoo.models import CoSENTModel


def by_example(vectors: Tensor, per_example: int) -> Tensor:
    """(B, texts of an example, D) of vectors (N, D) of texts, those of an example side by side."""
    return vectors.view(-1, per_example, vectors.shape[-1])


class Classifier(nn.Module):
    """A stock classifier and the running F1 of a loss that needs it."""

    def __init__(self, model: nn.Module, running_f1: RunningF1):
        super().__init__()
        self.model, self.running_f1 = model, running_f1

    def forward(self, **inputs) -> Tensor:
        return self.model(**inputs).logits.float()


class PairClasses(SoftmaxPairLoss):
    """Sentence-BERT's classifier over [u; v; |u - v|]: (P, C) logits."""

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.logits(u, v)


class Extended(nn.Module):
    def __init__(self, encoder: CoSENTModel):
        super().__init__()
        self.encoder = encoder
        # FSDP shards the encoder as a unit of its own, which evaluation calls without what is around it
        self._no_split_modules = [*(encoder._no_split_modules or ()), type(encoder).__name__]


class WithHead(Extended):
    """With the layer that a loss trains beside it: (B, C), what the layer says of the vectors of each example."""

    def __init__(self, encoder: CoSENTModel, head: nn.Module, per_example: int):
        super().__init__(encoder)
        self.head, self.per_example = head, per_example

    def forward(self, **inputs) -> Tensor:
        return self.head(*by_example(self.encoder(**inputs).sentence_embedding, self.per_example).unbind(1))


class WithClasses(Extended):
    """With the classification layer of a second task."""

    def __init__(self, encoder: CoSENTModel, num_classes: int):
        super().__init__(encoder)
        self.head = nn.Linear(encoder.embedding_size, num_classes)

    def forward(self, classify: bool = False, **inputs):
        """(N, C) logits of the classes, or the encoder's output."""
        output = self.encoder(**inputs)
        logits = self.head(output.sentence_embedding)
        if classify:
            return logits.float()
        output.sentence_embedding = output.sentence_embedding + 0 * logits.sum()  # DDP waits for every parameter
        return output
