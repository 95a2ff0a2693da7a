"""The frame of every training script: begin, read, prepare, finish. What differs between scripts stands in the scripts.

accelerator, run = begin(recipe)                      processes, output folder, seed
train, dev, provenance = read(recipe, read_pairs)     rows, and where they came from
whole = unsharded_copy(accelerator, model)            what will be saved
module, optimizer, schedule, num_steps = prepare(...)
fit(step, ...)                                        suzoo.engine
finish(...)                                           unshard, merge, save, record, verify, push
"""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.base import Training
from recipes.choices import choose_optimizer
from recipes.names import check_names
from recipes.settings import changeable, check_ranges, shown

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
    set_seed,
)
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from suzoo.data import describe, log_duplicates, save_tokenizer
from suzoo.distributed import rank, together
from suzoo.engine import Mixture, RunFolder, end_training, full_state_dict, versions
from suzoo.hub.publish import publish
from suzoo.hub.tasks import task_of
from suzoo.losses.citations import cite
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.models._dropout import replace_dropout
from suzoo.models._file_modes import share_weights
from suzoo.optimizers import get_schedule

logger = logging.getLogger(__name__)


def begin(recipe: Training) -> tuple[Accelerator, RunFolder]:
    """Processes, precision, trackers, seed, and the checked output folder."""
    check_ranges(recipe)
    recipe.check()
    check_launch()
    tracker = None if recipe.tracker == "none" else recipe.tracker
    if tracker not in (None, "all", *map(str, get_available_trackers())):
        raise ValueError(f"--tracker {tracker} is not installed here: pip install {tracker}")
    if recipe.push_to:
        validate_repo_id(recipe.push_to)
    # torch 2.13 warns of it, and has nothing yet that leaves the buffers alone from the start
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find each other
        mixed_precision=recipe.precision,
        log_with=tracker,
        project_dir=recipe.output_dir,
        # every rank has the buffers; sent before each pass, they spoil the pass before it (torch before 2.13)
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        # Accelerate knows FSDP on accelerators only; torch shards over CPU processes as well
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "DeepSpeed steps in each backward and keeps weights of its own: train with FSDP2 "
            "(--config_file training/accelerate/fsdp2.yaml), which shares out the same memory"
        )
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("--precision fp16 needs an accelerator: on a CPU use bf16")
    together(lambda: check_files(recipe))
    run = RunFolder(recipe.output_dir, overwrite=recipe.overwrite, resume=recipe.resume)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(recipe.cpu_threads or share_of_cores())
    set_seed(recipe.seed)
    logger.info(
        "%s, %d process(es) on %s, %d thread(s) each, precision %s",
        accelerator.distributed_type.value,
        accelerator.num_processes,
        accelerator.device.type,
        torch.get_num_threads(),
        recipe.precision,
    )
    return accelerator, run


def share_of_cores() -> int:
    """OMP_NUM_THREADS, where somebody chose it; else the cores of this process' share."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    launched = "LOCAL_WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ  # both set 1 unasked
    if chosen.isdecimal() and int(chosen) > 0 and not (launched and chosen == "1"):
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def check_launch() -> None:
    """Refuse a launcher that starts several processes without telling them of each other."""
    # of a step, which srun starts; a batch script has the tasks of its allocation, and runs once
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"srun started {tasks} tasks that know nothing of each other: start one per machine, and in it "
            "`torchrun --nnodes $SLURM_NNODES --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:29500 …`"
        )


def check_files(recipe: Training) -> None:
    """Refuse names of nothing, weights that are damaged, and an --overwrite that would delete what the run reads."""
    check_names(recipe)
    folder = Path(recipe.model_folder or "-")
    for path in folder.glob("*.safetensors"):
        try:
            safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no whole weights file ({error}): save or download it again") from error
    check_pickled(folder)


def check_pickled(folder: Path) -> None:
    """Refuse a folder whose only weights are a .bin that torch does not read as weights."""
    if any(folder.glob("*.safetensors")):
        return
    for path in folder.glob("pytorch_model*.bin"):
        try:
            torch.load(path, map_location="meta", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"torch refuses {path} ({reason[:90]}): it is damaged or holds more than weights; download it again, "
                "or save the model as safetensors"
            ) from error


def read(
    recipe: Training, reader: Callable[..., Any]
) -> tuple[Any, Any, dict[str, dict[str, Any]]]:  # sequences; training rows say what each source gave, see `Rows`
    """Training rows, dev rows, and what run.json says about both.

    Args:
        reader: of `suzoo.data`: (source, split=, columns=, skip_bad_rows=, max_rows=) -> rows.
    """
    train, trained = read_train(recipe, reader)
    dev, compared = read_one(recipe, reader, *recipe.dev_data, recipe.max_dev_samples)
    if not (recipe.preflight or recipe.preflight_only):  # whose table has it
        log_duplicates(train, dev)
    return train, dev, {"train": trained, "dev": compared}


def read_train(recipe: Training, reader: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Rows of --data, and what run.json says about them; with --data-weights also how many each source has."""
    rows, found = read_one(recipe, reader, recipe.data, recipe.split or "train", recipe.max_train_samples)
    if recipe.data_weights:
        found |= {"sizes": list(rows.sizes), "weights": list(recipe.data_weights)}
    return rows, found


