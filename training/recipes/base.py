"""The fields that every training script shares; each is a command-line flag with this text as its help.

No torch here, so that `--help` answers at once: `frame.py` does with the fields what needs it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from recipes.settings import Setting

from suzoo.reach import model_folder, split_of_dev

POSITIVE = Setting(least=1)
COUNT = Setting(least=0)


@dataclass(frozen=True, kw_only=True)
class Data:
    group = "data"

    data: tuple[str, ...]
    """Training data: embedded:<name>, a file, a pattern of files or a folder (jsonl, csv, tsv, parquet, .gz), a URL, or
    a Hub dataset; several are read one after the other."""
    data_weights: tuple[float, ...] = ()
    """One number per source of --data, as 2 1 0.5: its share of the training examples, whatever its size. A source that
    gives more than it has repeats, one that gives less goes on in the next epoch, which is as long as ever."""
    split: str | None = None
    """Split of --data, where it has several."""
    dev: str | None = None
    """Data to choose the best weights by; default is the dev split of --data."""
    dev_split: str | None = None
    """Split of --dev; default is its dev split, and all of a file or of a folder whose files name no split."""
    columns: tuple[str, ...] = ()
    """Column names of the data, as in text1=sentence1 text2=sentence2 score=label."""
    skip_bad_rows: bool = False
    """Count and leave out rows that can't be read, instead of stopping at the first."""
    num_workers: Annotated[int, Setting(least=1, resume=True, shown=False)] = 1
    """Processes that tokenize large data, once: what they write stays in the cache."""
    max_train_samples: Annotated[int | None, POSITIVE] = None
    """Use only this many training rows, from the start."""
    max_dev_samples: Annotated[int | None, POSITIVE] = None
    """Use only this many dev rows, from the start."""

    @property
    def data_name(self) -> str:
        """What messages call --data."""
        return " ".join(self.data)

    @property
    def dev_data(self) -> tuple[str | tuple[str, ...], str | None]:
        """Source and split of the dev data."""
        for source in self.data if not self.dev else ():
            if os.path.isfile(source):
                raise ValueError(f"--data {source} is one file: give the file of the dev data with --dev")
        if self.dev:
            return self.dev, self.dev_split or split_of_dev(self.dev)
        return self.data, self.dev_split or "dev"


@dataclass(frozen=True, kw_only=True)
class Model:
    group = "model"

    model: str | None = None
    """Folder or Hub name to start from, or embedded:cosent-zh-mini, a small Chinese encoder that comes along; without
    it a small BERT is trained from scratch."""
    vocabulary: Annotated[str | None, Setting(part_of=("model=None",))] = None
    """Tokenizer (folder or Hub name) of the model from scratch; default is one learnt from the training texts."""
    trust_remote_code: bool = False
    """Run Python code that --model or --vocabulary brings along. Read it first: it may do whatever you may."""
    hidden_size: Annotated[int, Setting(least=1, part_of=("model=None",))] = 256
    """Of the model from scratch."""
    num_layers: Annotated[int, Setting(least=1, part_of=("model=None",))] = 4
    """Of the model from scratch."""
    vocab_size: Annotated[int, Setting(least=1, part_of=("model=None",))] = 8000
    """Of the tokenizer learnt from the training texts."""
    weights_dtype: Annotated[Literal["float32", "bfloat16", "auto"], Setting(part_of=("model",))] = "float32"
    """In which the weights of --model learn, whatever they are stored in; auto takes what they are stored in. bfloat16
    loses steps that are small beside a weight, unless the optimizer makes up for it (rounding=kahan)."""
    max_length: Annotated[int, POSITIVE] = 64
    """Tokens per text; longer texts are cut."""
    dropout: Annotated[float | None, Setting(least=0, most=1)] = None
    """Of all dropout layers; default is what the model has, and 0.1 from scratch."""
    lora_r: Annotated[int, Setting(least=0, off=0)] = 0
    """Rank of LoRA adapters; 0 trains all weights. The rows of added tokens, as speaker tags, learn beside them."""

    @property
    def model_folder(self) -> str | None:
        """--model as `from_pretrained` takes it."""
        return self.model and model_folder(self.model)


