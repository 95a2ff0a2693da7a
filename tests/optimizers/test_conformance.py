"""What every optimizer promises, one test per promise, one run per optimizer: the rows of docs/optimizers.md."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from suzoo.optimizers import AccumulatedAdamW, AccumulatedSGD, AdaFactor, AdaX, AdaXW, Lion, Tiger
from suzoo.optimizers._compiled import num_kernels
from tests.optimizers._cases import CASES, make_params, run_steps, set_grads

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def saved(optimizer) -> dict:
    """The state as a file holds it: loaded without pickled objects, its groups through JSON."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    return {**state, "param_groups": json.loads(json.dumps(state["param_groups"]))}


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_exact_resume(case, dtype):
    """Also in the middle of an accumulation window (5 micro-steps of 2)."""
    params = make_params(dtype)
    optimizer = case.make(params)
    weights = run_steps(optimizer, params, range(5))
    state = saved(optimizer)
    expected = run_steps(optimizer, params, range(5, 12))
    resumed = [nn.Parameter(w.clone()) for w in weights]
    optimizer = case.make(resumed)
    optimizer.load_state_dict(state)
    assert_same_bits(run_steps(optimizer, resumed, range(5, 12)), expected)


@every_case
def test_state_is_tensors_and_json(case):
    params = make_params()
    optimizer = case.make(params)
    run_steps(optimizer, params, range(3))
    state = optimizer.state_dict()
    json.dumps(state["param_groups"])
    for value in state["state"].values():
        assert all(isinstance(v, Tensor) for v in value.values())


@every_case
def test_state_is_float32_for_low_precision_parameters(case):
    params = make_params(torch.bfloat16)
    optimizer = case.make(params)
    run_steps(optimizer, params, range(2))
    other = case.make(make_params(torch.bfloat16))
    other.load_state_dict(optimizer.state_dict())
    for source in (optimizer, other):
        assert {v.dtype for state in source.state.values() for v in state.values()} == {torch.float32}


@every_case
def test_loading_copies_the_state(case):
    params = make_params()
    optimizer = case.make(params)
    run_steps(optimizer, params, range(2))
    state = optimizer.state_dict()
    other = case.make(make_params())
    other.load_state_dict(state)
    mine = {v.data_ptr() for s in optimizer.state.values() for v in s.values() if v.numel()}
    theirs = {v.data_ptr() for s in other.state.values() for v in s.values() if v.numel()}
    assert not mine & theirs


@every_case
def test_several_groups_are_separate_optimizers(case):
    together, apart = make_params(), make_params()
    optimizer = case.make([{"params": together[:3], "lr": 0.1}, {"params": together[3:], "weight_decay": 0.5}])
    ours = run_steps(optimizer, together, range(4))
    first, second = case.make(apart[:3], lr=0.1), case.make(apart[3:], weight_decay=0.5)
    for step in range(4):
        set_grads(apart, step)
        for separate in (first, second):
            separate.step()
            separate.zero_grad()
    assert_same_bits(ours, [p.detach() for p in apart])


@every_case
def test_a_missing_gradient_is_a_step_that_did_not_happen(case):
    params, alone = make_params(), make_params()
    optimizer, only = case.make(params), case.make(alone[:1] + alone[2:])
    for step in range(8):
        set_grads(params, step)
        if step // case.k % 2:  # every second window nobody but the vector has a gradient
            for i, param in enumerate(params):
                param.grad = param.grad if i == 1 else None
        optimizer.step()
        if step // case.k % 2 == 0:
            set_grads(alone, step)
            only.step()
            only.zero_grad()
        optimizer.zero_grad()
    assert_same_bits(
        [p.detach() for i, p in enumerate(params) if i != 1], [p.detach() for i, p in enumerate(alone) if i != 1]
    )
    assert not torch.equal(params[1], alone[1])


