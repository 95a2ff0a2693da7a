"""The fields that every training script shares; each is a command-line flag with this text as its help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env, set_seed
from huggingface_hub.utils import validate_repo_id
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from suzoo.data import added_ids, num_ids, train_wordpiece
from suzoo.engine import RunFolder
from suzoo.models._stock_encoder import POSITIONS_BEHIND_PADDING, load_tokenizer
from suzoo.optimizers import (
    AccumulatedAdamW,
    AccumulatedSGD,
    AdaFactor,
    AdaX,
    AdaXW,
    Lion,
    Tiger,
    get_schedule,
    param_groups,
)

logger = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "lazy_adamw": functools.partial(AccumulatedAdamW, lazy=True),
    "adafactor": AdaFactor,
    "adax": AdaX,
    "adaxw": AdaXW,
    "lion": Lion,
    "tiger": Tiger,
    "accumulated_sgd": AccumulatedSGD,
    "accumulated_adamw": AccumulatedAdamW,
}

# numbers of all recipes whose range nothing else would check, or only after the training
POSITIVE = {
    "hidden_size", "num_layers", "max_length", "epochs", "micro_batches", "batch_size", "micro_batch_tokens", "lr",
    "max_grad_norm", "evaluate_every", "patience", "max_target_length", "max_new_tokens", "num_beams",
}  # fmt: skip
NOT_NEGATIVE = {"cpu_threads", "lora_r", "chunk_size", "max_scored", "rdrop", "fgm"}
SHARES = {"warmup", "dropout", "label_smoothing", "mask_probability"}


@dataclass(frozen=True, kw_only=True)
class Training:
    output_dir: str = "out/run"
    """Where the model, the metrics and the checkpoints go."""
    overwrite: bool = False
    """Replace the run in the output folder, which is deleted when the new one has a checkpoint."""
    resume: bool = False
    """Continue the run in the output folder from its newest checkpoint, with the flags and data it began with."""
    push_to: str | None = None
    """Hub repository (owner/name) to push the verified model to."""
    seed: int = 0
    """Of weights, dropout and the order of the data."""

    data: str
    """Training data: embedded:<name>, a file or folder (jsonl, csv, tsv, parquet, .gz), or a Hub dataset."""
    split: str | None = None
    """Split of --data, where it has several."""
    dev: str | None = None
    """Data to choose the best weights by; default is the dev split of --data."""
    dev_split: str | None = None
    """Split of --dev."""
    columns: tuple[str, ...] = ()
    """Column names of the data, as in text1=sentence1 text2=sentence2 score=label."""
    skip_bad_rows: bool = False
    """Count and leave out rows that can't be read, instead of stopping at the first."""
    max_train_samples: int | None = None
    """Use only this many training rows, from the start."""
    max_dev_samples: int | None = None
    """Use only this many dev rows, from the start."""

    model: str | None = None
    """Folder or Hub name to start from; without it a small BERT is trained from scratch."""
    vocabulary: str | None = None
    """Tokenizer (folder or Hub name) of the model from scratch; default is one learnt from the training texts."""
    trust_remote_code: bool = False
    """Run Python code that --model or --vocabulary brings along. Read it first: it may do whatever you may."""
    hidden_size: int = 256
    """Of the model from scratch."""
    num_layers: int = 4
    """Of the model from scratch."""
    vocab_size: int = 8000
    """Of the tokenizer learnt from the training texts."""
    max_length: int = 64
    """Tokens per text; longer texts are cut."""
    dropout: float | None = None
    """Of all dropout layers; default is what the model has, and 0.1 from scratch."""

    epochs: float = 1
    """Passes over the training data."""
    micro_batches: int = 1
    """Parts in which each process computes its share of a step; the gradient stays that of the whole step."""
    optimizer: str = "adamw"
    """adamw, lazy_adamw (rows without gradient stay, as those of words that a step lacks), adafactor, adax, adaxw,
    lion, tiger, accumulated_sgd or accumulated_adamw."""
    optimizer_options: tuple[str, ...] = ()
    """Arguments of the optimizer's class: betas=(0.95,0.98) rounding=kahan momentum_dtype=bfloat16. With
    accumulation_steps=4 (tiger, accumulated_sgd, accumulated_adamw; equal to --micro-batches, and --max-grad-norm None)
    the optimizer takes one micro-batch at a time, and so does the loss."""
    lr: float = 2e-5
    """Peak learning rate."""
    weight_decay: float = 0.01
    """On matrices; not on norms and biases."""
    schedule: str = "linear"
    """constant, linear, cosine, wsd or inverse_sqrt."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises."""
    max_grad_norm: float | None = 1.0
    """Gradients are clipped to this norm; None leaves them."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    compile: bool = False
    """torch.compile the encoder."""
    cpu_threads: int = 0
    """Threads per process on the CPU; 0 shares the cores out (accelerate launch alone would give 1)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    lora_r: int = 0
    """Rank of LoRA adapters; 0 trains all weights. The rows of added tokens, as speaker tags, learn beside them."""

    evaluate_every: int | None = None
    """Optimizer steps between evaluations; default is one epoch."""
    patience: int | None = None
    """Stop after this many evaluations without a gain."""
    tracker: Literal["none", "tensorboard", "wandb", "mlflow", "trackio", "all"] = "none"
    """Accelerate tracker that gets the curves; metrics.jsonl and curves.png are always written."""

    def start(self) -> tuple[Accelerator, RunFolder]:
        """Processes, precision, trackers, seed, and the checked output folder."""
        self.check_numbers()
        self.check_files()
        tracker = None if self.tracker == "none" else self.tracker
        if tracker not in (None, "all", *map(str, get_available_trackers())):
            raise ValueError(f"--tracker {tracker} is not installed here: pip install {tracker}")
        if self.push_to:
            validate_repo_id(self.push_to)
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find each other
            mixed_precision=self.precision,
            log_with=tracker,
            project_dir=self.output_dir,
        )
        if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            # Accelerate knows FSDP on accelerators only; torch shards over CPU processes as well
            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        if self.precision == "fp16" and accelerator.device.type == "cpu":
            raise ValueError("--precision fp16 needs an accelerator: on a CPU use bf16")
        main_process = accelerator.is_main_process
        run = RunFolder(self.output_dir, overwrite=self.overwrite, resume=self.resume, main=main_process)
        if accelerator.device.type == "cpu":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(self.cpu_threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        set_seed(self.seed)
        logger.info(
            "%s, %d process(es) on %s, precision %s",
            accelerator.distributed_type.value,
            accelerator.num_processes,
            accelerator.device.type,
            self.precision,
        )
        return accelerator, run

    @property
    def dev_data(self) -> tuple[str, str | None]:
        """Source and split of the dev data."""
        if not self.dev and os.path.isfile(self.data):
            raise ValueError(f"--data {self.data} is one file: give the file of the dev data with --dev")
        return (self.dev, self.dev_split) if self.dev else (self.data, self.dev_split or "dev")

    def check_numbers(self) -> None:
        """Refuse what is out of range or no number at all, before anything is read or written."""
        if 0 < self.max_length < 3:
            raise ValueError(f"--max-length must be 3 or more, not {self.max_length}: a token between [CLS] and [SEP]")
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if not isinstance(value, int | float):
                continue
            for names, holds, demand in (
                (POSITIVE, value > 0, "above 0"),
                (NOT_NEGATIVE, value >= 0, "0 or more"),
                (SHARES, 0 <= value <= 1, "from 0 to 1"),
                ({name}, math.isfinite(value), "finite"),
            ):
                if name in names and not holds:
                    raise ValueError(f"--{name.replace('_', '-')} must be {demand}, not {value}")

    def check_files(self) -> None:
        """Refuse a --model that is not there or damaged, and an --overwrite that would delete what the run reads."""
        for name in ("model", "vocabulary"):
            path = getattr(self, name)
            if path and (path.count("/") > 1 or path[0] in "/.~") and not os.path.isdir(path):
                raise ValueError(f"there is no folder {path}, which --{name} names")
        for path in Path(self.model).glob("*.safetensors") if self.model else ():
            try:
                safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path} is no whole weights file ({error}): save or download it again") from error
        emptied = Path(self.output_dir).resolve()
        for name in ("model", "vocabulary", "data", "dev", "ranked", "also", "also_dev", "typos"):
            path = getattr(self, name, None)
            if self.overwrite and path and os.path.exists(path) and Path(path).resolve().is_relative_to(emptied):
                raise ValueError(f"--overwrite would delete {path}, which --{name} names: choose another --output-dir")

    def check_fit(self, model: Any, tokenizer: Any) -> None:
        """Refuse texts longer than the model has absolute positions for, and tokens that it has no embedding for."""
        num_rows = len(model.get_input_embeddings().weight)
        if num_ids(tokenizer) > num_rows:
            raise ValueError(
                f"the tokenizer of {self.model} has ids up to {num_ids(tokenizer) - 1} and the model {num_rows} rows: "
                "they do not belong together, or the model was cut without it (`suzoo slim-vocab` cuts both)"
            )
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions and model.config.model_type in POSITIONS_BEHIND_PADDING:
            positions -= model.config.pad_token_id + 1
        absolute = getattr(model.config, "position_embedding_type", "absolute") == "absolute"
        if absolute and positions and positions > 0 and self.max_length > positions:
            raise ValueError(f"--max-length {self.max_length}, but {self.model} has positions for {positions} tokens")

    def set_dropout(self, model: nn.Module) -> None:
        """Put --dropout into every dropout layer of the model."""
        for layer in model.modules():
            if isinstance(layer, nn.Dropout) and self.dropout is not None:
                layer.p = self.dropout

    def adapt(self, encoder: Any, tokenizer: Any, head: nn.Module | None = None) -> PreTrainedModel | PeftModel:
        """LoRA, gradient checkpointing and torch.compile, as the flags say.

        Args:
            tokenizer: with LoRA, the rows of tokens that were added behind its table learn, too.
            head: the model's output embeddings, which may share the weight of the encoder's input embeddings.
        """
        if self.gradient_checkpointing:
            encoder.gradient_checkpointing_enable()
        if self.lora_r:
            embeddings: Any = encoder.get_input_embeddings()
            rows = [row for row in added_ids(tokenizer) if row < len(embeddings.weight)]
            name = next(name for name, module in encoder.named_modules() if module is embeddings)
            lora = LoraConfig(
                r=self.lora_r,
                lora_alpha=2 * self.lora_r,
                target_modules="all-linear",
                # GPT-2's layers keep their weights transposed
                fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in encoder.modules()),
                trainable_token_indices={name: rows} if rows else None,
            )
            encoder = get_peft_model(encoder, lora)
            if rows and head is not None and head.weight is embeddings.weight:
                head.register_forward_hook(TiedRows(encoder.get_input_embeddings()))
        if self.compile:
            encoder.compile(dynamic=True)
        return encoder

    def choose_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of --optimizer and --optimizer-options over the weights of `module`."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"--optimizer {self.optimizer} is none of {', '.join(OPTIMIZERS)}")
        optimizer = OPTIMIZERS[self.optimizer]
        allowed = set(inspect.signature(optimizer).parameters) - {"params", "lr", "weight_decay"}
        options = {}
        for text in self.optimizer_options:
            name, equals, value = text.partition("=")
            if not equals or name not in allowed:
                raise ValueError(
                    f"--optimizer-options {text}: {self.optimizer} takes name=value with a name of "
                    f"{', '.join(sorted(allowed))}; lr and weight decay are flags of their own"
                )
            options[name] = _value(value)
        groups = param_groups(module, weight_decay=self.weight_decay)
        try:
            return optimizer(groups, lr=self.lr, **options)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            given = " ".join([f"--optimizer {self.optimizer} --lr {self.lr}", *self.optimizer_options])
            raise ValueError(f"{given}: {error}") from error

    def choose_schedule(self, optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
        """--schedule and --warmup over that many updates."""
        return get_schedule(self.schedule, optimizer, num_steps=num_steps, warmup=self.warmup)

    @property
    def loop_options(self) -> dict[str, Any]:
        """The fields that `fit` takes under the same names."""
        names = ("max_grad_norm", "evaluate_every", "patience", "resume")
        return {name: getattr(self, name) for name in names}

    def load_tokenizer(self, texts: Iterable[str], *, needs: Sequence[str] = ()) -> Any:
        """The tokenizer of --model or --vocabulary, or a WordPiece one learnt from the texts.

        Args:
            needs: special tokens the script can't do without: cls, sep, mask, pad.
        """
        source = self.model or self.vocabulary
        if source:
            tokenizer = load_tokenizer(source, trust_remote_code=self.trust_remote_code)
        else:
            tokenizer = train_wordpiece(texts, vocab_size=self.vocab_size)
        missing = [f"[{name.upper()}]" for name in needs if getattr(tokenizer, f"{name}_token") is None]
        if missing:
            raise ValueError(f"the tokenizer of {source} has no {' and no '.join(missing)}, which this model needs")
        return tokenizer

    def sizes(self, tokenizer) -> dict[str, Any]:
        """The fields of the small model from scratch, by BERT's names."""
        if self.hidden_size % 32:
            raise ValueError(f"--hidden-size {self.hidden_size} is not a multiple of 32, the size of an attention head")
        return {
            "vocab_size": num_ids(tokenizer),
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.hidden_size // 32,
            "intermediate_size": 4 * self.hidden_size,
            "max_position_embeddings": max(64, 2 * self.max_length),
            "pad_token_id": tokenizer.pad_token_id,
        }


@dataclass(frozen=True, kw_only=True)
class ExampleTraining(Training):
    """Steps of a fixed number of random examples, as losses that compare the examples of a batch need."""

    batch_size: int = 32
    """Examples per optimizer step, over all processes."""
    lora_save: Literal["merged", "adapter"] = "merged"
    """Save the adapters merged into the weights, or alone."""

    def start(self) -> tuple[Accelerator, RunFolder]:
        if self.adapter_only and (self.model is None or self.push_to):
            raise ValueError("--lora-save adapter needs a --model, and can't be pushed: use --lora-save merged")
        return super().start()

    def adapt(self, encoder: Any, tokenizer: Any, head: nn.Module | None = None) -> PreTrainedModel | PeftModel:
        if self.compile:
            encoder.set_attn_implementation("sdpa")  # padded groups: a ragged layout would recompile in every step
        return super().adapt(encoder, tokenizer, head)

    @property
    def adapter_only(self) -> bool:
        return self.lora_r > 0 and self.lora_save == "adapter"

    @property
    def batch_options(self) -> dict[str, int]:
        """The fields that `RandomBatches` takes."""
        return {"batch_size": self.batch_size, "seed": self.seed, "num_micro_batches": self.micro_batches}


@dataclass(frozen=True, kw_only=True)
class PairTraining(ExampleTraining):
    """What the scripts on pairs of texts share."""

    data: str = "embedded:pairs_zh"
    """Training data: embedded:<name>, a file or folder (jsonl, csv, tsv, parquet, .gz), or a Hub dataset."""
    ranked: str | None = None
    """Query data (query, positive, negative) to report MRR@10, NDCG@10 and recall on at the end."""
    ranked_split: str | None = None
    """Split of --ranked."""


class TiedRows:
    """Hook of a head that shares its weight with the embeddings: the rows that LoRA's `trainable_token_indices` trains
    there count here, too. peft ties such heads itself, but drops their bias, which BERT's has.

    Args:
        embeddings: what peft made of the input embeddings.
    """

    def __init__(self, embeddings: Any) -> None:
        self.adapter = embeddings.token_adapter

    def __call__(self, head: Any, inputs: tuple[Tensor], logits: Tensor) -> Tensor | None:
        if self.adapter.merged:  # the shared weight has the rows
            return None
        ids = torch.tensor(self.adapter.token_indices["default"], device=logits.device)
        weight = self.adapter.trainable_tokens_delta["default"]
        bias = None if head.bias is None else head.bias[ids]
        new = nn.functional.linear(inputs[0].to(weight.dtype), weight, bias)
        return logits.index_copy(-1, ids, new.to(logits.dtype))


def _value(text: str) -> Any:
    """What the text of an option stands for: a Python literal, a number type of torch, or the word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        named = getattr(torch, text.removeprefix("torch."), None)
        return named if isinstance(named, torch.dtype) else text


Recipe = TypeVar("Recipe", bound=Training)


def parse(recipes: Mapping[str, Callable[[], Recipe]], description: str) -> Recipe:
    """The recipe the command line names, with its flags applied."""
    choices = {name: (inspect.getdoc(function) or "", function()) for name, function in recipes.items()}
    return tyro.extras.overridable_config_cli(choices, description=description)
