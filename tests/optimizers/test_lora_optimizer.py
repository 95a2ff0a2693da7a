from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from suzoo.optimizers import Accumulated, AccumulatedSGD, Lion, LoRAOptimizer, ParameterSearch, param_groups
from tests.optimizers._run import assert_paths_close, random_grads, tensor
from tests.ranks import run_ranks

X = tensor([[1.0, 0.5, -1.0], [0.2, -0.3, 0.8]])
Y = tensor([[0.5, -0.5], [1.0, 0.3]])
W0 = [[0.1, -0.2], [0.3, 0.4], [-0.5, 0.2]]
A0, B0 = [[0.4, -0.6]], [[0.2], [-0.1], [0.3]]  # the article's B and A: W = W0 + (B A - B0 A0)


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1)


def adam(groups):
    return torch.optim.Adam(groups, lr=0.1)


def steps(optimizer, weight, count: int):
    for _ in range(count):
        optimizer.zero_grad()
        (0.5 * (X @ weight - Y).square().sum()).backward()
        optimizer.step()
    return weight.detach()


def set_adapter(optimizer, a, b) -> None:
    with torch.no_grad():
        for target in (optimizer._adapters[0].a, optimizer._adapters[0].anchors[0]):
            target.copy_(tensor(a))
        for target in (optimizer._adapters[0].b, optimizer._adapters[0].anchors[1]):
            target.copy_(tensor(b))


SGD_W3 = [[0.1593506622, -0.2183901257], [0.2670954911, 0.4124019821], [-0.4029010621, 0.1643975132]]
ADAM_W3 = [[0.3695944496, -0.2309355299], [0.0620214721, 0.4600157396], [-0.2013383503, 0.1992450766]]


@pytest.mark.parametrize(("inner", "expected"), [(sgd, SGD_W3), (adam, ADAM_W3)])
def test_lora_oracle_values(inner, expected):
    weight = nn.Parameter(tensor(W0))
    optimizer = LoRAOptimizer([weight], inner, r=1)
    set_adapter(optimizer, A0, B0)
    torch.testing.assert_close(steps(optimizer, weight, 3), tensor(expected), rtol=0, atol=1e-9)
    if inner is sgd:
        torch.testing.assert_close(
            optimizer._adapters[0].b.detach(),
            tensor([[0.2501079062], [-0.1308497125], [0.3896512578]]),
            rtol=0,
            atol=1e-9,
        )


def test_lora_peft_mapped_oracle_values():
    """r = 1, alpha = 2, B0 = 0."""
    # peft's weight is the transpose of the article's: its A is on the input side, here the rows of W0
    other = nn.Parameter(tensor(W0).T.clone())
    optimizer = LoRAOptimizer([other], sgd, r=1, alpha=2, init="peft")
    set_adapter(optimizer, [[0.2, -0.1, 0.3]], [[0.0], [0.0]])
    for _ in range(3):
        optimizer.zero_grad()
        (0.5 * (X @ other.T - Y).square().sum()).backward()
        optimizer.step()
    expected = [[0.2163539171, -0.1670308452], [0.2229319675, 0.3781625926], [-0.2782414396, 0.2628358072]]
    torch.testing.assert_close(other.detach().T, tensor(expected), rtol=0, atol=1e-9)


