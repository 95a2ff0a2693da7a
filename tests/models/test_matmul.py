"""The faster product of a CPU: who decides, where it is on, where it is off."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, BertConfig, BertModel

from suzoo.models import CoSENTModel, _matmul
from suzoo.models._matmul import attend_plainly, decide_fast_matmul, fast_matmul

CPU = torch.device("cpu")


def is_on() -> bool:
    return torch.backends.mkldnn.matmul.fp32_precision == "bf16"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A process that has not decided yet."""
    monkeypatch.setattr(_matmul, "_switch", _matmul._Switch())
    monkeypatch.delenv(_matmul.VARIABLE, raising=False)
    yield
    assert not is_on()


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setenv(_matmul.VARIABLE, "always")


def test_environment_decides_and_one_line_says_so(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(_matmul.logger, "info", lines.append)
    monkeypatch.setenv(_matmul.VARIABLE, "always")
    assert decide_fast_matmul() and decide_fast_matmul()
    assert lines == ["float32 products on this CPU: oneDNN (SUZOO_FAST_MATMUL=always)"]
    _matmul._switch.decision = None
    monkeypatch.setenv(_matmul.VARIABLE, "never")
    assert not decide_fast_matmul()
    _matmul._switch.decision = None
    monkeypatch.setenv(_matmul.VARIABLE, "1")
    with pytest.raises(ValueError, match="'1': set it to always or never"):
        decide_fast_matmul()


def test_the_decision_of_a_run_stays(monkeypatch):
    monkeypatch.setattr(_matmul, "_error", lambda: 1e-6)
    assert decide_fast_matmul(True)
    assert not decide_fast_matmul(False)
    monkeypatch.setattr(_matmul, "_error", lambda: 1e-3)  # as on a processor that rounds to bf16
    assert not decide_fast_matmul(True)


def fake_product(fast_seconds: float, rounding: float, monkeypatch):
    """A machine whose other product takes so long, in units of torch's, and is off by so much."""

    def product(fast, left, right):
        exact = left @ right
        return exact * (1 + rounding) if fast else exact

    monkeypatch.setattr(_matmul, "_product", product)
    monkeypatch.setattr(_matmul, "_seconds", lambda fast, left, right: fast_seconds if fast else 1.0)


@pytest.mark.parametrize(
    ("seconds", "rounding", "expected", "why"),
    [
        (0.5, 1e-6, True, "1/2.00 of the time"),
        (0.5, 4e-3, False, "has an error of"),
        (0.95, 1e-6, False, "1/1.05 of the time"),
        (0.5, 0.0, False, "one product only"),
    ],
)
def test_probe(monkeypatch, seconds, rounding, expected, why):
    fake_product(seconds, rounding, monkeypatch)
    decision, reason = _matmul._probe()
    assert decision == expected and why in reason


def test_probe_of_this_machine_agrees_with_its_error():
    decision, _ = _matmul._probe()
    assert not decision or _matmul._error() < _matmul.MOST_ERROR


@pytest.mark.usefixtures("always")
def test_on_inside_and_as_it_was_outside():
    with fast_matmul(CPU):
        assert is_on()
        with fast_matmul(CPU):
            assert is_on()
        assert is_on()
    assert not is_on()
    with pytest.raises(RuntimeError), fast_matmul(CPU):
        raise RuntimeError
    assert not is_on()
    with fast_matmul(torch.device("meta")):
        assert not is_on()


@pytest.mark.usefixtures("always")
def test_the_last_thread_that_leaves_restores_it():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with fast_matmul(CPU):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with fast_matmul(CPU):
        thread.start()
        assert entered.wait(10)
    assert is_on()
    leave.set()
    thread.join()
    assert not is_on()


@pytest.mark.usefixtures("always")
def test_off_in_attention_in_both_directions():
    seen: dict[str, bool] = {}

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor, name):
            ctx.name = name
            seen[name] = is_on()
            return tensor.view_as(tensor)

        @staticmethod
        def backward(ctx, grad):
            seen[f"{ctx.name}, backward"] = is_on()
            return grad, None

    def attend(module, query, key, value):
        return Look.apply(query * key * value, "attention"), None

    query = torch.randn(3, requires_grad=True)
    with fast_matmul(CPU):
        before = Look.apply(query, "before")
        output, _ = attend_plainly(attend, None, before, before + 1, before + 2)
        Look.apply(output, "behind").sum().backward()
    assert seen == {
        "before": True, "attention": False, "behind": True,
        "behind, backward": True, "attention, backward": False, "before, backward": True,
    }  # fmt: skip
    torch.testing.assert_close(query.grad, 3 * query.detach() ** 2 + 6 * query.detach() + 2)
    # a backward behind the block switches nothing on
    with fast_matmul(CPU):
        output, _ = attend_plainly(attend, None, query, query, query)
    output.sum().backward()
    assert not is_on()


@pytest.mark.usefixtures("always")
def test_models_switch_it_on_but_not_in_attention(monkeypatch):
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    model = CoSENTModel(config, BertModel(config)).eval()
    layer = model.encoder.encoder.layer[0]
    seen: dict[str, bool] = {}
    layer.intermediate.dense.register_forward_hook(lambda *_: seen.update(dense=is_on()))
    product = nn.functional.scaled_dot_product_attention

    def attention(*args, **kwargs):
        seen["attention"] = is_on()
        return product(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)

    def tokenizer(texts, **options):
        return {"input_ids": [[2, 5, 6, 3] for _ in texts]}

    model.tokenizer = SimpleNamespace(model_max_length=32)
    monkeypatch.setattr("suzoo.models.modeling_cosent.tokenize", lambda *_: (tokenizer(["a"])["input_ids"], None))
    model.encode(["a"])
    assert seen == {"dense": True, "attention": False}
    assert AttentionInterface()["sdpa"].__module__.startswith("transformers.")  # other people's stays theirs


@pytest.mark.usefixtures("always")
def test_gradients_are_the_same():
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = CoSENTModel(config).eval()
    ids, lengths = torch.randint(5, 50, (19,)), [4, 9, 6]

    def gradients():
        model.zero_grad()
        model(ids, lengths=lengths).sentence_embedding.pow(2).mean().backward()
        return [param.grad.clone() for param in model.parameters() if param.grad is not None]

    plain = gradients()
    with fast_matmul(CPU):
        fast = gradients()
    for a, b in zip(plain, fast, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()
