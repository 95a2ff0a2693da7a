from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from suzoo.optimizers import Accumulated, AccumulatedAdamW, AccumulatedSGD, Tiger
from tests.optimizers._run import assert_paths_close, random_grads, run, tensor
from tests.ranks import run_ranks
from tests.reference.optimizers import accumulate, accumulated_adamw, sgd


def toy_path(make, xs: list[float], start: float) -> list[float]:
    """θ after every micro-step when the micro-gradient is θ - x."""
    param = nn.Parameter(tensor([start]))
    optimizer = make([param])
    path = []
    for x in xs:
        (0.5 * (param - x) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        path.append(param.item())
    return path


SIX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_accumulated_sgd_oracle_values():
    path = toy_path(lambda p: AccumulatedSGD(p, 0.1, dampening=0.9, accumulation_steps=2), SIX, 0.5)
    assert path == pytest.approx([0.5, 0.51, 0.51, 0.5489, 0.5489, 0.633421], abs=1e-10)
    assert toy_path(lambda p: AccumulatedSGD(p, 0.1, accumulation_steps=2), SIX, 0.5)[-1] == pytest.approx(1.774)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean_sq", [0.5, 0.5089442719, 0.5089442719, 0.5179033352, 0.5179033352, 0.5269988293]),
        ("sum_scaled_sq", [0.5, 0.5126491105, 0.5126491105, 0.5253205178, 0.5253205178, 0.5381845866]),
    ],
)
def test_accumulated_adamw_oracle_values(rule, expected):
    def make(params):
        return AccumulatedAdamW(
            params, 0.01, weight_decay=0.0, eps_inside=True, accumulation_steps=2, second_moment=rule
        )

    assert toy_path(make, SIX, 0.5) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}])
@pytest.mark.parametrize("dampening", [0.0, 0.9])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_accumulated_sgd_equals_sgd_on_mean_gradients(k, dampening, options):
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 20)
    options = {"lr": 0.1, "dampening": dampening, **options}
    path = run(lambda p: AccumulatedSGD(p, accumulation_steps=k, **options), theta, grads)
    assert_paths_close(path[k - 1 :: k], sgd(theta, accumulate(grads, k), **options))


@pytest.mark.parametrize("k", [1, 3])
def test_accumulated_sgd_is_torch_sgd(k):
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 12)
    ours = run(lambda p: AccumulatedSGD(p, 0.1, accumulation_steps=k, weight_decay=0.1), theta, grads)
    torch_sgd = run(lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1), theta, accumulate(grads, k))
    assert_paths_close(ours[k - 1 :: k], torch_sgd)


@pytest.mark.parametrize("options", [{}, {"eps_inside": True}, {"second_moment": "mean_sq", "scale_lr": True}])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_accumulated_adamw_is_the_reference(k, options):
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 20)
    options = {"lr": 0.1, "weight_decay": 0.1, "second_moment": "sum_scaled_sq", **options}
    path = run(lambda p: AccumulatedAdamW(p, accumulation_steps=k, **options), theta, grads)
    assert_paths_close(path[k - 1 :: k], accumulated_adamw(theta, grads, k=k, **options))


def test_accumulated_adamw_without_accumulation_is_torch_adamw():
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 12)
    ours = run(lambda p: AccumulatedAdamW(p, 0.1, weight_decay=0.1), theta, grads)
    assert_paths_close(ours, run(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1), theta, grads))


@pytest.mark.parametrize(("mean", "sigma", "k"), [(1.0, 0.0, 4), (1.0, 1.0, 4), (0.1, 1.0, 4), (0.1, 1.0, 16)])
@pytest.mark.parametrize("rule", ["mean_sq", "sum_scaled_sq"])
def test_accumulated_adamw_step_ratio_is_the_derived_one(rule, mean, sigma, k):
    """10000 independent coordinates with noisy gradients drift as the formula in the module's docstring says."""
    windows = 60
    generator = torch.Generator().manual_seed(0)
    grads = [mean + sigma * torch.randn(10_000, generator=generator).double() for _ in range(windows * k)]
    theta = torch.zeros(10_000).double()
    options = {"betas": (0.9, 0.99), "weight_decay": 0.0}
    hidden = run(
        lambda p: AccumulatedAdamW(p, 1e-4, accumulation_steps=k, second_moment=rule, **options), theta, grads
    )[-1].mean()
    plain = run(lambda p: AccumulatedAdamW(p, 1e-4, **options), theta, accumulate(grads, k))[-1].mean()
    ratio = math.sqrt((mean**2 + sigma**2 / k) / (mean**2 + sigma**2)) * (
        math.sqrt(k) if rule == "sum_scaled_sq" else 1
    )
    assert float(hidden / plain) == pytest.approx(ratio, rel=0.03)


