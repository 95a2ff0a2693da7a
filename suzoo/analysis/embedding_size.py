"""How many dimensions word vectors need: n > 8.33 log N.

Source: "最小熵原理（六）：词向量的维度应该怎么选择？", kexue.fm/archives/7695. A heuristic, not a theorem.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq


def embedding_entropy(dim: float) -> float:
    """h_n in nats: the entropy of the skip-gram model with N words and n dimensions is about 2 log N + h_n.

    The model is p(i, j) = e^{<u_i, v_j>} / Z over the N^2 pairs of words, whose entropy is log Z - E_p <u, v>. Sums
    over the pairs become N^2 times an expectation. Vectors whose coordinates are about 1 in size are uniform on a
    sphere of radius sqrt(n). So <u, v> = n cos a, where the angle a has a density proportional to sin^{n-2} a. So

        h_n = log E e^{n cos a} - E[n cos a e^{n cos a}] / E e^{n cos a}

    here by quadrature. For large n it falls by .2406 = log((sqrt 5 + 1) / 2) / 2 per dimension, where the integrand
    peaks: at cos a = (sqrt 5 - 1) / 2.

    Raises:
        ValueError: dim is under 2.
    """
    if not dim >= 2:
        raise ValueError(f"dim is 2 or more, not {dim}: an angle needs a plane")
    # the integrand is smooth and periodic, so equal steps are as good as any; its peak has a width of 1 / sqrt(n)
    num_points = 1000 + 50 * math.ceil(math.sqrt(dim))
    angle = (np.arange(num_points) + 0.5) * math.pi / num_points
    log_density, score = (dim - 2) * np.log(np.sin(angle)), dim * np.cos(angle)
    log_joint = log_density + score
    probability = np.exp(log_joint - np.logaddexp.reduce(log_joint))
    return float(np.logaddexp.reduce(log_joint) - np.logaddexp.reduce(log_density) - (probability * score).sum())


def recommended_dim(vocab_size: int, *, exact: bool = False) -> int:
    """The smallest dimension of word vectors for so many words: 8.33 log N, rounded up.

    Word vectors are good enough once the entropy of the model is under that of the data; it surely is where
    2 log N + h_n < 0 (see `embedding_entropy`). With h_n = -.24 n, which the article rounds, that is n > 8.33 log N:
    96 for a hundred thousand words, 129 for five million.

    Args:
        vocab_size: N, words.
        exact: solve 2 log N + h_n = 0 instead of rounding h_n; the two differ by a dimension or so.

    Raises:
        ValueError: vocab_size is under 2.
    """
    if not vocab_size >= 2:
        raise ValueError(f"vocab_size is 2 or more, not {vocab_size}")
    if not exact:
        return math.ceil(2 / 0.24 * math.log(vocab_size))
    target = 2 * math.log(vocab_size)
    return math.ceil(brentq(lambda dim: target + embedding_entropy(dim), 2, 20 + 10 * target))
