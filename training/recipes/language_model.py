"""The flags that the scripts of DialoGPT, UniLM and T-TA share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from recipes.base import Training
from recipes.settings import Setting

Positions = Literal[
    "absolute",
    "none",
    "nezha",
    "rope",
    "xpos",
    "rerope",
    "leaky_rerope",
    "alibi",
    "kerple_log",
    "kerple_power",
    "sandwich",
]
Attention = Literal["softmax", "elu1", "taylor1", "taylor2", "efficient"]
SCRATCH = ("model=None",)
RULES = ("self_terminating=monotonic", "self_terminating=non_monotonic")


@dataclass(frozen=True, kw_only=True)
class LanguageModelTraining(Training):
    group = "training"

    stream: bool = False
    """Read --data while training, for what is larger than the disk: files, URLs and Hub datasets, no row of which is
    kept. Takes --max-steps."""
    shuffle_buffer: Annotated[int, Setting(least=1, part_of=("stream",))] = 10_000
    """Rows of a stream that each process shuffles, and sorts by length, together."""
    micro_batch_tokens: Annotated[int, Setting(least=1)] = 2048
    """Size of a micro-batch on one process: examples times the longest of them; under 5 % of it is padding."""
    init_std: Annotated[float, Setting(above=0, part_of=SCRATCH)] = 0.02
    """Standard deviation of the weights that a model from scratch begins with. BERT's suits a width of 768: narrow
    models learn sooner with 1 / sqrt(hidden_size)."""
    positions: Annotated[Positions, Setting(part_of=SCRATCH)] = "absolute"
    """Of the model from scratch (kexue.fm/archives/9431, 9708); suzoo/models/_position_kinds.py says what each adds."""
    attention: Annotated[Attention, Setting(part_of=SCRATCH)] = "softmax"
    """Of the model from scratch: softmax, or a kind of linear attention (kexue.fm/archives/7546)."""
    rope_window: Annotated[int, Setting(least=1, part_of=("positions=rerope", "positions=leaky_rerope"))] = 256
    """rerope, leaky_rerope: distances under it are RoPE's; a quarter to a half of the training length."""
    window: Annotated[int | None, Setting(least=1, part_of=SCRATCH)] = None
    """A token of the model from scratch sees others at a distance under this only; default is all."""
    sinks: Annotated[int, Setting(least=0, off=0, part_of=("window",))] = 0
    """window: the first so many tokens stay visible to all."""
    log_n: Annotated[Literal["off", "train", "inference"], Setting(off="off", part_of=SCRATCH)] = "off"
    """Scale the scores of the model from scratch by log n / log max_length for n visible keys (kexue.fm/archives/8823):
    always, or at inference only, on longer texts."""
    random_positions: Annotated[int | Literal["equal_mean"] | None, Setting(least=1, part_of=SCRATCH)] = None
    """Draw the positions of a training text from so many, in order (kexue.fm/archives/9444); or evenly spaced, with the
    length as the mean of the last one (equal_mean, not for absolute and nezha)."""
    label_smoothing: Annotated[float, Setting(least=0, most=1, off=0)] = 0.0
    """Share of the target that is spread over the vocabulary; dev losses are without it."""
    chunk_size: Annotated[int, Setting(least=0, off=0)] = 0
    """Labelled tokens whose logits exist at once, for large vocabularies; the head then computes twice. 0 is all."""

    @property
    def scratch_fields(self) -> dict[str, Any]:
        """Fields of the configuration of a model from scratch."""
        return {
            "initializer_range": self.init_std,
            "position_embedding_type": self.positions,
            "attention_type": self.attention,
            "rope_window": self.rope_window,
            "attention_window": self.window,
            "attention_sinks": self.sinks,
            "log_n": self.log_n,
            "log_n_base": self.max_length,
            "random_positions": self.random_positions,
        }

    @property
    def loop_options(self) -> dict[str, Any]:
        """With the weights of the lowest dev loss as the best ones."""
        options = super().loop_options | {"monitor": "loss", "greater_is_better": False}
        if self.stream and self.max_steps and not self.evaluate_every:
            options["evaluate_every"] = max(1, self.max_steps // 10)
        return options

    def check(self) -> None:
        super().check()
        if self.stream and self.max_steps is None:
            raise ValueError("--stream has no end: say with --max-steps how long to train")
        if self.stream and self.max_train_samples is not None:
            raise ValueError("--stream reads as much as it needs: --max-steps, and no --max-train-samples")


@dataclass(frozen=True, kw_only=True)
class CausalTraining(LanguageModelTraining):
    self_terminating: Literal["off", "monotonic", "non_monotonic"] | None = None
    """Give the end of a text a probability that goes to one (kexue.fm/archives/7500), in training and in the saved
    model's generate(). Default: as --model was, else off."""
    epsilon: Annotated[float, Setting(above=0, most=1, part_of=RULES)] = 1e-3
    """self_terminating: greedy search ends within ln 2 / epsilon tokens."""