@dataclass(frozen=True, kw_only=True)
class Steps:
    group = "training"

    epochs: Annotated[float, Setting(above=0, part_of=("max_steps=None",))] = 1
    """Passes over the training data."""
    max_steps: Annotated[int | None, POSITIVE] = None
    """Optimizer steps, in place of --epochs."""
    micro_batches: Annotated[int, POSITIVE] = 1
    """Parts in which each process computes its share of a step; the gradient stays that of the whole step."""
    optimizer: str = "adamw"
    """adamw, lazy_adamw (embeddings of words that do not occur in a step stay as they are), adafactor, adax, adaxw,
    lion, tiger, accumulated_sgd or accumulated_adamw."""
    optimizer_options: tuple[str, ...] = ()
    """Arguments of the optimizer's class: betas=(0.95,0.98) rounding=kahan momentum_dtype=bfloat16. With
    accumulation_steps=4 (tiger, accumulated_sgd, accumulated_adamw; equal to --micro-batches, and --max-grad-norm None)
    the optimizer takes one micro-batch at a time, and so does the loss."""
    lr: Annotated[float, Setting(above=0)] = 2e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Setting(least=0)] = 0.01
    """On matrices; not on norms and biases."""
    schedule: str = "linear"
    """constant, linear, cosine, wsd or inverse_sqrt."""
    warmup: Annotated[float, Setting(least=0, most=1)] = 0.1
    """Share of the steps in which the rate rises."""
    max_grad_norm: Annotated[float | None, Setting(above=0)] = 1.0
    """Gradients are clipped to this norm; None leaves them."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    compile: bool = False
    """torch.compile the encoder."""
    cpu_threads: Annotated[int, Setting(least=0, resume=True, shown=False)] = 0
    """Threads per process on the CPU; 0 takes OMP_NUM_THREADS where it is set, else shares the cores out (a 1 under
    accelerate launch or torchrun is theirs, and no choice)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    seed: Annotated[int, COUNT] = 0
    """Of weights, dropout and the order of the data."""
    evaluate_every: Annotated[int | None, POSITIVE] = None
    """Optimizer steps between evaluations; default is one epoch, or a tenth of the steps of a --stream."""
    save_every: Annotated[int | None, Setting(least=1, resume=True)] = None
    """Optimizer steps between checkpoints beside those of the evaluations; default is none."""
    patience: Annotated[int | None, POSITIVE] = None
    """Stop after this many evaluations without a gain."""


@dataclass(frozen=True, kw_only=True)
class Output:
    group = "output"

    from_run: Annotated[str | None, Setting(resume=True, shown=False)] = None
    """In place of RECIPE: the run.json of a run to repeat, with its flags, seed and threads. Its data are compared; the
    output goes beside it, into NAME-again. Flags behind it change what they say."""
    preflight: Annotated[bool, Setting(resume=True, shown=False)] = False
    """Print what is known before the first step: rows, labels, texts that are cut, [UNK], memory, disk, push rights.
    What is bad of it is said in any case."""
    preflight_only: Annotated[bool, Setting(resume=True, shown=False)] = False
    """Print that and stop."""
    output_dir: Annotated[str, Setting(resume=True, shown=False)] = "out/run"
    """Where the model, the metrics and the checkpoints go."""
    overwrite: Annotated[bool, Setting(resume=True, shown=False)] = False
    """Replace the run in the output folder, which is deleted when the new one has a checkpoint."""
    resume: Annotated[bool, Setting(resume=True, shown=False)] = False
    """Continue the run in the output folder from its newest checkpoint, with the flags and data it began with."""
    # read by `recipes/__init__.py`, before the libraries that are told so are loaded
    quiet: Annotated[bool, Setting(resume=True, shown=False, alias="-q")] = False
    """No progress bars and no notes; warnings, errors and results stay."""
    push_to: Annotated[str | None, Setting(resume=True, shown=False)] = None
    """Hub repository (owner/name) to push the verified model to."""
    license: Annotated[str | None, Setting(resume=True, shown=False)] = None
    """Licence of the weights for the model card, as apache-2.0 or mit; default leaves it undeclared."""
    language: Annotated[tuple[str, ...], Setting(resume=True, shown=False)] = ()
    """Languages for the model card, as zh en; default is what the scripts and words of the data say."""
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb", "mlflow", "trackio", "all"], Setting(resume=True, shown=False)
    ] = "none"
    """Accelerate tracker that gets the curves; metrics.jsonl and curves.png are always written."""