def test_lazy_adamw_leaves_rows_without_gradient_alone():
    """The correction of the moments counts all steps, as in the Keras original."""
    theta, grads = random_grads((4, 3), 1, seed=1)[0], random_grads((4, 3), 6)
    for t, grad in enumerate(grads):
        grad[t % 2 :: 2] = 0  # every row has a gradient at every second step only
    path = run(lambda p: AccumulatedAdamW(p, 0.1, weight_decay=0.2, lazy=True), theta, grads)
    for row in range(4):
        value, m, v = theta[row], torch.zeros(3).double(), torch.zeros(3).double()
        for t, grad in enumerate(grads, 1):
            g = grad[row]
            if g.any():
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                value = value - 0.1 * (step + 0.2 * value)
            torch.testing.assert_close(path[t - 1][row], value)


def test_lazy_and_accumulation_exclude_each_other():
    param = nn.Parameter(torch.ones(2, 2))
    param.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match="Accumulated around it"):
        AccumulatedAdamW([param], 0.1, lazy=True, accumulation_steps=2).step()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def train(model, optimizer, micro_steps: int = 8) -> list[torch.Tensor]:
    for i in range(micro_steps):
        x = random_grads((2, 4), 1, seed=i)[0]
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


HIDDEN = {
    "AccumulatedSGD": lambda p, **o: AccumulatedSGD(p, 0.1, weight_decay=0.1, **o),
    "AccumulatedAdamW": lambda p, **o: AccumulatedAdamW(p, 0.1, **o),
    "Tiger": lambda p, **o: Tiger(p, 0.1, **o),
}


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", HIDDEN)
def test_free_gradients_changes_nothing_but_memory(name, k):
    expected = train(m := mlp(), HIDDEN[name](m.parameters(), accumulation_steps=k))
    model = mlp()
    optimizer = HIDDEN[name](model.parameters(), accumulation_steps=k, free_gradients=True)
    model(random_grads((2, 4), 1)[0]).square().mean().backward()
    assert all(p.grad is None for p in model.parameters())
    optimizer.step()
    # the first micro-step above is the one `train` starts with
    for i in range(1, 8):
        model(random_grads((2, 4), 1, seed=i)[0]).square().mean().backward()
        optimizer.step()
    assert_paths_close([p.detach() for p in model.parameters()], expected)
    optimizer.close()
    model(random_grads((2, 4), 1)[0]).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_free_gradients_takes_a_tied_weight_once():
    embedding, head = nn.Embedding(5, 3).double(), nn.Linear(3, 5, bias=False).double()
    head.weight = embedding.weight
    optimizer = AccumulatedSGD([embedding.weight], 0.1, free_gradients=True)
    head(embedding(torch.tensor([1, 2]))).square().sum().backward()
    assert optimizer.state[embedding.weight]["folded"] == 1


@pytest.mark.parametrize("name", HIDDEN)
def test_a_parameter_without_gradient_in_a_window_does_not_move(name):
    """A missing micro-gradient counts as zero; a window without any leaves parameter and momentum alone."""
    theta, grads = random_grads((3, 2), 1, seed=1)[0], random_grads((3, 2), 3)
    a = nn.Parameter(theta.clone())
    optimizer = HIDDEN[name]([a], accumulation_steps=2)
    pattern = [grads[0], None, None, grads[1], None, None, grads[2], None]
    for grad in pattern:
        a.grad = None if grad is None else grad.clone()
        optimizer.step()
    zero = torch.zeros_like(theta)
    expected = run(
        lambda p: HIDDEN[name](p, accumulation_steps=2), theta, [grads[0], zero, zero, grads[1], grads[2], zero]
    )
    assert_paths_close([a.detach()], expected[-1:])
    assert optimizer.state[a]["step"] == 3


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_accumulation_refuses_clipping(name):
    model = mlp()
    optimizer = HIDDEN[name](model.parameters(), accumulation_steps=2)
    model(random_grads((2, 4), 1)[0]).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    with pytest.raises(RuntimeError, match="gradient clipping is not possible"):
        optimizer.step()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_accumulation_does_not_take_zero_grad_for_clipping(name, set_to_none):
    model = mlp()
    optimizer = HIDDEN[name](model.parameters(), accumulation_steps=2)
    for i in range(4):
        model(random_grads((2, 4), 1, seed=i)[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)


@pytest.mark.parametrize("make", [*HIDDEN.values(), lambda p, **o: Accumulated(torch.optim.SGD(p, 0.1), **o)])
def test_accumulation_refuses_grad_scaler(make):
    model = mlp().float()
    optimizer = make(model.parameters(), accumulation_steps=2)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(2, 4)).square().mean()).backward()
    with pytest.raises(RuntimeError, match="GradScaler"):
        scaler.step(optimizer)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_accumulation_leaves_frozen_parameters_alone(name, free):
    """And takes them in once they are not frozen any more."""
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = HIDDEN[name](model.parameters(), accumulation_steps=2, free_gradients=free)
    start = model[0].weight.clone()
    train(model, optimizer, 2)
    assert torch.equal(model[0].weight, start)
    model[0].requires_grad_(True)
    train(model, optimizer, 4)
    assert not torch.equal(model[0].weight, start)