@every_case
def test_zero_gradients_change_nothing(case):
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = case.make(params, weight_decay=0.0)
    for _ in range(4):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert_same_bits([p.detach() for p in params], before)


@every_case
def test_every_shape_moves(case):
    params = make_params()
    before = [p.detach().clone() for p in params]
    after = run_steps(case.make(params, weight_decay=0.1), params, range(4))
    for old, new in zip(before, after, strict=True):
        assert new.isfinite().all() and new.shape == old.shape
        assert new.ne(old).all()


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_follows_float32(case, dtype):
    """From the same rounded start; the gradients differ by their rounding, which may flip a sign or two."""
    low = make_params(dtype)
    high = [nn.Parameter(p.detach().float()) for p in low]
    ours = run_steps(case.make(low, rounding="kahan"), low, range(8))
    expected = run_steps(case.make(high), high, range(8))
    for a, b in zip(ours, expected, strict=True):
        off = (a.float() - b).abs() > 0.02 + 0.05 * b.abs()
        assert off.float().mean().nan_to_num() <= 0.02


@every_case
def test_set_to_none_makes_no_difference(case):
    results = []
    for set_to_none in (True, False):
        params = make_params()
        results.append(run_steps(case.make(params), params, range(6), set_to_none))
    assert_same_bits(*results)


@every_case
def test_unknown_keyword_raises(case):
    with pytest.raises(TypeError, match="weight_decai"):
        case.make(make_params(), weight_decai=0.1)


