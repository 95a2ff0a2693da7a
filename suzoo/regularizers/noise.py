"""Gaussian noise on the input embeddings, on average a penalty on the curvature of the loss.

Source: Su, "泛化性乱弹：从随机噪声、梯度惩罚到虚拟对抗训练", kexue.fm/archives/7466.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from suzoo.regularizers._embeddings import changed_outputs, check_size


@contextmanager
def embedding_noise(
    embedding: nn.Module, std: float, *, generator: torch.Generator | None = None
) -> Generator[None, None, None]:
    """Within the block, independent noise N(0, std²) is added to every output of `embedding`, padding included.

        with embedding_noise(model.get_input_embeddings(), 0.05):
            loss = model(**batch).loss

    On average the loss plus std²/2 times the trace of its Hessian with respect to the embeddings.

    Raises:
        ValueError: std is negative or not finite, or the embedding was not called or was inside a checkpointed region.
    """
    check_size("std", std)

    def add(number: int, output: Tensor, input_ids: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
        return output + std * noise

    with changed_outputs(embedding, add):
        yield
