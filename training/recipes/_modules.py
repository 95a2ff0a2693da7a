"""An encoder and the layer that a loss or a second task adds to it, as the one module that Accelerate prepares."""

from __future__ import annotations

from torch import nn

from suzoo.losses import SoftmaxPairLoss
from suzoo.models import CoSENTModel


class Extended(nn.Module):
    def __init__(self, encoder: CoSENTModel):
        super().__init__()
        self.encoder = encoder
        # FSDP shards the encoder as a unit of its own, which evaluation calls without what is around it
        self._no_split_modules = [*(encoder._no_split_modules or ()), type(encoder).__name__]


class SentenceBERT(Extended):
    """With the classifier over [u; v; |u-v|] of the CoSENT article's baseline."""

    def __init__(self, encoder: CoSENTModel):
        super().__init__(encoder)
        self.loss = SoftmaxPairLoss(encoder.config.hidden_size)

    def forward(self, classes, **inputs):
        embeddings = self.encoder(**inputs).sentence_embedding
        return self.loss(embeddings[0::2], embeddings[1::2], classes)


class TwoTasks(Extended):
    """With the classification layer of a second task."""

    def __init__(self, encoder: CoSENTModel, num_classes: int):
        super().__init__(encoder)
        self.head = nn.Linear(encoder.config.hidden_size, num_classes)

    def forward(self, classify: bool = False, **inputs):
        """(N, C) logits of the classes, or the encoder's output."""
        output = self.encoder(**inputs)
        logits = self.head(output.sentence_embedding)
        if classify:
            return logits.float()
        output.sentence_embedding = output.sentence_embedding + 0 * logits.sum()  # DDP waits for every parameter
        return output