@every_case
def test_the_schedule_drives_the_update(case):
    """Rate 0 leaves every bit; a scheduled rate is the rate."""
    params = make_params()
    before = [p.detach().clone() for p in params]
    assert_same_bits(run_steps(case.make(params, lr=0.0), params, range(4)), before)

    scheduled, direct = make_params(), make_params()
    optimizer = case.make(scheduled, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.03 / (1 + step))
    other = case.make(direct)
    for step in range(6):
        for group in other.param_groups:
            group["lr"] = 0.03 / (1 + step // case.k)
        run_steps(other, direct, range(step, step + 1))
        run_steps(optimizer, scheduled, range(step, step + 1))
        if (step + 1) % case.k == 0:
            scheduler.step()
    assert_same_bits([p.detach() for p in scheduled], [p.detach() for p in direct])


@every_case
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_alone(case, how):
    params = make_params()
    optimizer = case.make(params)
    run_steps(optimizer, params, range(4))  # a copied parameter has no gradient, so copy between windows
    copied = how(optimizer)
    copies = [p for group in copied.param_groups for p in group["params"]]
    assert not {id(p) for p in copies} & {id(p) for p in params}
    ours = run_steps(copied, copies, range(4, 8))
    assert_same_bits(ours, run_steps(optimizer, params, range(4, 8)))


@every_case
def test_closure_is_called_with_gradients_on(case):
    (param, *_) = params = [nn.Parameter(torch.ones(2, 2))]
    optimizer = case.make(params)

    def closure():
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    optimizer.step(closure)
    assert (param < 1).all()


@every_case
def test_sparse_and_complex_are_refused(case):
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = case.make(embedding.parameters())
    with pytest.raises(RuntimeError, match="sparse gradient"):
        for _ in range(case.k):
            embedding(torch.tensor([1])).sum().backward()
            optimizer.step()
    with pytest.raises(ValueError, match="real parameters"):
        case.make([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])


@every_case
def test_a_refused_step_changes_nothing(case):
    """The first group could have moved, and a repaired step may be tried again."""
    params = make_params()
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = case.make([{"params": params}, {"params": list(embedding.parameters())}])
    expected = make_params()
    other = case.make([{"params": expected}])
    for micro_step in range(2 * case.k):
        set_grads(params, micro_step)
        set_grads(expected, micro_step)
        if micro_step % case.k == case.k - 1:
            before = [param.detach().clone() for param in params]
            with pytest.raises(RuntimeError, match="sparse gradient"):
                embedding(torch.tensor([1])).sum().backward()
                optimizer.step()
            assert_same_bits([param.detach() for param in params], before)
            embedding.weight.grad = torch.zeros(4, 2)
        for o in (optimizer, other):
            o.step()
            o.zero_grad()
    assert_same_bits([param.detach() for param in params], [param.detach() for param in expected])


@every_case
@pytest.mark.parametrize("rounding", ["kahan", "master"])
def test_low_parts_follow_the_parameters_dtype(case, rounding):
    """A bf16 run goes on in float32 with the low part added once, and a float32 run in bf16 with a new one."""
    params = make_params(torch.bfloat16)
    optimizer = case.make(params, rounding=rounding)
    run_steps(optimizer, params, range(3 * case.k))
    states = [optimizer.state[param] for param in params]
    exact = [p.float() + s["compensation"].float() for p, s in zip(params, states, strict=True)]

    wide = [nn.Parameter(p.detach().float()) for p in params]
    resumed = case.make(wide, rounding=rounding)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in resumed.param_groups:
        group["lr"] = 0.0
    assert_same_bits(run_steps(resumed, wide, range(3 * case.k)), exact)
    assert "compensation" not in resumed.state[wide[0]]

    narrow = [nn.Parameter(p.detach().bfloat16()) for p in wide]
    back = case.make(narrow, rounding=rounding)
    back.load_state_dict(resumed.state_dict())
    run_steps(back, narrow, range(case.k))
    assert "compensation" in back.state[narrow[0]]


@every_case
def test_stochastic_rounding_is_the_same_on_all_ranks_and_after_resume(case):
    """Ranks and runs differ in the state of torch's generator, which stays as it is."""

    def run(seed: int):
        torch.manual_seed(seed)
        params = make_params(torch.bfloat16)
        optimizer = case.make(params, rounding="stochastic")
        run_steps(optimizer, params, range(2 * case.k))
        state = copy.deepcopy(optimizer.state_dict())
        optimizer = case.make(params, rounding="stochastic")
        optimizer.load_state_dict(state)
        generator = torch.get_rng_state()
        weights = run_steps(optimizer, params, range(2 * case.k, 4 * case.k))
        assert torch.equal(torch.get_rng_state(), generator)
        return weights

    assert_same_bits(run(1), run(2))


@every_case
@pytest.mark.parametrize("rounding", ["kahan", "master", "stochastic"])
def test_small_updates_reach_bfloat16(case, rounding):
    """Steps of 1 % of what bf16 can see near 1: to the nearest, nothing moves and a warning says so once."""
    torch.manual_seed(0)

    def train(**options):
        param = nn.Parameter(torch.ones(8, 64, dtype=torch.bfloat16))
        reference = nn.Parameter(torch.ones(8, 64))
        optimizer, exact = case.make([param], lr=4e-5, **options), case.make([reference], lr=4e-5)
        for _ in range(200 * case.k):
            for p, o in ((param, optimizer), (reference, exact)):
                p.grad = torch.ones_like(p) if p.grad is None else p.grad + 1
                o.step()
                o.zero_grad()
        return param.detach().float().mean() - 1, reference.detach().mean() - 1

    moved, exact = train(rounding=rounding)
    assert float(moved / exact) == pytest.approx(1, abs=0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved, exact = train()
    assert moved == 0 and abs(exact) > 1e-3
    assert len([w for w in caught if "unchanged" in str(w.message)]) == 1


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_master_is_float32_training(case, dtype):
    params = make_params(dtype)
    exact = [nn.Parameter(p.detach().float()) for p in params]
    optimizer, reference = case.make(params, rounding="master"), case.make(exact)
    reference.param_groups[0]["foreach"] = False  # its last bits differ
    for step in range(8):
        set_grads(params, step)
        for p, q in zip(params, exact, strict=True):
            p.grad.mul_(8).round_().div_(8)  # so that Accumulated's sums lose nothing in bf16
            q.grad = p.grad.float()
        for o in (optimizer, reference):
            o.step()
            o.zero_grad()
    for p, q in zip(params, exact, strict=True):
        assert torch.equal(p, q.to(dtype))
        assert torch.equal(p.float() + optimizer.state[p]["compensation"], q)


@pytest.mark.parametrize("name", ["Lion", "AdaFactor"])
@pytest.mark.parametrize("rounding", ["kahan", "master"])
def test_compiled_kernels_keep_the_low_part(name, rounding):
    """Inductor drops a cast to bf16 and back unless it is told not to; then every small step is lost."""
    grads = [torch.randn(1030, 512, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3)]
    values = []
    for compile in (False, True):
        param = nn.Parameter(torch.ones(1030, 512, dtype=torch.bfloat16))
        optimizer = CASES[name].make([param], lr=1e-4, rounding=rounding, compile=compile)
        for grad in grads:
            param.grad = grad
            optimizer.step()
        values.append(param.detach().float() + optimizer.state[param]["compensation"])
    assert values[1].ne(1).float().mean() > 0.99
    far = (values[1] - values[0]).abs() > (2e-7 if rounding == "master" else 1e-5)
    assert far.float().mean() < 1e-4  # Lion's sign of a sum that cancels to the last bit may differ


@every_case
def test_foreach_is_the_plain_form(case):
    if not case.foreach:
        pytest.skip("no multi-tensor form")
    plain, together = make_params(), make_params()
    expected = run_steps(case.make(plain, foreach=False), plain, range(6))
    for a, b in zip(run_steps(case.make(together, foreach=True), together, range(6)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@every_case
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_state_moves_between_devices(case):
    params = make_params()
    optimizer = case.make(params)
    weights = run_steps(optimizer, params, range(4))
    expected = run_steps(optimizer, params, range(4, 8))
    params = make_params()
    optimizer = case.make(params)
    run_steps(optimizer, params, range(4))
    moved = [nn.Parameter(w.cuda()) for w in weights]
    other = case.make(moved)
    other.load_state_dict(optimizer.state_dict())
    for a, b in zip(run_steps(other, moved, range(4, 8)), expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-5)
    back = case.make(make_params())
    back.load_state_dict(other.state_dict())
    assert {v.device.type for s in back.state.values() for v in s.values()} == {"cpu"}


@pytest.mark.parametrize("optimizer", [Lion, Tiger, AdaX])
def test_matrices_of_one_size_share_a_kernel(optimizer):
    def params():
        generator = torch.Generator().manual_seed(7)
        shapes = ((600, 500), (500, 600), (3, 100, 1000))
        return [nn.Parameter(0.1 * torch.randn(shape, generator=generator)) for shape in shapes]

    plain, fused = params(), params()
    before = num_kernels()
    for values, options in ((plain, {}), (fused, {"compile": True})):
        groups = [{"params": values, "kind": "matrix"}] if optimizer is Tiger else values
        stepped = optimizer(groups, lr=0.01, weight_decay=0.1, **options)
        for _ in range(2):
            for value in values:
                value.grad = value.detach().sin()
            stepped.step()
    assert num_kernels() == before + 1
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("foreach", [None, False])
def test_compile_without_a_compiler_says_so_and_changes_nothing(foreach):
    import torch._inductor.config
    from torch._inductor.utils import fresh_cache

    broken = torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)})
    params = [nn.Parameter(torch.ones(size)) for size in ((2,), (3,), (1100, 501))]
    for param in params:
        param.grad = torch.ones_like(param)
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = Lion(groups, lr=0.1, foreach=foreach, compile=True)
    with (
        broken,
        fresh_cache(),
        pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler.*compile=False does without"),
    ):
        optimizer.step()
    assert all((param == 1).all() and optimizer.state[param]["step"] == 0 for param in params)


@pytest.mark.parametrize("optimizer", [Tiger, AdaFactor])
def test_compiled_state_is_that_of_the_plain_form_and_resumes_in_any_order(optimizer):
    """torch.distributed.checkpoint loads the optimizer before the model, and wants the keys that a fresh one has."""

    def make(weight, **options):
        param = nn.Parameter(weight.clone())
        return param, optimizer([{"params": [param], "kind": "matrix"}], 0.01, **options)

    def steps(param, optimizer, seeds):
        for seed in seeds:
            param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    start = torch.randn(1030, 512, generator=torch.Generator().manual_seed(0))
    param, compiled = make(start, compile=True)
    other, plain = make(start)
    steps(param, compiled, range(3))
    steps(other, plain, range(1))
    state, weight = copy.deepcopy(compiled.state_dict()), param.detach().clone()
    assert state["state"][0].keys() == plain.state_dict()["state"][0].keys()
    resumed, again = make(start, compile=True)
    again.load_state_dict(state)
    with torch.no_grad():
        resumed.copy_(weight)
    steps(param, compiled, range(3, 6))
    steps(resumed, again, range(3, 6))
    assert torch.equal(param, resumed)


@pytest.mark.parametrize("optimizer", [Lion, Tiger, AdaX, AdaFactor])
def test_options_that_are_equal_when_compiled_may_part(optimizer):
    """Equal numbers are one tensor to the kernel's first call."""

    def weights(compiled):
        param = nn.Parameter(torch.linspace(-1, 1, 517 * 1021).reshape(517, 1021))
        stepped = optimizer([param], lr=0.01, weight_decay=0.01, compile=compiled)
        for lr in (0.01, 0.1):
            stepped.param_groups[0]["lr"] = lr
            param.grad = param.detach().cos()
            stepped.step()
        return param.detach()

    torch.testing.assert_close(weights(True), weights(False), rtol=1e-5, atol=1e-6)


# options that change what is compiled, beyond those that the other tests of compiled steps have
COMPILED_OPTIONS = {
    "Lion, lazy": lambda p, **o: Lion(p, 0.01, lazy=True, **o),
    "AdaX, lazy": lambda p, **o: AdaX(p, 0.01, lazy=True, **o),
    "AccumulatedAdamW, lazy": lambda p, **o: AccumulatedAdamW(p, 0.01, lazy=True, **o),
    "Lion, bfloat16 momentum": lambda p, **o: Lion(p, 0.01, momentum_dtype=torch.bfloat16, **o),
    "AdaXW, eps inside": lambda p, **o: AdaXW(p, 0.01, eps_placement="inside", **o),
    "AccumulatedAdamW, eps inside": lambda p, **o: AccumulatedAdamW(p, 0.01, eps_inside=True, **o),
    "AccumulatedSGD, decoupled": lambda p, **o: AccumulatedSGD(p, 0.01, weight_decay=0.1, decoupled=True, **o),
    "AdaFactor, hf": lambda p, **o: AdaFactor(p, **{**AdaFactor.PRESETS["hf"], "lr": None}, beta1=0.9, **o),
    "AdaFactor, bigvision": lambda p, **o: AdaFactor(p, **AdaFactor.PRESETS["bigvision"], **o),
}


@pytest.mark.parametrize(
    "name", [n if "lazy" in n else pytest.param(n, marks=pytest.mark.slow) for n in COMPILED_OPTIONS]
)
def test_compile_is_the_plain_form_with_every_option(name):
    """Lazy: inductor could not fuse the search for rows with gradient into the update."""
    results = []
    for compile in (False, True):
        generator = torch.Generator().manual_seed(0)
        param = nn.Parameter(0.1 * torch.randn(530, 500, generator=generator))
        optimizer = COMPILED_OPTIONS[name]([param], compile=compile)
        for step in range(3):
            param.grad = torch.randn(530, 500, generator=generator)
            param.grad[step::2] = 0.0
            optimizer.step()
        results.append(param.detach())
    # the sign of a sum that cancels to the last bit may differ
    assert (results[0] - results[1]).abs().gt(1e-5).sum() <= 2 and results[0].ne(0).all()


def test_speed_options_are_not_loaded():
    params = make_params()
    fast, slow = Lion(params, compile=True, foreach=True), Lion(params, foreach=False)
    slow.load_state_dict(fast.state_dict())
    assert slow.param_groups[0]["compile"] is False and slow.param_groups[0]["foreach"] is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, q: Lion([{"params": p}, {"params": q, "lr": -1.0}]), "lr must be a finite number"),
        (lambda p, q: Lion([{"params": p}, {"params": q, "lr": torch.tensor(0.1)}]), "lr must be a finite number"),
        (lambda p, q: Lion([{"params": p}, {"params": q, "betas": (2, 3)}]), "betas must be two numbers"),
        (lambda p, q: Lion([{"params": p}, {"params": q, "rounding": "kahn"}]), "rounding must be one of"),
        (lambda p, q: Lion([{"params": p}, {"params": q, "momentum_dtype": "bf16"}]), "momentum_dtype must be None"),
        (lambda p, q: AdaX([{"params": p}, {"params": q, "eps": 0.0}]), "eps must be at least"),
        (lambda p, q: AdaFactor([{"params": p}, {"params": q, "clip_threshold": 0}]), "clip_threshold must be"),
        (lambda p, q: Tiger([{"params": p}, {"params": q, "lazy": True}]), "Tiger has no lazy=True"),
        (lambda p, q: Tiger([{"params": p}, {"params": q, "accumulation_steps": 2}]), "all groups share a window"),
        (
            lambda p, q: Tiger([{"params": p}, {"params": q, "accumulation_steps": 2}], accumulation_steps=3),
            "all groups share a window",
        ),
    ],
)
def test_options_of_a_group_are_checked(make, message):
    p, q = ([nn.Parameter(torch.ones(2, 2))] for _ in range(2))
    with pytest.raises(ValueError, match=message):
        make(p, q)


