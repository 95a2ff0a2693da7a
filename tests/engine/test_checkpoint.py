"""Checkpoints: every kind of state comes back, damage is noticed, tied weights are kept once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from suzoo.engine.checkpoint import checkpoints, load_checkpoint, save_checkpoint
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
    assert files == ["manifest.json", "rng-0.json", "state.json", "tensors.safetensors"]


def test_a_damaged_or_unfinished_checkpoint_is_not_used(tmp_path, caplog):
    model = Tied()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / f"step-{step:08d}", model=model, state={})
    (tmp_path / ".step-00000004.partial").mkdir()
    weights = tmp_path / "step-00000003/tensors.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]
    assert "step-00000003 is damaged" in caplog.text


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import suzoo.engine.checkpoint as module

    model = Tied()
    save_checkpoint(tmp_path / "step-00000001", model=model, state={})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "step-00000002", model=model, state={})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_of_another_model_are_refused(tmp_path, other):
    save_checkpoint(tmp_path / "step-1", model=nn.Linear(3, 2), state={})
    with pytest.raises(ValueError, match="step-1 holds the weights of another model: resume with the flags"):
        load_checkpoint(tmp_path / "step-1", model=other)


def test_what_is_not_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint keeps tensors"):
        save_checkpoint(tmp_path / "step-1", model=Tied(), state={"function": print})


def sharded_round_trip(folder: str) -> dict:
    from pathlib import Path

    from torch.distributed.device_mesh import init_device_mesh

    def sharded():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps(model, optimizer):
        for step in range(3):
            model(torch.full((2, 5), step + 1.0)).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = sharded()
    steps(model, optimizer)
    save_checkpoint(Path(folder) / "step-1", model=model, state={"optimizer": optimizer.state_dict()})
    steps(model, optimizer)
    again, optimizer = sharded()
    state = load_checkpoint(Path(folder) / "step-1", model=again)
    optimizer.load_state_dict(state["optimizer"])
    steps(again, optimizer)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    return {"same": all(torch.equal(a.full_tensor(), b.full_tensor()) for a, b in pairs)}


def test_sharded_weights_and_optimizer_state_come_back_on_two_ranks(tmp_path):
    assert all(result["same"] for result in run_ranks(sharded_round_trip, str(tmp_path)))