def test_additive_oracle_values():
    weight = nn.Parameter(tensor(W0))
    optimizer = LoRAOptimizer([weight], sgd, r=1, variant="additive")
    expected = [[0.2733364000, -0.1892180000], [0.3492244000, 0.2866700000], [-0.0125772000, 0.5248684000]]
    torch.testing.assert_close(steps(optimizer, weight, 2), tensor(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("r", [2, 4])
def test_additive_is_autograd_through_the_blocks(r):
    start, x = random_grads((8, 12), 1)[0], random_grads((8, 12), 1, seed=5)[0]
    weight = nn.Parameter(start.clone())
    optimizer = LoRAOptimizer([weight], adam, r=r, variant="additive")
    a, b = nn.Parameter(torch.zeros(r, 12).double()), nn.Parameter(torch.zeros(8, r).double())
    reference = torch.optim.Adam([a, b], lr=0.1)
    row_blocks = torch.eye(r).double().repeat(8 // r, 1)  # (8, r): identities on top of each other
    column_blocks = torch.eye(r).double().repeat(1, 12 // r)
    for _ in range(4):
        for o, w in ((optimizer, weight), (reference, start + row_blocks @ a + b @ column_blocks)):
            o.zero_grad()
            (w - x).pow(4).sum().backward()
            o.step()
    torch.testing.assert_close(weight.detach(), (start + row_blocks @ a + b @ column_blocks).detach())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def net(dtype=torch.float64) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def train(model, optimizer, count: int = 5, start: int = 0) -> None:
    for i in range(start, start + count):
        optimizer.zero_grad()
        model(random_grads((3, 6), 1, seed=i)[0].to(next(model.parameters()).dtype)).square().sum().backward()
        optimizer.step()


def matrices(model) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 2]


@pytest.mark.parametrize("inner", [sgd, adam, lambda g: torch.optim.AdamW(g, lr=0.1, weight_decay=0.5)])
def test_lora_equals_peft(inner):
    """The effective weights of real peft after each of five steps."""
    model = net()
    optimizer = LoRAOptimizer(matrices(model), inner, r=2, alpha=4, init="peft")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["first", "second"])
    peft_model = get_peft_model(net(), config).double()
    layers = [peft_model.base_model.model.first, peft_model.base_model.model.second]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.lora_A["default"].weight.copy_(optimizer._adapters[i].a)
    theirs = inner([p for p in peft_model.parameters() if p.requires_grad])
    for _ in range(5):
        train(model, optimizer, 1)
        train(peft_model, theirs, 1)
        for layer, weight in zip(layers, matrices(model), strict=True):
            effective = layer.base_layer.weight + layer.get_delta_weight("default")
            torch.testing.assert_close(weight.detach(), effective.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["symmetric", "peft"])
def test_lora_save_peft_is_loaded_by_peft(init, tmp_path):
    model = net(torch.float32)
    optimizer = LoRAOptimizer(matrices(model), adam, r=2, alpha=3, init=init)
    train(model, optimizer)
    optimizer.save_peft(model, tmp_path / "adapter")
    x = torch.randn(2, 6)
    loaded = PeftModel.from_pretrained(net(torch.float32), tmp_path / "adapter")
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    assert (loaded(x) - net(torch.float32)(x)).abs().max() > 0.1
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["r"] == (4 if init == "symmetric" else 2)


def test_symmetric_init_leaves_the_weights_and_moves_at_rank_two_r():
    model = net()
    before = [p.detach().clone() for p in matrices(model)]
    optimizer = LoRAOptimizer(matrices(model), sgd, r=1)
    for p, start in zip(matrices(model), before, strict=True):
        assert torch.equal(p, start)
    train(model, optimizer)
    for p, start in zip(matrices(model), before, strict=True):
        assert torch.linalg.matrix_rank(p.detach() - start, rtol=1e-9) == 2


def test_first_step_is_the_closed_form():
    """ΔW = -η (G Aᵀ A + B Bᵀ G) + η² G Aᵀ Bᵀ G."""
    weight = nn.Parameter(tensor(W0))
    optimizer = LoRAOptimizer([weight], sgd, r=1)
    set_adapter(optimizer, A0, B0)
    a, b = tensor(A0), tensor(B0)
    g = X.T @ (X @ tensor(W0) - Y)
    expected = tensor(W0) - 0.1 * (g @ a.T @ a + b @ b.T @ g) + 0.01 * g @ a.T @ b.T @ g
    torch.testing.assert_close(steps(optimizer, weight, 1), expected, rtol=0, atol=1e-12)


def test_projection_is_the_gradient_in_expectation():
    grad = random_grads((5, 4), 1)[0]
    weight = nn.Parameter(torch.zeros(5, 4).double())
    optimizer = LoRAOptimizer([weight], lambda g: torch.optim.SGD(g, lr=1.0), r=2, variant="projection")
    for _ in range(3000):
        weight.grad = grad
        optimizer.step()
    torch.testing.assert_close(weight.detach() / 3000, -grad, rtol=0, atol=0.1)
    assert torch.linalg.matrix_rank(weight.detach()) == 4  # fresh projections reach full rank


def test_a_new_projection_starts_with_a_new_inner_state():
    """The momentum of the old A and B is no direction for the new ones: every period is a new optimizer's first."""
    weight, fresh = (nn.Parameter(torch.zeros(5, 4).double()) for _ in range(2))
    optimizer = LoRAOptimizer([weight], adam, r=2, variant="projection", refresh=2)
    for period, grads in enumerate(zip(*[iter(random_grads((5, 4), 6))] * 2, strict=True)):
        alone = LoRAOptimizer([fresh], adam, r=2, variant="projection", refresh=2)
        alone.num_steps = 2 * period
        (adapter,) = alone._adapters
        adapter.anchors = alone._draw(fresh, 0)
        for step, grad in enumerate(grads):
            weight.grad, fresh.grad = grad.clone(), grad.clone()
            optimizer.step()
            alone.step()
            assert torch.equal(weight, fresh)
            assert bool(optimizer.state) == (step == 0)


@pytest.mark.parametrize("r", [1, 4])
def test_the_init_of_peft_is_as_wide_as_that_of_its_layers(r):
    """Uniform within n^-1/2 of the input side, whatever the rank; B is zero."""
    weight = nn.Parameter(torch.zeros(9, 400).double())
    (adapter,) = LoRAOptimizer([weight], sgd, r=r, init="peft")._adapters
    layer = get_peft_model(nn.Sequential(nn.Linear(400, 9)), LoraConfig(r=r, target_modules=["0"])).base_model.model[0]
    for a in (adapter.a, layer.lora_A["default"].weight):
        assert 0.95 / 20 < a.detach().abs().max() <= 1 / 20
    assert not adapter.b.any()


def test_projection_holds_its_matrices_for_the_period():
    weight = nn.Parameter(torch.zeros(5, 4).double())
    optimizer = LoRAOptimizer([weight], adam, r=1, variant="projection", refresh=3)
    seen = []
    for _ in range(6):
        weight.grad = torch.ones(5, 4).double()
        seen.append(optimizer._adapters[0].anchors[0])
        optimizer.step()
    assert seen[0] is seen[2] and seen[3] is seen[5] and not torch.equal(seen[2], seen[3])


def test_other_parameters_go_to_the_inner_optimizer():
    model, plain = net(), net()
    optimizer = LoRAOptimizer(param_groups(model, weight_decay=0.0), sgd, r=2)
    bias = model.first.bias.detach().clone()
    train(model, optimizer, 1)
    train(plain, sgd(plain.parameters()), 1)
    assert torch.equal(model.first.bias, plain.first.bias) and not torch.equal(model.first.bias, bias)
    assert len(optimizer._adapters) == 2
    embedding = nn.Embedding(9, 5)
    groups = [*param_groups(embedding, weight_decay=0.0), {"params": [nn.Parameter(torch.ones(4, 4))], "lora": False}]
    with pytest.raises(ValueError, match="found no matrix"):
        LoRAOptimizer(groups, sgd, r=2)


@pytest.mark.parametrize("inner", [adam, lambda g: Lion(g, lr=0.01)])
@pytest.mark.parametrize("options", [{}, {"variant": "additive", "r": 1}, {"variant": "projection", "refresh": 2}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lora_resumes_to_the_same_bits(inner, options, dtype):
    if options.get("variant") == "projection" and dtype == torch.bfloat16:
        pytest.skip("refused")
    options = {"r": 2, **options}
    model = net(dtype)
    optimizer = LoRAOptimizer(matrices(model), inner, **options)
    train(model, optimizer, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 3)
    resumed = net(dtype)
    second = LoRAOptimizer(matrices(resumed), inner, **options)
    resumed.load_state_dict(weights)
    second.load_state_dict(state)
    train(resumed, second, 3)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_lora_resumes_in_another_precision(dtypes):
    first, second = (net(dtype) for dtype in dtypes)
    before, after = (LoRAOptimizer(matrices(m), sgd, r=2) for m in (first, second))
    train(first, before, 3)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    train(first, before, 2, start=3)
    train(second, after, 2, start=3)
    for ours, theirs in zip(matrices(second), matrices(first), strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2)


def test_bfloat16_weights_lose_no_small_step():
    """1000 steps of 1e-5 of the weight: a sum in bf16 would not move at all."""
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = LoRAOptimizer([weight], lambda g: torch.optim.SGD(g, lr=1e-5), r=1, variant="additive")
    for _ in range(1000):
        weight.grad = torch.ones(4, 4, dtype=torch.bfloat16)
        optimizer.step()
    torch.testing.assert_close(weight.detach().float(), torch.full((4, 4), 1 - 0.08), rtol=0, atol=4e-3)


@pytest.mark.parametrize("options", [{"r": 2}, {"r": 1, "variant": "additive"}])
@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("loaded_first", [False, True])
def test_bfloat16_weights_loaded_later_are_kept(options, num_before, loaded_first):
    """A step of rate 0 leaves them, but for the rounding of what the steps before had added up to."""
    model = net(torch.bfloat16)
    optimizer = LoRAOptimizer(matrices(model), sgd, **options)
    start = copy.deepcopy(model.state_dict())
    train(model, optimizer, num_before)
    state = copy.deepcopy(optimizer.state_dict())
    change = max(float((model.state_dict()[name] - start[name]).abs().max()) for name in start)
    assert (change > 0.1) == (num_before > 0)
    weights = {name: torch.randn_like(value) for name, value in start.items()}
    weights["first.weight"][0] = 0
    model.load_state_dict(weights)
    if loaded_first:
        optimizer.load_state_dict(state)
    optimizer.param_groups[0]["lr"] = 0.0
    for param in matrices(model):
        param.grad = torch.ones_like(param)
    optimizer.step()
    for name, value in model.state_dict().items():
        rtol = 2**-7 if num_before else 0
        torch.testing.assert_close(value, weights[name], rtol=rtol, atol=change * 2**-8)


def test_a_write_that_changes_nothing_loses_no_small_step():
    """As a checkpoint of the weights that are there, or ParameterSearch, which puts them back."""
    weights = []
    for written in (False, True):
        weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
        optimizer = LoRAOptimizer([weight], lambda g: torch.optim.SGD(g, lr=1e-5), r=1, variant="additive")
        for _ in range(500):
            weight.grad = torch.ones(4, 4, dtype=torch.bfloat16)
            if written:
                with torch.no_grad():
                    weight.copy_(weight.clone())
            optimizer.step()
        weights.append(weight.detach())
    assert torch.equal(*weights) and bool((weights[0] < 0.97).all())


def test_lora_scheduler_missing_gradients_and_hidden_accumulation():
    model = net()
    optimizer = LoRAOptimizer(matrices(model), lambda g: AccumulatedSGD(g, 0.1, accumulation_steps=2), r=2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for group in optimizer.optimizer.param_groups} == {0.05} and scheduler
    before = [p.detach().clone() for p in matrices(model)]
    train(model, optimizer, 1)
    assert all(torch.equal(p, b) for p, b in zip(matrices(model), before, strict=True))
    train(model, optimizer, 1)
    assert not any(torch.equal(p, b) for p, b in zip(matrices(model), before, strict=True))
    optimizer.zero_grad()
    model.second.weight.grad = torch.ones(4, 5).double()
    first = model.first.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.first.weight, first)


def test_lora_follows_a_hidden_window_whose_last_gradient_is_missing():
    model = net()
    optimizer = LoRAOptimizer(matrices(model), lambda g: AccumulatedSGD(g, 0.1, accumulation_steps=2), r=2)
    train(model, optimizer, 1)
    before = model.first.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.first.weight, before)
    assert (optimizer.accumulation_steps, optimizer.folds_gradients, optimizer.at_boundary) == (2, True, True)


@pytest.mark.parametrize("free", [False, True])
def test_projection_refreshes_between_windows(free):
    """Two micro-steps, of which the first counts, are one step on the mean gradient, also for the second projection."""
    paths = []
    for k in (1, 2):
        weight = nn.Parameter(torch.zeros(6, 5).double())
        optimizer = LoRAOptimizer(
            [weight],
            lambda groups, k=k: AccumulatedSGD(groups, 0.1, accumulation_steps=k),
            r=2,
            variant="projection",
            refresh=2,
            free_gradients=free,
        )
        for g in random_grads((6, 5), 7):
            for part in (g,) if k == 1 else (5 * g, -3 * g):
                (weight * part).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        paths.append(weight.detach())
    torch.testing.assert_close(*paths)


@pytest.mark.parametrize("variant", ["lora", "projection", "additive"])
def test_lora_free_gradients_changes_nothing_but_memory(variant):
    plain, model = net(), net()
    train(plain, LoRAOptimizer(matrices(plain), adam, r=1, variant=variant), 3)
    optimizer = LoRAOptimizer(matrices(model), adam, r=1, variant=variant, free_gradients=True)
    train(model, optimizer, 3)
    assert all(p.grad is None for p in matrices(model)) and optimizer.folds_gradients
    assert_paths_close([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(random_grads((3, 6), 1)[0]).sum()).backward()
    with pytest.raises(RuntimeError, match="GradScaler"):
        scaler.step(optimizer)
    twin = copy.deepcopy(optimizer)  # without hooks: it takes the gradients in `step`
    optimizer.close()
    assert not twin.folds_gradients and not optimizer.folds_gradients
    model(random_grads((3, 6), 1)[0]).sum().backward()
    assert all(p.grad is not None for p in matrices(model))


def test_lora_free_gradients_adds_up_backwards():
    plain, model = net(), net()
    for m, free in ((plain, False), (model, True)):
        optimizer = LoRAOptimizer(matrices(m), adam, r=1, free_gradients=free)
        for _ in range(3):
            for x in random_grads((3, 6), 2):
                m(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_paths_close([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])


def test_lora_takes_frozen_matrices_and_their_gradients_after_thawing():
    results = []
    for free in (False, True):
        model = net()
        model.first.weight.requires_grad_(False)
        optimizer = LoRAOptimizer(matrices(model), adam, r=1, free_gradients=free)
        train(model, optimizer, 2)
        assert torch.equal(model.first.weight, net().first.weight)
        model.first.weight.requires_grad_(True)
        train(model, optimizer, 2)
        assert not torch.equal(model.first.weight, net().first.weight)
        results.append([p.detach() for p in model.parameters()])
    assert_paths_close(*results)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("variant", ["lora", "projection", "additive"])
def test_lora_computes_in_full_precision_under_autocast(variant, free):
    """The gradients are those of bf16 products, but what becomes of them is the same inside and outside."""
    results = []
    for inside in (False, True):
        model = net(torch.float32)
        optimizer = LoRAOptimizer(matrices(model), sgd, r=1, variant=variant, free_gradients=free)
        for x in random_grads((3, 6), 3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(x.float()).square().sum()
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach() for p in model.parameters()])
    for inside, outside in zip(*results, strict=True):
        assert torch.equal(inside, outside)


def test_lora_forgets_gradients_when_the_inner_optimizer_fails():
    """The step can be tried again, with the gradients of the matrices, which are still there."""
    results = []
    for fails in (False, True):
        model = net()
        optimizer = LoRAOptimizer(matrices(model), sgd, r=1)
        model(random_grads((3, 6), 1)[0]).square().sum().backward()
        if fails:
            handle = optimizer.optimizer.register_step_pre_hook(lambda *_: {}["missing"])
            with pytest.raises(KeyError, match="missing"):
                optimizer.step()
            handle.remove()
        optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_lora_shows_the_parameters_of_the_model_to_what_is_around_it():
    plain, wrapped, scaled = net(), net(), net()
    train(plain, LoRAOptimizer(matrices(plain), adam, r=1), 3)
    around = Accumulated(LoRAOptimizer(matrices(wrapped), adam, r=1), 2)
    for step in range(6):  # every gradient twice: their mean is each of them
        train(wrapped, around, 1, start=step // 2)
    optimizer, scaler = LoRAOptimizer(matrices(scaled), adam, r=1), torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(3):
        scaler.scale(scaled(random_grads((3, 6), 1, seed=step)[0]).square().sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    for model in (wrapped, scaled):
        assert_paths_close([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])
    (group,) = optimizer.param_groups
    assert all(a is b for a, b in zip(group["params"], matrices(scaled), strict=True)) and group["lr"] == 0.1
    search, plain = LoRAOptimizer(matrices(scaled), sgd, r=1), copy.deepcopy(scaled)
    # one candidate without noise is the gradient itself
    search = ParameterSearch(search, num_candidates=1, noise=1e-12, max_grad_norm=None)
    search.task_loss = lambda: float(scaled.first.weight.square().sum())
    train(scaled, search, 2)
    train(plain, LoRAOptimizer(matrices(plain), sgd, r=1), 2)
    assert_paths_close([p.detach() for p in scaled.parameters()], [p.detach() for p in plain.parameters()])
    twin_model, twin = copy.deepcopy((scaled, optimizer))
    assert twin.param_groups[0]["params"][0] is twin_model.first.weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_follows_its_matrices_to_the_gpu(dtype):
    """`accelerator.prepare` and `model.to` move the parameters after the optimizer was made."""
    moved, made_there = net().to(dtype), net().to(dtype).cuda()
    optimizer = LoRAOptimizer(matrices(moved), adam, r=1)
    moved.cuda()
    optimizer.load_state_dict(optimizer.state_dict())  # as Accelerate does
    for model, own in ((moved, optimizer), (made_there, LoRAOptimizer(matrices(made_there), adam, r=1))):
        for step in range(3):
            model(random_grads((3, 6), 1, seed=step)[0].to(dtype).cuda()).square().sum().backward()
            own.step()
            own.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(moved.parameters(), made_there.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be a whole number from 1 on, not 0"),
        ({"r": 6}, "found no matrix"),
        ({"variant": "galore"}, "variant must be one of lora, projection, additive"),
        ({"variant": "additive", "r": 3}, "divide both sides"),
        ({"variant": "additive", "alpha": 2}, "alpha"),
        ({"variant": "projection", "init": "peft"}, "init='peft'"),
    ],
)
def test_lora_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LoRAOptimizer(matrices(net()), sgd, **options)


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        (lambda groups: Accumulated(sgd(groups), 2), "Accumulated"),
        (lambda groups: ParameterSearch(sgd(groups)), "ParameterSearch"),
    ],
)
def test_lora_refuses_what_belongs_around_it(wrapper, name):
    with pytest.raises(ValueError, match=f"put {name} around it"):
        LoRAOptimizer(matrices(net()), wrapper, r=1)


@pytest.mark.parametrize("inner", [sgd, adam, lambda g: AccumulatedSGD(g, 0.1)])
def test_lora_refuses_another_checkpoint_and_stays_as_it_was(inner):
    def without_b(state):
        del state["state"][0]["b"]
        return state

    model, twin = net(), net()
    other = LoRAOptimizer(matrices(net()), inner, r=1)
    optimizer, untouched = (LoRAOptimizer(matrices(m), inner, r=3) for m in (model, twin))
    train(model, optimizer, 1)
    train(twin, untouched, 1)
    for state, message in (
        (other.state_dict(), r"has \(1, 6\) as 'a' of adapted matrix 0, this optimizer \(3, 6\)"),
        (without_b(optimizer.state_dict()), "has no 'b' of adapted matrix 0"),
        (LoRAOptimizer([model.first.weight], inner, r=3).state_dict(), "adapts 1 matrices, this optimizer 2"),
        (inner(matrices(net())).state_dict(), "not that of a LoRAOptimizer"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    train(model, optimizer, 2)
    train(twin, untouched, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


class Tied(nn.Module):
    """Two layers with one weight, or with `shared` one layer in two places; `embedded` ties an embedding to it too."""

    def __init__(self, shared: bool = False, embedded: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.second = self.first if shared else nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        if embedded:
            self.words = nn.Embedding(8, 8)
            self.words.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_save_peft_writes_the_change_for_every_layer_of_a_tied_weight(tmp_path):
    model, x = Tied(), random_grads((3, 8), 1)[0].float()
    optimizer = LoRAOptimizer([model.first.weight], sgd, r=2)
    for _ in range(3):
        (0.1 * model(x).square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.save_peft(model, tmp_path)
    loaded = PeftModel.from_pretrained(Tied(), tmp_path)
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    assert (model(x) - Tied()(x)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedded": True}, "the weight of words, of class Embedding, tied to first and second: save"),
        ({"shared": True}, "first and second share one layer"),
    ],
)
def test_save_peft_refuses_layers_that_peft_cannot_adapt(options, message, tmp_path):
    model = Tied(**options)
    optimizer = LoRAOptimizer([model.first.weight], sgd, r=1)
    with pytest.raises(ValueError, match=message):
        optimizer.save_peft(model, tmp_path)
    with pytest.raises(ValueError, match="no parameter of this model"):
        optimizer.save_peft(net(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_save_peft_refuses_what_an_adapter_cannot_hold(tmp_path):
    model = net()
    with pytest.raises(ValueError, match="trained without low rank"):
        LoRAOptimizer(model.parameters(), sgd, r=2).save_peft(model, tmp_path)
    attention = nn.MultiheadAttention(4, 2, bias=False)
    with pytest.raises(ValueError, match="the weight of out_proj, of class NonDynamically"):
        LoRAOptimizer([attention.out_proj.weight], sgd, r=1).save_peft(attention, tmp_path)
    with pytest.raises(ValueError, match="no adapter for variant"):
        LoRAOptimizer(matrices(model), sgd, r=1, variant="additive").save_peft(model, tmp_path)


def sharded_lora() -> dict[str, float]:
    distances = {}
    for variant in ("lora", "additive", "projection", "lora, free"):
        results = []
        for shard in (False, True):
            model = net()
            if shard:
                fully_shard(model)
            options = {"variant": variant.split(",")[0], "free_gradients": shard and "free" in variant}
            optimizer = LoRAOptimizer(matrices(model), adam, r=1, **options)
            train(model, optimizer, 4)
            results.append([(p.full_tensor() if isinstance(p, DTensor) else p).detach() for p in model.parameters()])
        distances[variant] = max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))
    return distances


def loaded_into_shards() -> float:
    """Distance of sharded bf16 weights from those loaded into them, after a tiny step."""
    model = net(torch.bfloat16)
    fully_shard(model)
    optimizer = LoRAOptimizer(matrices(model), lambda g: torch.optim.SGD(g, lr=1e-6), r=1)
    with torch.no_grad():
        for param in matrices(model):
            param.fill_(2.0)
    train(model, optimizer, 1)
    return max(float((p.full_tensor() - 2.0).abs().max()) for p in matrices(model))


def on_two_ranks() -> tuple[dict[str, float], float]:
    return sharded_lora(), loaded_into_shards()


def test_lora_with_fsdp2_equals_unsharded():
    for distances, moved in run_ranks(on_two_ranks):
        assert max(distances.values()) < 1e-12 and moved < 1e-2
