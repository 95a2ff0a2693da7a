"""Trained on 64 tokens, tested on up to 512: positions that act on the scores, windows, log n and ReRoPE.

Claims (kexue.fm/archives/9431, 8823, 9444, 9708): a model with RoPE breaks down behind its training length; a window
of that length at test time, without training, is a strong baseline; ALiBi, KERPLE, Sandwich and XPOS go on as well as
it does; log n scaling helps, more if it was trained; ReRoPE at test time is the best of those without training, and
its window should be a quarter to a half of the training length, for at the whole it breaks down. Positions drawn at
random in training make every kind go on, evenly spaced ones at test time better than counted ones; of equal mean and
with log n they go on best of all.

    python reproductions/length_extrapolation.py --data texts.txt.gz

A causal pre-norm model, two layers of 96, 16 x 64 tokens per step. The first table has the loss, in nats, of the last
64 tokens of blocks of that length, the second their accuracy in percent, the third the entropy of the trained attention
as a share of log n.

Verdict: holds in part: three seeds, loss at 512 tokens after 64 in training: RoPE 4.926 ± 0.028 (4.722 at 64), with a
window of 64 4.721 ± 0.007, ReRoPE 32 4.749 ± 0.014, ALiBi 4.741 ± 0.011, KERPLE 4.725 ± 0.012, Sandwich 4.712 ± 0.011;
XPOS alone breaks down (4.874 ± 0.014), log n helps ReRoPE alone, more if trained (4.733 ± 0.016); ReRoPE's window may
be the whole training length. Random positions: 4.807 ± 0.008, evenly spaced 4.731 ± 0.013 at 64. Of equal mean with log
n they are the best of the random ones up to 256 tokens (4.755 ± 0.009 there, counted 4.802 ± 0.009), and behind them
at 512 (4.830 ± 0.008). Tables in training/LOG.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from _small_lm import Results, read_lines, spread

from suzoo.analysis import attention_report
from suzoo.data import train_wordpiece
from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM
from suzoo.optimizers import get_schedule

TRAINED = 64
RANGE = 512  # that positions are drawn from
# name -> what is trained; what is changed at test time, each its own row
MODELS: dict[str, dict] = {
    "RoPE": {"position_embedding_type": "rope"},
    "RoPE, log n trained": {"position_embedding_type": "rope", "log_n": "train", "log_n_base": TRAINED},
    "XPOS": {"position_embedding_type": "xpos"},
    "ALiBi": {"position_embedding_type": "alibi"},
    "KERPLE (log)": {"position_embedding_type": "kerple_log"},
    "KERPLE (power)": {"position_embedding_type": "kerple_power"},
    "Sandwich": {"position_embedding_type": "sandwich"},
    "RoPE, random": {"position_embedding_type": "rope", "random_positions": RANGE},
    "RoPE, equal mean": {"position_embedding_type": "rope", "random_positions": "equal_mean"},
    "RoPE, equal mean, log n trained": {
        "position_embedding_type": "rope", "random_positions": "equal_mean", "log_n": "train", "log_n_base": TRAINED,
    },
    "absolute": {"position_embedding_type": "absolute"},
    "absolute, random": {"position_embedding_type": "absolute", "random_positions": RANGE},
    "ALiBi, random": {"position_embedding_type": "alibi", "random_positions": RANGE},
}  # fmt: skip
LOG_N = {"log_n": "inference", "log_n_base": TRAINED}
EVENLY = {"test_positions": "evenly spaced"}
RANDOM = {"": {}, "evenly spaced": EVENLY, "drawn": {"test_positions": "drawn"}}
AT_TEST: dict[str, dict[str, dict]] = {
    "RoPE": {
        "": {},
        "window 64": {"attention_window": TRAINED},
        "window 64, 4 sinks": {"attention_window": TRAINED, "attention_sinks": 4},
        "log n at inference": LOG_N,
        "ReRoPE 16": {"position_embedding_type": "rerope", "rope_window": 16},
        "ReRoPE 32": {"position_embedding_type": "rerope", "rope_window": 32},
        "ReRoPE 64": {"position_embedding_type": "rerope", "rope_window": 64},
        "ReRoPE 32, log n at inference": {"position_embedding_type": "rerope", "rope_window": 32, **LOG_N},
        "Leaky ReRoPE 32": {"position_embedding_type": "leaky_rerope", "rope_window": 32, "rope_slowdown": 16.0},
    },
    "RoPE, log n trained": {
        "": {},
        "window 64": {"attention_window": TRAINED},
        "ReRoPE 32": {"position_embedding_type": "rerope", "rope_window": 32},
    },
    "XPOS": {"": {}, "window 64": {"attention_window": TRAINED}},
    "absolute, random": RANDOM,
    "RoPE, random": RANDOM,
    "ALiBi, random": RANDOM,
}


@dataclass
class Options:
    data: str
    """A text file, one text per line, also .gz."""
    models: tuple[str, ...] = tuple(MODELS)
    lengths: tuple[int, ...] = (64, 128, 256, 512)
    num_updates: int = 450
    num_blocks: int = 24
    """Test blocks of each length."""
    out: Path = Path("out/length-extrapolation/runs.json")
    seeds: tuple[int, ...] = field(default=(0, 1, 2))


def stream_of(path: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids to train on and to test on, and the size of their vocabulary."""
    lines = read_lines(path)
    tokenizer = train_wordpiece(lines, vocab_size=1000)
    ids = [token for row in tokenizer(lines, add_special_tokens=False)["input_ids"] for token in row]
    cut = len(ids) * 9 // 10
    return torch.tensor(ids[:cut]), torch.tensor(ids[cut:]), len(tokenizer)


