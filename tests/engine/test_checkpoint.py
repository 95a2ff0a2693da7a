"""Checkpoints: every kind of state comes back, damage is noticed, tied weights are kept once."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from suzoo.distributed import barrier, rank, world_size
from suzoo.engine import RunFolder
from suzoo.engine.checkpoint import is_whole, load_checkpoint, rng_state, save_checkpoint, set_rng_state, sha256
from tests.ranks import run_ranks


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


def train(model, optimizer, steps: int) -> None:
    for _ in range(steps):
        loss = model(torch.randint(6, (8,))).pow(2).mean() + torch.rand(()) * 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_tied_weights_of_an_accelerator_are_kept_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self.clone())  # as it is where weights are elsewhere
    folder = tmp_path / "step-00000001"
    save_checkpoint(folder, model=Tied(), state={})
    assert json.loads((folder / "state.json").read_text())["aliases"] == {
        ".model.head.weight": ".model.embedding.weight"
    }


def test_a_run_of_more_gpus_goes_on_where_fewer_are_visible():
    state = rng_state()
    set_rng_state({**state, "cuda": [[0] * 16] * 8})
    assert torch.equal(torch.get_rng_state(), torch.tensor(state["torch"], dtype=torch.uint8))


def test_weights_optimizer_and_random_numbers_continue_exactly(tmp_path):
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, 3)
    save_checkpoint(tmp_path / "step-00000003", model=model, state={"optimizer": optimizer.state_dict(), "n": (1, 0.5)})
    train(model, optimizer, 3)
    expected = model.head.weight.detach().clone(), random.random(), np.random.rand(), torch.rand(2)

    other = Tied()
    state = load_checkpoint(tmp_path / "step-00000003", model=other)
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.3)
    optimizer.load_state_dict(state["optimizer"])
    assert state["n"] == (1, 0.5) and optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    train(other, optimizer, 3)
    assert torch.equal(other.head.weight, expected[0]) and other.head.weight is other.embedding.weight
    assert (random.random(), np.random.rand()) == expected[1:3] and torch.equal(torch.rand(2), expected[3])
    files = sorted(path.name for path in (tmp_path / "step-00000003").iterdir())
    assert files == ["manifest.json", "random.json", "shard-00000.safetensors", "state.json"]


def test_a_matrix_and_its_transpose_are_two_tensors(tmp_path):
    """One storage, start and shape, but other strides: only what is the same tensor is kept once."""
    square = torch.arange(9.0).view(3, 3)
    save_checkpoint(tmp_path / "step-00000001", model=nn.Linear(1, 1), state={"a": square, "b": square.T, "c": square})
    state = load_checkpoint(tmp_path / "step-00000001", model=nn.Linear(1, 1))
    assert torch.equal(state["a"], square) and torch.equal(state["b"], square.T) and torch.equal(state["c"], square)
    aliases = json.loads((tmp_path / "step-00000001" / "state.json").read_text())["aliases"]
    assert len(aliases) == 1


def test_a_damaged_or_unfinished_checkpoint_is_not_used(tmp_path, caplog):
    run, model = RunFolder(tmp_path / "run"), Tied()
    for step in (1, 2, 3):
        save_checkpoint(run.checkpoints / f"step-{step:08d}", model=model, state={})
    (run.checkpoints / ".step-00000004.partial").mkdir()
    weights = run.checkpoints / "step-00000003/shard-00000.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run.newest_checkpoint() == run.last_whole() == run.checkpoints / "step-00000002"
    assert "step-00000003 is damaged" in caplog.text
    # a manifest that names nothing, or is of another kind, vouches for nothing
    for content in ("{}", "[]", "null", "7", '{"files": {}}', '{"files": {"state.json": 3}}', "\x00"):
        (run.checkpoints / "step-00000002/manifest.json").write_text(content)
        assert not is_whole(run.checkpoints / "step-00000002")
    assert run.newest_checkpoint() == run.checkpoints / "step-00000001"
    (run.checkpoints / "step-00000001/state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: start anew with --overwrite"):
        run.newest_checkpoint()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import suzoo.engine.checkpoint as module

    model = Tied()
    save_checkpoint(tmp_path / "step-00000001", model=model, state={})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "step-00000002", model=model, state={})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"] and is_whole(tmp_path / "step-00000001")


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_of_another_model_are_refused(tmp_path, other):
    save_checkpoint(tmp_path / "step-1", model=nn.Linear(3, 2), state={})
    with pytest.raises(ValueError, match="step-1 holds the weights of another model: resume with the flags"):
        load_checkpoint(tmp_path / "step-1", model=other)


def test_what_is_not_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint keeps tensors"):
        save_checkpoint(tmp_path / "step-1", model=Tied(), state={"function": print})


def sharded_or_not(sharded: bool):
    from torch.distributed.device_mesh import init_device_mesh

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 1))  # uneven shards, and an empty one
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def take_steps(model, optimizer):
    for step in range(3):
        model(torch.full((2, 5), step + 1.0)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def save_after_steps(folder: str, sharded: bool) -> list:
    model, optimizer = sharded_or_not(sharded)
    take_steps(model, optimizer)
    save_checkpoint(Path(folder) / "step-1", model=model, state={"optimizer": optimizer.state_dict()})
    return take_steps(model, optimizer)


def go_on(folder: str, sharded: bool) -> list:
    model, optimizer = sharded_or_not(sharded)
    state = load_checkpoint(Path(folder) / "step-1", model=model, optimizer=optimizer)
    optimizer.load_state_dict(state["optimizer"])
    moments = [value["exp_avg"] for value in optimizer.state.values()]
    assert all(isinstance(moment, DTensor) == sharded for moment in moments)
    return take_steps(model, optimizer)


@pytest.mark.parametrize("before", [(1, False), (2, True), (3, True)], ids=["one", "two-shards", "three-shards"])
def test_any_number_of_ranks_goes_on_with_what_any_other_wrote(tmp_path, before):
    """Sharded or not, weights and optimizer state are those of the run before."""
    size, sharded = before
    write = (save_after_steps, str(tmp_path), sharded)
    expected = run_ranks(*write, world_size=size)[0] if size > 1 else save_after_steps(*write[1:])
    written = sorted(path.name for path in (tmp_path / "step-1").glob("shard-*"))
    assert len(written) == (size if sharded else 1)  # every rank its own part
    found = [go_on(str(tmp_path), False)]
    if size != 3:
        found += run_ranks(go_on, str(tmp_path), True)
    for weights in found:
        for one, other in zip(weights, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def on_two_disks(folder: str) -> list:
    """Each rank with a folder of its own, as on machines that share no disk; the second one lost its checkpoint."""
    run = RunFolder(Path(folder) / str(rank()))
    assert run.disks.number == 2 and run.disks.leads
    model = nn.Linear(3, 2)
    for step in (1, 2):
        save_checkpoint(
            run.checkpoints / f"step-{step:08d}", model=model, state={"n": step, "seconds": rank()}, disks=run.disks
        )
    barrier()
    if rank() == 1:
        shutil.rmtree(run.checkpoints / "step-00000002")
    if rank() == 0:
        (run.checkpoints / "step-00000002/random.json").write_text("[]")
    barrier()
    newest = run.newest_checkpoint()  # one disk has nothing of the second, the other a part
    return [newest.name, is_whole(newest), load_checkpoint(newest, model=nn.Linear(3, 2))["n"]]


def test_machines_without_a_shared_disk_agree_on_a_checkpoint(tmp_path):
    assert run_ranks(on_two_disks, str(tmp_path)) == [["step-00000001", True, 1]] * 2


def copied(folder: str) -> list:
    run = RunFolder(Path(folder) / str(rank()))
    save_checkpoint(
        run.checkpoints / "step-00000001", model=nn.Linear(3, 2), state={"seconds": rank()}, disks=run.disks
    )
    barrier()
    if rank() == 1:
        shutil.rmtree(run.checkpoints / "step-00000001")
    barrier()
    found = [run.newest_checkpoint().name, is_whole(run.checkpoints / "step-00000001")]
    barrier()
    if rank() == 1:  # of another run
        step = run.checkpoints / "step-00000001"
        (step / "random.json").write_text("[]")
        manifest = json.loads((step / "manifest.json").read_text())
        manifest["files"]["random.json"] = sha256(step / "random.json")
        (step / "manifest.json").write_text(json.dumps(manifest))
    barrier()
    with pytest.raises(ValueError, match="the machines hold different checkpoints step-00000001"):
        run.newest_checkpoint()
    return found


def test_a_machine_that_lost_its_disk_gets_the_checkpoint_of_another_and_other_runs_are_refused(tmp_path):
    assert run_ranks(copied, str(tmp_path)) == [["step-00000001", True]] * 2
    names = [sorted(path.name for path in (tmp_path / r / "checkpoints/step-00000001").iterdir()) for r in "01"]
    assert names[0] == names[1]