def test_a_refused_group_is_not_added():
    optimizer = Lion([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="real parameters"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": -1.0})
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "momentum_dtype": torch.float32})
    assert len(optimizer.param_groups) == 2 and optimizer.param_groups[1]["momentum_dtype"] == "float32"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", [Lion, Tiger, AdaX, AdaFactor])
def test_autograd_notices_that_the_weights_have_changed(optimizer, compiled):
    param = nn.Parameter(torch.ones(700, 400))
    loss = param.square().sum()
    loss.backward(retain_graph=True)
    optimizer([param], lr=0.1, compile=compiled).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_case
def test_compile_is_the_plain_form(case):
    """One big matrix is compiled, the rest of the parameters follow beside it. A new rate compiles nothing, nor do the
    betas that OneCycleLR changes with it."""
    if not case.compile:
        pytest.skip("runs the compiled form of the optimizer inside")

    def params():
        generator = torch.Generator().manual_seed(3)
        return [*make_params(), nn.Parameter(0.1 * torch.randn(1030, 512, generator=generator))]

    plain, fused = params(), params()
    expected, optimizer = case.make(plain), case.make(fused, compile=True)
    for step in range(6):
        if step == 2:
            compiled = num_kernels()
        for o in (expected, optimizer):
            group = o.param_groups[0]
            group["lr"] = 0.03 / (1 + step // case.k)
            cycled = 0.9 - 0.01 * (step // case.k)
            if "betas" in group:
                group["betas"] = (cycled, *group["betas"][1:])
            elif "momentum" in group or "beta" in group:
                group["momentum" if "momentum" in group else "beta"] = cycled
        run_steps(expected, plain, range(step, step + 1))
        run_steps(optimizer, fused, range(step, step + 1))
    assert num_kernels() == compiled > 0
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
