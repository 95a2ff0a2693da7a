"""The loop on a model of two numbers: metrics, best weights, patience, signals, refusals, and resuming exactly."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from suzoo.engine import RandomBatches, RunFolder, fit, record
from suzoo.engine.loop import Interrupted, _accumulation_steps
from suzoo.optimizers import Accumulated, AccumulatedSGD, Lion, Tiger


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return (self.dropout(x) * self.weight).sum(-1)


class Training:
    """Everything `fit` takes, in one place; `on_step(step)` runs inside the training step."""

    def __init__(self, folder, *, resume=False, scores=None, on_step=lambda step: None, **options):
        torch.manual_seed(0)
        self.run = RunFolder(folder, resume=resume)
        self.model = Line()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        data = torch.arange(40.0).view(20, 2) / 40
        self.batches = RandomBatches(list(data), batch_size=4, collate=torch.stack, num_micro_batches=2, seed=1)
        self.accelerator = Accelerator(cpu=True)
        self.steps = 0
        self.on_step = on_step
        evaluate = None if scores is None else lambda: {"spearman": scores[int(self.steps) // 5 - 1]}
        self.options = {"num_steps": 20, "log_every": 1, "evaluate": evaluate, "resume": resume, **options}

    def step(self, micro_batches):
        self.steps += 1
        assert len(micro_batches) == 2
        total = 0.0
        for batch in micro_batches:
            loss = self.model(batch).pow(2).mean() / 2
            self.accelerator.backward(loss)
            total += loss.detach()
        return {"loss": total + (self.on_step(self.steps) or 0.0)}

    def fit(self):
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        return fit(
            self.step,
            accelerator=self.accelerator,
            model=model,
            optimizer=optimizer,
            schedule=self.schedule,
            batches=self.batches,
            run=self.run,
            **self.options,
        )


def test_logs_every_step_and_evaluates_every_epoch(tmp_path):
    training = Training(tmp_path / "run", scores=[0.1, 0.3, 0.2, 0.25])
    result = training.fit()
    assert (result.step, result.best_step, result.best_value) == (20, 10, 0.3)
    lines = training.run.read_log()
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
    assert [line["dev"]["spearman"] for line in lines if "dev" in line] == [0.1, 0.3, 0.2, 0.25]
    assert lines[4]["lr"] == pytest.approx(0.1 / 6) and lines[4]["epoch"] == 1.0
    names = sorted(path.name for path in training.run.checkpoints.iterdir())
    assert names == ["best-00000010", "step-00000015", "step-00000020"]


def test_a_quiet_loop_says_nothing(tmp_path, monkeypatch, capsys):
    Training(tmp_path / "told", scores=[0.1, 0.3, 0.2, 0.25]).fit()
    told = capsys.readouterr()
    assert "spearman 0.3000" in told.out and "train" in told.err
    monkeypatch.setenv("SUZOO_QUIET", "1")
    Training(tmp_path / "quiet", scores=[0.1, 0.3, 0.2, 0.25]).fit()
    told = capsys.readouterr()
    assert not told.out and not told.err


def test_it_trains_behind_a_trainer_that_was_cut_off_in_a_window(tmp_path):
    weights = []
    for is_left_off in (False, True):
        training = Training(tmp_path / str(is_left_off))
        training.accelerator.sync_gradients = not is_left_off  # as transformers' Trainer leaves it
        training.fit()
        weights.append(training.model.weight.detach())
    assert torch.equal(*weights) and not torch.equal(weights[0], Line().weight)


def test_the_best_weights_are_loaded_back(tmp_path):
    weights = {}
    training = Training(tmp_path / "run", scores=[0.1, 0.3, 0.2, 0.25])
    training.on_step = lambda step: weights.update({step - 1: training.model.weight.detach().clone()})
    training.fit()
    assert torch.equal(training.model.weight, weights[10])
    assert not torch.equal(weights[10], weights[19])


def test_patience_stops_early(tmp_path):
    result = Training(tmp_path / "run", scores=[0.3, 0.2, 0.1, 0.4], patience=2).fit()
    assert result.stopped_early and result.step == 15 and result.best_step == 5


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(tmp_path):
    training = Training(tmp_path / "run", scores=[0.1] * 4, on_step=lambda step: float("nan") if step == 8 else 0.0)
    rows = ", ".join(map(str, training.batches.rows(7)))
    with pytest.raises(ValueError, match=rf"loss is nan at step 7 \(epoch 1, training rows {rows}\).*step-00000005"):
        training.fit()
    assert torch.isfinite(training.model.weight).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint_and_resuming_gives_the_same_bits(tmp_path, number):
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        check_signal(tmp_path, number)  # whatever the tests were started by, as nohup ignores SIGHUP
    finally:
        signal.signal(number, before)


def check_signal(tmp_path, number):
    whole = Training(tmp_path / "whole", scores=[0.1, 0.3, 0.2, 0.25])
    whole.fit()
    cut = Training(
        tmp_path / "cut", scores=[0.1, 0.3], on_step=lambda step: os.kill(os.getpid(), number) if step == 7 else None
    )
    with pytest.raises(Interrupted) as caught:
        cut.fit()
    assert caught.value.code == 128 + number and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    # lines of steps after the checkpoint, as a killed run leaves them
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "loss": 99.0}) + "\n" + '{"step": 9, "lo')
    again = Training(tmp_path / "cut", resume=True, scores=[0.1, 0.3, 0.2, 0.25])
    again.steps = 7
    result = again.fit()
    assert result.step == 20 and result.best_step == 10
    assert torch.equal(again.model.weight, whole.model.weight)
    losses = [[line["loss"] for line in t.run.read_log() if "loss" in line] for t in (whole, again)]
    assert losses[0] == losses[1]


def test_sigterm_twice_ends_as_once(tmp_path):
    def stop(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    cut = Training(tmp_path / "cut", scores=[0.1, 0.3], on_step=stop)
    with pytest.raises(Interrupted) as caught:
        cut.fit()
    assert caught.value.code == 128 + signal.SIGTERM and cut.run.last_whole().name == "step-00000007"


def test_the_log_has_the_mean_of_the_steps_since_its_last_line_also_over_a_resume(tmp_path):
    every = Training(tmp_path / "every")
    every.fit()
    losses = [line["loss"] for line in every.run.read_log()]

    def stop(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        Training(tmp_path / "few", log_every=5, on_step=stop).fit()
    again = Training(tmp_path / "few", log_every=5, resume=True)
    again.fit()
    lines = again.run.read_log()
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["loss"] for line in lines] == pytest.approx([sum(losses[i : i + 5]) / 5 for i in (0, 5, 10, 15)])


def test_a_broken_log_blocks_no_resume(tmp_path, caplog):
    run = RunFolder(tmp_path / "run")
    run.log({"step": 1, "loss": 2.0})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\nnull\n{"step": "x"}\n')
    run.log({"step": 2, "loss": 1.0})
    assert [line["step"] for line in run.read_log()] == [1, 2] and "4 damaged line(s)" in caplog.text
    run.forget_after(1)
    assert [line["step"] for line in run.read_log()] == [1]


def test_prune_deletes_only_what_it_wrote(tmp_path):
    run = RunFolder(tmp_path / "run")
    names = ["step-00000001", "step-00000002", "best-00000001", "best-of-all", "step-mine", ".step-00000009.partial"]
    for name in names:
        (run.checkpoints / name).mkdir()
    run.prune(1, None)
    left = {path.name for path in run.checkpoints.iterdir()}
    assert left == {"step-00000002", "best-of-all", "step-mine"}


class Accumulating(Training):
    """Two micro-batches per update, which the optimizer adds up by itself."""

    def __init__(self, folder, make, **options):
        super().__init__(folder, **{"max_grad_norm": None, **options})
        self.optimizer = make(self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))

    def step(self, micro_batches):
        self.steps += 0.5
        assert len(micro_batches) == 1
        loss = self.model(micro_batches[0]).pow(2).mean()
        self.accelerator.backward(loss)
        return {"loss": loss + (self.on_step(self.steps) or 0.0)}


SELF_ACCUMULATING = {
    "AccumulatedSGD": lambda params: AccumulatedSGD(params, lr=0.1, momentum=0.9, accumulation_steps=2),
    "free_gradients": lambda params: AccumulatedSGD(
        params, lr=0.1, momentum=0.9, accumulation_steps=2, free_gradients=True
    ),
    "Tiger": lambda params: Tiger(params, lr=0.1, accumulation_steps=2),
    "Accumulated": lambda params: Accumulated(Lion(params, lr=0.1), 2),
}
PLAIN = {
    "AccumulatedSGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "Tiger": lambda params: Tiger(params, lr=0.1),
    "Accumulated": lambda params: Lion(params, lr=0.1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_optimizer_that_accumulates_sees_the_schedule_once_per_update(tmp_path, name):
    scores = [0.1, 0.3, 0.2, 0.25]
    accumulating = Accumulating(tmp_path / "own", SELF_ACCUMULATING[name], scores=scores)
    mine = accumulating.fit()
    plain = Training(tmp_path / "plain", scores=scores, max_grad_norm=None)
    plain.optimizer = PLAIN[name](plain.model.parameters())
    plain.schedule = torch.optim.lr_scheduler.LambdaLR(plain.optimizer, lambda step: 1 / (1 + step))
    theirs = plain.fit()
    assert (mine.step, mine.best_step) == (theirs.step, theirs.best_step) == (20, 10)
    torch.testing.assert_close(accumulating.model.weight, plain.model.weight, rtol=1e-5, atol=1e-6)
    logs = [[line for line in t.run.read_log() if "loss" in line] for t in (accumulating, plain)]
    for own, other in zip(*logs, strict=True):
        assert own["lr"] == other["lr"] and own["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_resuming_with_another_optimizer_is_refused(tmp_path):
    first = Training(tmp_path / "run", scores=[0.1] * 4, patience=1)
    assert first.fit().step == 10
    other = Training(tmp_path / "run", resume=True)
    other.optimizer = Lion(other.model.parameters(), lr=0.1)
    other.schedule = None
    with pytest.raises(ValueError, match="step-00000010 holds the state of AdamW, not of Lion"):
        other.fit()


@pytest.mark.parametrize("name", SELF_ACCUMULATING)
def test_an_optimizer_that_accumulates_resumes_to_the_same_bits(tmp_path, name):
    def interrupt(step):
        if step == 6.5:  # between the two micro-batches of an update
            os.kill(os.getpid(), signal.SIGTERM)

    whole = Accumulating(tmp_path / "whole", SELF_ACCUMULATING[name], scores=[0.1] * 4)
    whole.fit()
    cut = Accumulating(tmp_path / "cut", SELF_ACCUMULATING[name], scores=[0.1] * 4, on_step=interrupt)
    with pytest.raises(Interrupted):
        cut.fit()
    again = Accumulating(tmp_path / "cut", SELF_ACCUMULATING[name], scores=[0.1] * 4, resume=True, patience=None)
    again.steps = 7
    assert again.fit().step == 20
    assert torch.equal(again.model.weight, whole.model.weight)
    losses = [[line["loss"] for line in t.run.read_log() if "loss" in line] for t in (whole, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 20


def test_an_optimizer_that_accumulates_refuses_clipping_and_other_micro_batches(tmp_path):
    training = Training(tmp_path / "run")
    training.optimizer = AccumulatedSGD(training.model.parameters(), lr=0.1, accumulation_steps=4)
    training.schedule = None
    with pytest.raises(ValueError, match="max_grad_norm=None"):
        training.fit()
    training.options["max_grad_norm"] = None
    with pytest.raises(ValueError, match="accumulates 4 micro-batches and a step has 2"):
        training.fit()


def test_an_optimizer_that_accumulates_is_found_and_refused_under_deepspeed():
    param = nn.Parameter(torch.ones(2))
    for inner in (AccumulatedSGD([param], lr=0.1, accumulation_steps=4), Lion([param])):
        zero = torch.optim.SGD([param], lr=0.1)  # DeepSpeed's own goes around ours, and Accelerate's around that
        zero.optimizer = inner
        accelerator = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, scaler=None)
        optimizer = AcceleratedOptimizer(zero, device_placement=False)
        if isinstance(inner, Lion):
            assert _accumulation_steps(optimizer, accelerator, 1.0) == 1
        else:
            with pytest.raises(ValueError, match="AccumulatedSGD accumulates gradients by itself, and DeepSpeed"):
                _accumulation_steps(optimizer, accelerator, None)


def test_a_nan_score_is_never_the_best(tmp_path, caplog):
    nan = float("nan")
    result = Training(tmp_path / "run", scores=[nan, 0.1, nan, 0.05]).fit()
    assert (result.best_step, result.best_value, result.evaluations_without_gain) == (10, 0.1, 2)
    warnings = [record for record in caplog.records if "NaN" in record.getMessage()]
    assert len(warnings) == 1 and "spearman is NaN at step 5" in warnings[0].getMessage()
    result = Training(tmp_path / "all", scores=[nan] * 4, patience=3).fit()
    assert result.best_step is None and result.stopped_early and result.step == 15


def test_a_wrong_monitor_is_named(tmp_path):
    with pytest.raises(ValueError, match="monitor is 'accuracy'"):
        Training(tmp_path / "run", scores=[0.1] * 4, monitor="accuracy").fit()


@dataclass
class Flags:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    output_dir: str = "run"


@dataclass
class FlagsOfNextVersion(Flags):
    shapes: tuple[int, ...] = (2, 3)


def test_a_resumed_run_is_the_one_that_began(tmp_path):
    def start(flags: Flags, rows: str) -> None:
        folder = RunFolder(tmp_path / "run", resume=True)
        folder.begin(
            Accelerator(cpu=True), flags, {"train": {"source": "t.tsv", "sha256": rows}}, changeable=["output_dir"]
        )

    start(Flags(lr=0.5), "a")
    start(Flags(), "a")  # nothing had been computed
    (tmp_path / "run/checkpoints/step-00000001").mkdir()
    start(Flags(output_dir="moved"), "a")
    with pytest.raises(ValueError, match=r"began with --lr 0\.1, not 0\.2; with --betas \[0\.9, 0\.99\], not"):
        start(Flags(lr=0.2, betas=(0.9, 0.9)), "a")
    with pytest.raises(ValueError, match="began with other train data"):
        start(Flags(), "b")
    start(FlagsOfNextVersion(), "a")
    with pytest.raises(ValueError, match=r"began with --shapes \[2, 3\], not \[2\]: resume it as it began"):
        start(FlagsOfNextVersion(shapes=(2,)), "a")


def test_a_run_refused_before_its_start_blocks_nothing(tmp_path):
    RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run")


def test_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record._git_commit() is None


def test_run_folder_refuses_what_would_lose_something(tmp_path):
    run = RunFolder(tmp_path / "run")
    (run.path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="add --resume to continue, --overwrite to start anew"):
        RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match="contradict"):
        RunFolder(tmp_path / "run", overwrite=True, resume=True)
    RunFolder(tmp_path / "run", resume=True)
    assert (run.path / "run.json").exists()
    again = RunFolder(tmp_path / "run", overwrite=True)
    assert (run.path / "run.json").exists()  # until the data and the model are there
    again.begin(Accelerator(cpu=True), Flags(), {})
    assert not (run.path / "run.json").exists() and again.checkpoints.exists()
    # until the new run has a checkpoint, also when others are refused between
    replaced = tmp_path / ".run.replaced"
    assert (replaced / "run.json").exists()
    again = RunFolder(tmp_path / "run", overwrite=True)
    again.begin(Accelerator(cpu=True), Flags(), {})
    assert (replaced / "run.json").exists()
    again.prune(1, None)
    assert not replaced.exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run of ours"):
        RunFolder(home, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(home / "thesis.txt")
    with pytest.raises(ValueError, match="can't write"):
        RunFolder("/proc/nowhere")