@pytest.mark.parametrize("name", HIDDEN)
def test_a_refused_micro_step_folds_nothing(name):
    model = mlp()
    optimizer = HIDDEN[name](model.parameters(), accumulation_steps=2)
    model(random_grads((2, 4), 1)[0]).square().mean().backward()
    model[2].weight.grad.mul_(0.5)
    with pytest.raises(RuntimeError, match="was changed between"):
        optimizer.step()
    assert not any(state for state in optimizer.state.values()) and optimizer.param_groups[0]["micro_step"] == 0


@pytest.mark.parametrize("name", HIDDEN)
def test_a_training_loop_can_ask_whether_to_leave_gradients_alone(name):
    """`engine.fit` refuses clipping and micro-batches by these two; copies and loaded states know them too."""
    optimizer = HIDDEN[name](mlp().parameters(), accumulation_steps=3)
    assert optimizer.accumulation_steps == 3 and optimizer.folds_gradients
    assert copy.deepcopy(optimizer).accumulation_steps == 3
    assert not HIDDEN[name](mlp().parameters()).folds_gradients
    assert HIDDEN[name](mlp().parameters(), free_gradients=True).folds_gradients


def test_at_boundary_drives_the_schedule_once_per_window():
    optimizer = AccumulatedSGD([param := nn.Parameter(torch.zeros(1))], 1.0, accumulation_steps=3)
    seen = []
    for _ in range(6):
        param.grad = torch.ones(1)
        optimizer.step()
        seen.append(optimizer.at_boundary)
    assert seen == [False, False, True] * 2


# --- Accumulated


def test_accumulated_oracle_path():
    xs = [1.0, 2, 3, 4, 5, 6, 7, 8]
    path = toy_path(lambda p: Accumulated(torch.optim.SGD(p, 0.1), 2), xs, 0.0)
    assert path == pytest.approx([0, 0.15, 0.15, 0.485, 0.485, 0.9865, 0.9865, 1.63785], abs=1e-10)


def test_accumulated_weights_give_the_token_mean():
    """Losses 2.0 on 10 tokens and 4.0 on 30: the mean is 3.5, not 3."""
    param = nn.Parameter(torch.zeros(1))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    for loss, tokens in ((2.0, 10), (4.0, 30)):
        (param * loss * tokens).sum().backward()  # the SUM over the tokens
        optimizer.step(weight=tokens)
        optimizer.zero_grad()
    assert param.item() == pytest.approx(-3.5)
    with pytest.raises(ValueError, match="weight at every micro-step"):
        optimizer.step(weight=1)
        optimizer.step()


TOKENS = [[(2.0, 10), (4.0, 30)], [(1.0, 5), (7.0, 15)]]  # (loss, tokens) of every rank's two micro-batches


def token_mean_of_a_rank() -> float:
    model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1, bias=False).double())
    nn.init.zeros_(model.module.weight)
    optimizer = Accumulated(torch.optim.SGD(model.parameters(), 1.0), 2)
    for loss, tokens in TOKENS[torch.distributed.get_rank()]:
        model(tensor([[loss * tokens]])).sum().backward()
        optimizer.step(weight=tokens)
        optimizer.zero_grad()
    return model.module.weight.item()


def test_accumulated_weights_count_the_tokens_of_all_ranks():
    pairs = [pair for of_rank in TOKENS for pair in of_rank]
    expected = -sum(loss * n for loss, n in pairs) / sum(n for _, n in pairs)
    assert run_ranks(token_mean_of_a_rank) == [pytest.approx(expected)] * 2


