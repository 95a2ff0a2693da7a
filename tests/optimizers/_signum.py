"""The smallest optimizer there can be, as CONTRIBUTING.md shows it; the conformance tests run it like the others."""

from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BELOW_1
from suzoo.optimizers._rule import Rule


def signum_update(param, grad, momentum, *, lr, weight_decay, beta):
    momentum = momentum.lerp(grad, 1 - beta)
    return param - lr * (momentum.sign() + weight_decay * param), momentum


class Signum(RuleOptimizer):
    """The sign of the momentum."""

    rule = Rule(update=signum_update, states=("momentum",), options={"beta": BELOW_1})

    def __init__(self, params, lr=1e-3, beta=0.9, weight_decay=0.0, **common):
        super().__init__(params, lr=lr, beta=beta, weight_decay=weight_decay, **common)
