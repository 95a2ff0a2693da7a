"""Golden tensors: fixed inputs and what the trained model answers to them, kept beside the weights.

`golden.safetensors` holds the answers and, in its metadata under "golden", a JSON object: `kind`, `doors`, `inputs`,
and the settings a reader without suzoo needs. `doors` are the ways of opening the folder that are promised, by their
names in `suzoo.hub.verify.WAYS`. The tensors of each kind, N inputs, V tokens in the vocabulary:

    sentence-embedding   output, and output.<name> for every prompt
    cross-encoder        output
    causal-lm            logits (N, V) behind each prompt; generated (N, T) token ids, -1 behind the end
    seq2seq-lm           the same, logits where the target's end is predicted; source_logits as of a BertForMaskedLM
    masked-lm            logits (N, V) in the middle of each text; fill_mask (M, 5) probabilities; score (N,) of T-TA

A new kind of model is a row of `tasks.TASKS`.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from accelerate.utils import extract_model_from_parallel
from safetensors.numpy import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suzoo.hub.tasks import task_named, task_of
from suzoo.hub.verify import GOLDEN_FILE, Door, check_door, read_promise
from suzoo.models._file_modes import share_weights


def save_golden(folder: str | Path, outputs: dict[str, np.ndarray], promise: dict) -> Path:
    """Write `golden.safetensors`: tensors `outputs` (float32, token ids int64), and `promise` as JSON."""
    path = Path(folder) / GOLDEN_FILE
    outputs = {
        name: np.ascontiguousarray(array, np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        for name, array in outputs.items()
    }
    bad = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"the model answers NaN or infinity ({', '.join(bad)}); there is nothing worth saving")
    save_file(outputs, str(path), metadata={"golden": json.dumps(promise, ensure_ascii=False)})
    share_weights(folder, GOLDEN_FILE)
    return path


def write_golden(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Write the golden tensors of a trained model into the folder it was saved to.

    The outputs come from the model in memory, so a folder that was saved wrongly does not verify. They are computed by
    a float32 copy on the CPU: weights of lower precision are exact in it, and every door can repeat it.

    Args:
        model: the trained model; neither its mode, device nor dtype is changed. One of suzoo's, or a stock
            `...ForSequenceClassification`, `...ForMaskedLM` or causal language model.
        tokenizer: the one that was saved to `folder`. Its chat template, where it has one, makes the prompts chats.
        folder: where `model.save_pretrained` wrote.

    Raises:
        ValueError: another kind of model, or a model that answers NaN.
    """
    answer = task_of(model).ask
    # without Accelerate's autocast around `forward`
    reference = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False).float().cpu().eval()
    outputs, promise = answer(reference, tokenizer, Path(folder))
    return save_golden(folder, outputs, promise)


def check_with_suzoo(folder: str | Path) -> Door:
    """The door that `verify` cannot open: suzoo's own class, in this process. It runs no code of the folder.

    Raises:
        ValueError: the folder has no readable golden file.
    """
    task = task_named(read_promise(folder))
    return check_door(task.door, task.way, folder)


def check_all_with_suzoo(folder: str | Path, resaves: Sequence[str]) -> list[Door]:
    """The same for the folder, and for what other libraries saved of it again, in folders named after them."""
    again = [replace(door := check_with_suzoo(path), name=f"{door.name}, {Path(path).name}") for path in resaves]
    return [check_with_suzoo(folder), *again]


if __name__ == "__main__":  # the fresh process: RESAVES... --child RESULTS FOLDER
    *saved, _, results, good = sys.argv[1:]
    lines = [json.dumps(asdict(door)) for door in check_all_with_suzoo(good, saved)]
    Path(results).write_text("\n".join(lines), encoding="utf-8")