def mixture_of(recipe: Training, train: Any, sizes: Sequence[int] | None = None) -> Mixture | None:
    """What --data-weights says, if anything, for rows of `read`.

    Args:
        sizes: examples that were made of each source; default is one of each row.
    """
    if not recipe.data_weights:
        return None
    sizes = train.sizes if sizes is None else sizes
    for source, size in zip(recipe.data, sizes, strict=True):
        if not size:
            raise ValueError(
                f"--data-weights gives {source} a share, and no row of it is read, or none that is new "
                "(--max-train-samples?)"
            )
    return Mixture(sizes, recipe.data_weights)


def read_one(
    recipe: Training,
    reader: Callable[..., Any],
    source: str | Sequence[str],
    split: str | None,
    max_rows: int | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Rows of one source, and what run.json says about them; `columns` default to --columns."""
    columns = recipe.columns if columns is None else columns
    options: dict[str, Any] = {"split": split, "columns": columns, "max_rows": max_rows}
    rows = together(lambda: reader(source, **options, skip_bad_rows=recipe.skip_bad_rows))
    return rows, describe(source, split, rows)


def compare_data(path: str, provenance: dict[str, dict[str, Any]]) -> None:
    """Say which data of a run that is repeated have changed since."""
    run = json.loads(Path(path).read_text(encoding="utf-8"))
    then = run.get("data", {})
    for name, now in provenance.items():
        before = then.get(name)
        if before is None:
            logger.warning("the run in %s had no %s data: the scores of both do not compare", path, name)
        elif before["sha256"] != now["sha256"]:
            text = "the %s data are not those of the run in %s: %d rows now, %d then; other weights will come out"
            logger.warning(text, name, path, now["rows"], before["rows"])
    here = versions()
    for name, old in run.get("versions", {}).items():
        if here.get(name) != old:
            logger.info("%s is %s here, and was %s in the run that is repeated", name, here.get(name), old)


def unsharded_copy(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """What `finish` saves: the model itself, or where it will be sharded a copy that holds no weights yet.

    No process can save or run its shards alone.

    Raises:
        ValueError: a model of no kind that can be checked and described at the end.
    """
    task_of(model)
    if accelerator.distributed_type != DistributedType.FSDP:
        return model
    empty = {
        id(value): nn.Parameter(torch.empty_like(value, device="meta"), value.requires_grad)
        for value in model.parameters()
    }
    return copy.deepcopy(model, empty).eval()


def prepare(
    recipe: Training,
    accelerator: Accelerator,
    run: RunFolder,
    module: nn.Module,
    batches: Any,
    provenance: dict[str, dict[str, Any]],
    wrap: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] = lambda optimizer: optimizer,
) -> tuple[Any, torch.optim.Optimizer, LRScheduler, int]:
    """Module, optimizer, schedule, number of steps; and the run is written down, or compared with how it began.

    Args:
        module: everything with weights to train, as the one module that Accelerate prepares.
        batches: whose `steps_per_epoch` --epochs counts.
        provenance: as `read` returned it.
        wrap: puts another optimizer around that of --optimizer.
    """
    if recipe.from_run:
        compare_data(recipe.from_run, provenance)
    num_steps = recipe.max_steps or max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = wrap(choose_optimizer(recipe, module))
    schedule = get_schedule(recipe.schedule, optimizer, num_steps=num_steps, warmup=recipe.warmup)
    if accelerator.device.type == "cpu":
        replace_dropout(module)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.begin(accelerator, recipe, provenance, changeable=changeable(recipe))
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout
    return module, optimizer, schedule, num_steps


def finish(
    recipe: Training,
    accelerator: Accelerator,
    run: RunFolder,
    model: nn.Module,
    whole: Any,
    tokenizer: Any,
    scores: dict[str, dict[str, float]],
    provenance: dict[str, dict[str, Any]],
    score: Callable[[Any], None] = lambda whole: None,
) -> None:
    """Unshard, merge, save, record, verify, push.

    Args:
        model: the trained model, without what Accelerate put around it.
        whole: `unsharded_copy` of it.
        scores: split -> name -> number.
        score: called with the whole model once it is saved, on the one process that saves; may add to `scores`.
    """
    if whole is not model:
        state = full_state_dict(model, keep=accelerator.is_main_process)  # every process takes part
        if accelerator.is_main_process:
            whole.load_state_dict(state, assign=True)
    end_training(accelerator)
    if not accelerator.is_main_process:
        return
    if recipe.lora_r and not recipe.adapter_only:
        merge_adapters(whole)
    if whole is not model:
        whole.tie_weights()  # behind the adapters, which hide the names of the weights
    whole.save_pretrained(run.path)
    share_weights(run.path)  # a stock class leaves them to their owner
    if not isinstance(whole, CoSENTModel | CoSENTCrossEncoder):  # those have saved it, with the length that they cut at
        save_tokenizer(tokenizer, run.path)
    score(whole)
    run.finish(
        recipe,
        scores,
        script=f"training/train_{type(recipe).__module__.rpartition('.')[2]}.py",
        provenance=provenance,
        settings=shown(recipe),
        citations=cite(*recipe.cited),
    )
    if recipe.adapter_only:
        print(f"saved: {run.path}, an adapter that opens where {recipe.model} is")
    else:
        publish(whole, tokenizer, run.path, recipe.push_to)


def merge_adapters(model: nn.Module) -> None:
    """Add LoRA's products to the weights that they adapt."""
    for name, part in list(model.named_children()):
        if isinstance(part, PeftModel):
            setattr(model, name, part.merge_and_unload())