def test_accumulated_clips_the_mean():
    """clip(mean(g1, g2)) = [.6, .8], while the mean of the clipped ones is [.5, .5]."""
    param = nn.Parameter(tensor([0.0, 0.0]))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2, max_grad_norm=1.0)
    for grad in ([3.0, 0.0], [0.0, 4.0]):
        (param * tensor(grad)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(param.detach(), -tensor([0.6, 0.8]), rtol=0, atol=1e-6)


def test_accumulated_resumes_in_the_middle_of_a_window():
    def build():
        model = mlp()
        return model, Accumulated(torch.optim.AdamW(model.parameters(), 0.1), 4)

    model, optimizer = build()
    train(model, optimizer, 6)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    expected = train(model, optimizer, 10)
    model, optimizer = build()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    assert_paths_close(train(model, optimizer, 10), expected, atol=0)


def three_windows(zero_grad, make=lambda p: Accumulated(torch.optim.SGD(p, 1.0), 2), copy_at=None) -> torch.Tensor:
    """Six micro-steps with gradients (1, 0), (2, 1), …"""
    model = nn.Module()
    model.param = nn.Parameter(torch.zeros(2))
    optimizer = make([model.param])
    for i in range(6):
        if i == copy_at:
            model, optimizer = copy.deepcopy((model, optimizer))
        (model.param * torch.tensor([i + 1.0, i])).sum().backward()
        optimizer.step()
        zero_grad(model, optimizer)
    return model.param.detach()


def test_accumulated_keeps_its_sum_when_the_model_s_gradients_are_removed():
    """transformers' Trainer calls zero_grad of the model. The sum is the same tensor again: no buffer is added."""
    expected = three_windows(lambda model, optimizer: optimizer.zero_grad())
    assert expected.tolist() == [-10.5, -7.5]
    assert torch.equal(three_windows(lambda model, optimizer: model.zero_grad()), expected)
    with pytest.raises(RuntimeError, match="use zero_grad of Accumulated, or set_to_none=True"):
        three_windows(lambda model, optimizer: model.zero_grad(set_to_none=False))


@pytest.mark.parametrize("copy_at", [1, 2])
def test_a_copy_of_accumulated_has_the_sum(copy_at):
    path = three_windows(lambda model, optimizer: model.zero_grad(), copy_at=copy_at)
    assert path.tolist() == [-10.5, -7.5]


def test_a_forgotten_accumulated_does_not_disturb_the_next():
    param = nn.Parameter(torch.zeros(1))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    param.sum().backward()
    optimizer.step()
    param.grad = None
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    for _ in range(2):
        param.sum().backward()
        optimizer.step()
    assert param.item() == -1


def test_accumulated_refuses_clipping_outside():
    param = nn.Parameter(torch.zeros(2))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    (3 * param).sum().backward()
    nn.utils.clip_grad_norm_([param], 1.0)
    with pytest.raises(RuntimeError, match=r"give Accumulated max_grad_norm= .*max_grad_norm=0"):
        optimizer.step()
    assert optimizer.micro_step == 0


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_accumulated_after_a_failed_step_has_its_window(max_grad_norm):
    def fails_once(optimizer, args, kwargs):
        if not failures:
            failures.append(True)
            raise OSError("full disk")

    failures: list[bool] = []
    param = nn.Parameter(torch.zeros(2))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2, max_grad_norm=max_grad_norm)
    optimizer.register_step_pre_hook(fails_once)
    (3 * param).sum().backward()
    optimizer.step()
    (5 * param).sum().backward()
    with pytest.raises(OSError, match="full disk"):
        optimizer.step()
    assert optimizer.micro_step == 1
    torch.testing.assert_close(param.grad, torch.tensor([8.0, 8.0]))
    optimizer.step()
    torch.testing.assert_close(param.detach(), -torch.full((2,), 4.0 if max_grad_norm is None else 0.5**0.5))


def test_accumulated_does_not_load_the_state_of_an_optimizer_alone():
    param = nn.Parameter(torch.zeros(1))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    with pytest.raises(ValueError, match=r"load it into accumulated\.optimizer"):
        optimizer.load_state_dict(torch.optim.SGD([param], 1.0).state_dict())


def test_accumulated_works_with_a_scheduler_and_deepcopy():
    param = nn.Parameter(torch.zeros(1))
    optimizer = Accumulated(torch.optim.SGD([param], 1.0), 2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(4):
        param.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if optimizer.at_boundary:
            scheduler.step()
    assert param.item() == pytest.approx(-1.5) and optimizer.param_groups[0]["lr"] == pytest.approx(1 / 3)
    copied = copy.deepcopy(Accumulated(torch.optim.SGD([param], 1.0), 2))
    assert copied.param_groups[0]["params"][0] is not param


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Accumulated(torch.optim.SGD(p, 0.1), 0), "accumulation_steps"),
        (lambda p: Accumulated(torch.optim.SGD(p, 0.1), 2, max_grad_norm=0.0), "max_grad_norm"),
        (lambda p: Accumulated(AccumulatedSGD(p, 0.1, accumulation_steps=2), 2), "accumulates already"),
        (lambda p: AccumulatedSGD(p, 0.1, momentum=1.0), "momentum"),
        (lambda p: AccumulatedAdamW(p, scale_lr=True), "needs no correction"),
        (lambda p: AccumulatedAdamW(p, second_moment="max"), "second_moment"),
        (lambda p: AccumulatedAdamW(p, eps=0.0), "eps"),
    ],
)
def test_accumulation_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.zeros(1))])
