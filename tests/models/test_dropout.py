"""Dropout by bits: torch's distribution, torch's generator, and gradients through what was kept."""

import pytest
import torch
from torch import nn
from transformers import BertConfig

from suzoo.models import CoSENTModel
from suzoo.models._dropout import Dropout, dropout, replace_dropout
from suzoo.models._ragged import ragged_attention, ragged_layout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 3 / 65536])
def test_distribution(p):
    found = dropout(torch.ones(4, 500_000), p)
    kept = found != 0
    assert found[kept].unique().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    spread = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs((~kept).float().mean() - p) < 5 * spread + 1 / 65536
    # the four elements of a draw have as many zeros each, and know nothing of each other
    lanes = kept.view(-1, 4).double()
    assert ((1 - lanes.mean(0)) - p).abs().max() < 5 * 2 * spread + 1 / 65536
    if p in (0.1, 0.5, 0.9):
        assert (torch.corrcoef(lanes.T) - torch.eye(4)).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradient_is_the_mask(dtype):
    tensor = torch.randn(7, 11, dtype=dtype, requires_grad=True)
    output = dropout(tensor, 0.3)
    output.sum().backward()
    assert output.dtype == dtype
    torch.testing.assert_close(output, tensor * tensor.grad)
    assert {round(value, 2) for value in tensor.grad.unique().tolist()} == {0.0, 1.43}


def test_a_state_that_is_put_back_gives_the_same():
    tensor, state = torch.ones(1001), torch.get_rng_state()
    first, second = dropout(tensor, 0.5), dropout(tensor, 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout(tensor, 0.5))


def test_the_ends():
    tensor = torch.randn(50)
    assert torch.equal(dropout(tensor, 0.5, training=False), tensor)
    assert torch.equal(dropout(tensor, 0.0), tensor)
    assert dropout(tensor, 1.0).abs().sum() == 0
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)
    assert dropout(torch.ones(1), 0.5).item() in (0.0, 2.0)


def test_replacing_keeps_the_mode_and_the_names():
    model = nn.ModuleDict({"a": nn.Dropout(0.2).eval(), "b": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4))})
    names = list(model.state_dict())
    replace_dropout(model)
    kinds = {name: (type(part), part.p, part.training) for name, part in model.named_modules() if hasattr(part, "p")}
    assert kinds == {"a": (Dropout, 0.2, False), "b.1": (Dropout, 0.4, True)}
    assert list(model.state_dict()) == names


def test_attention_with_dropout_has_torchs_mean():
    lengths = torch.tensor([2, 3, 5]).numpy()
    query, key, value = (torch.randn(1, 2, 10, 4, dtype=torch.float64) for _ in range(3))
    layout, _ = ragged_layout(lengths, torch.device("cpu"), num_groups=2)
    plain, _ = ragged_attention(nn.Module(), query, key, value, None, ragged=layout)
    total = sum(
        ragged_attention(nn.Module(), query, key, value, None, dropout=0.2, ragged=layout)[0] for _ in range(600)
    )
    torch.testing.assert_close(total / 600, plain, atol=0.12, rtol=0)


def test_a_window_that_leaves_padding_alone_gives_no_nan():
    query = torch.randn(1, 1, 8, 4, requires_grad=True)
    layout, _ = ragged_layout(torch.tensor([1, 7]).numpy(), torch.device("cpu"), num_groups=1)
    output, _ = ragged_attention(nn.Module(), query, query, query, None, dropout=0.1, sliding_window=2, ragged=layout)
    output.sum().backward()
    assert query.grad.isfinite().all()


def test_a_model_trains_with_it():
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = CoSENTModel(config).train()
    replace_dropout(model)
    ids, lengths, state = torch.randint(5, 50, (19,)), [4, 9, 6], torch.get_rng_state()
    first = model(ids, lengths=lengths).sentence_embedding
    other = model(ids, lengths=lengths).sentence_embedding
    torch.set_rng_state(state)
    assert torch.equal(first, model(ids, lengths=lengths).sentence_embedding) and not torch.equal(first, other)
    # the noise has no bias that one could see
    mean = torch.stack([model(ids, lengths=lengths).sentence_embedding for _ in range(60)]).mean(0)
    model.eval()
    assert torch.cosine_similarity(mean, model(ids, lengths=lengths).sentence_embedding).min() > 0.95