def trained(
    fields: dict, stream: torch.Tensor, vocab_size: int, num_updates: int, seed: int, length: int = TRAINED
) -> DialoGPTForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = DialoGPTConfig(vocab_size=vocab_size, norm_first=True, **sizes, **dropout, **fields)
    model = DialoGPTForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = get_schedule("linear", optimizer, num_steps=max(1, num_updates), warmup=0.1)
    blocks, draw = stream[: len(stream) // length * length].view(-1, length), np.random.default_rng(seed)
    for _ in range(num_updates):
        batch = blocks[torch.from_numpy(draw.integers(len(blocks), size=16 * TRAINED // length))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def changed(model: DialoGPTForCausalLM, fields: dict) -> DialoGPTForCausalLM:
    """The same weights under another configuration."""
    config = copy.deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    other = DialoGPTForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def logits_of(model: DialoGPTForCausalLM, ids: torch.Tensor, positions: str) -> torch.Tensor:
    """With positions that are counted, drawn as in training (there is no dropout), or evenly spaced over `RANGE`."""
    if positions != "evenly spaced":
        return model.train(positions == "drawn")(input_ids=ids).logits
    places = torch.linspace(0, RANGE - 1, ids.shape[1]).round().long().expand_as(ids)
    # behind a token of padding, since positions that do not go on one by one begin new documents without it
    ids, places, mask = (torch.nn.functional.pad(x, (1, 0)) for x in (ids, places, torch.ones_like(ids)))
    return model.eval()(input_ids=ids, position_ids=places, attention_mask=mask).logits[:, 1:]


@torch.no_grad()
def scores_at(
    model: DialoGPTForCausalLM, stream: torch.Tensor, length: int, num_blocks: int, positions: str
) -> tuple[float, float]:
    """Loss in nats and accuracy in percent."""
    # every length predicts the same tokens: the last ones of blocks that end at the same places
    ends = torch.linspace(600, len(stream), num_blocks).long()
    blocks = torch.stack([stream[end - length - 1 : end] for end in ends])
    logits = torch.cat([logits_of(model, part[:, :-1], positions)[:, -TRAINED:] for part in blocks.split(8)])
    logits, targets = logits.flatten(0, 1), blocks[:, -TRAINED:].flatten()
    accuracy = (logits.argmax(-1) == targets).float().mean()
    return float(torch.nn.functional.cross_entropy(logits, targets)), 100 * float(accuracy)


def measure(name: str, options: Options, streams, seed: int) -> dict:
    train_stream, test_stream, vocab_size = streams
    model = trained(MODELS[name], train_stream, vocab_size, options.num_updates, seed)
    found: dict = {"loss": [0.0], "seconds": [0.0], "rows": {}, "entropy": {}}
    for change, fields in AT_TEST.get(name, {"": {}}).items():
        positions = fields.get("test_positions", "counted")
        other = changed(model, {key: value for key, value in fields.items() if key != "test_positions"})
        found["rows"][change] = {
            str(n): scores_at(other, test_stream, n, options.num_blocks, positions) for n in options.lengths
        }
    for n in options.lengths:
        report = attention_report(model, {"input_ids": test_stream[: 4 * n].view(4, n)})
        found["entropy"][str(n)] = float(report.relative_entropy.mean())
    found["loss"] = [found["rows"][""][str(TRAINED)][0]]
    return found


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.models) - set(MODELS):
        raise SystemExit(f"--models are of {'; '.join(MODELS)}, not {'; '.join(sorted(unknown))}")
    streams, results = stream_of(options.data), Results(str(options.out))
    columns = [str(n) for n in options.lengths]
    head = f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    losses, accuracies, entropies = [head], [head], [head]
    for name in options.models:
        runs = [
            results.run(f"{name} {seed}", lambda name=name, seed=seed: measure(name, options, streams, seed))
            for seed in options.seeds
        ]
        for change in runs[0]["rows"]:
            for place, table in enumerate((losses, accuracies)):
                cells = [spread(run["rows"][change][n][place] for run in runs) for n in columns]
                table.append(f"| {', '.join(filter(None, (name, change)))} | {' | '.join(cells)} |")
        entropies.append(f"| {name} | {' | '.join(spread(run['entropy'][n] for run in runs) for n in columns)} |")
    print("\n".join([*losses, "", *accuracies, "", *entropies]))


if __name__ == "__main__":
    main()