@dataclass(frozen=True, kw_only=True)
class Training(Output, Steps, Model, Data):
    """What all scripts share."""

    @property
    def loop_options(self) -> dict[str, Any]:
        """The fields that `fit` takes under the same names."""
        names = ("max_grad_norm", "evaluate_every", "save_every", "patience", "resume")
        return {name: getattr(self, name) for name in names}

    @property
    def adapter_only(self) -> bool:
        """Whether the LoRA adapter is saved alone."""
        return False

    @property
    def cited(self) -> list[str]:
        """The losses among the flags, by the names that `suzoo.losses.citations.cite` knows."""
        return []

    def limits(self, texts: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, int, int]]:
        """(text, its tokens, how many are kept) of a row, without special tokens: of each text, or of all together."""
        return [(text, length, self.max_length - 2) for text, length in zip(texts, lengths, strict=True)]

    def check(self) -> None:
        """Refuse flags that contradict each other, before anything is read or written."""
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(
                f"--data-weights takes one number per source: {len(self.data_weights)} for {len(self.data)} of --data"
            )
        for weight in self.data_weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"--data-weights must be positive and finite, not {weight:g}")
        if 0 < self.max_length < 3:
            raise ValueError(f"--max-length must be 3 or more, not {self.max_length}: a token between [CLS] and [SEP]")


@dataclass(frozen=True, kw_only=True)
class SentenceEncoding(Training):
    """What the scripts that train a sentence encoder share."""

    group = "model"

    encoder: Annotated[Literal["bert", "modernbert", "gru", "bigru"], Setting(part_of=("model=None",))] = "bert"
    """Of the model from scratch. modernbert has RoPE, and a window; gru (kexue.fm/archives/5743) and bigru, which reads
    from both ends, are for small devices."""
    window: Annotated[int | None, Setting(least=1, part_of=("encoder=modernbert",))] = None
    """Of modernbert from scratch: a token sees others at a distance under this (kexue.fm/archives/9431)."""
    pooling: Literal["cls", "mean", "last", "first-last-avg"] | None = None
    """Which states make the vector. Default: what the model's folder says; from scratch cls, or last for gru and mean
    for bigru."""

    def check(self) -> None:
        super().check()
        if self.window and (self.model or self.encoder != "modernbert"):
            raise ValueError(
                "--window needs --encoder modernbert and no --model: of the stock encoders, which every library opens "
                "as they are, only ModernBERT has one, and a trained model keeps its own"
            )
        if self.encoder in ("gru", "bigru") and (self.lora_r or self.gradient_checkpointing):
            raise ValueError(f"--encoder {self.encoder} has no linear layers for --lora-r, and no checkpoints of them")


@dataclass(frozen=True, kw_only=True)
class ExampleTraining(Training):
    """Steps of a fixed number of random examples, as losses that compare the examples of a batch need."""

    group = "training"

    batch_size: Annotated[int, POSITIVE] = 32
    """Examples per optimizer step, over all processes."""
    lora_save: Annotated[Literal["merged", "adapter"], Setting(part_of=("lora_r",))] = "merged"
    """Save the adapters merged into the weights, or alone."""

    def check(self) -> None:
        super().check()
        if self.adapter_only and (self.model is None or self.push_to):
            raise ValueError("--lora-save adapter needs a --model, and can't be pushed: use --lora-save merged")

    @property
    def adapter_only(self) -> bool:
        return self.lora_r > 0 and self.lora_save == "adapter"

    @property
    def batch_options(self) -> dict[str, Any]:
        """The fields that `RandomBatches` takes."""
        return {"batch_size": self.batch_size, "seed": self.seed, "num_micro_batches": self.micro_batches}


@dataclass(frozen=True, kw_only=True)
class PairTraining(ExampleTraining):
    """What the scripts on pairs of texts share."""

    group = "loss"

    data: tuple[str, ...] = ("embedded:pairs_zh",)
    """Training data: embedded:<name>, a file or folder (jsonl, csv, tsv, parquet, .gz), or a Hub dataset."""
    ranked: str | None = None
    """Query data (query, positive, negative) to report MRR@10, NDCG@10 and recall on at the end."""
    ranked_split: Annotated[str | None, Setting(part_of=("ranked",))] = None
    """Split of --ranked."""
    prompt: str | None = None
    """Name of a prompt of --model that every text (cross-encoder: the first of a pair) begins with, in training and by
    default in the saved model; '' for none. Default: the model's own default prompt."""
