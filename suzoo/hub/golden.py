"""Golden tensors: fixed inputs and what the trained model answers to them, kept beside the weights.

`golden.safetensors` holds one tensor per check ("output", and "output.<name>" for every prompt of an encoder) and, in
its metadata under "golden", a JSON object: `kind`, `doors` (the ways of opening the folder that are promised, names as
in `suzoo.hub.verify.DOORS`), `inputs`, and the settings a reader without suzoo needs (`pooling`, `normalize`,
`max_length`, `prompts`). A new kind of model adds its inputs and doors here and its ways of opening to `verify.py`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from suzoo.hub.verify import GOLDEN_FILE, Door, check_door, format_table, passed, read_promise, verify
from suzoo.models import CoSENTCrossEncoder, CoSENTModel

# Two scripts, an empty and a one-character text, punctuation alone, digits, an emoji, and a text that most models cut.
TEXTS = [
    "今天天气真好，我们去公园散步吧。",
    "北京是中国的首都",
    "A man is playing a guitar on the stage.",
    "The weather in Beijing is fine today",
    "",
    "好",
    "?!，。……",
    "第3名得到 1,024.50 元 🎉",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 30 + "This is how the very long text ends. " * 12,
]
PAIRS = [
    [TEXTS[0], TEXTS[3]],
    [TEXTS[1], "上海是中国的首都"],
    [TEXTS[2], "Somebody performs music."],
    ["", TEXTS[5]],  # not the other way round: transformers' pipeline drops an empty second text
    [TEXTS[6], TEXTS[7]],
    [TEXTS[8], TEXTS[0]],
    [TEXTS[0], TEXTS[8]],
]
ENCODER_DOORS = ["SentenceTransformer", "AutoModel", "AutoModel, trust_remote_code"]
CROSS_ENCODER_DOORS = [
    "CrossEncoder",
    "AutoModelForSequenceClassification",
    "text-classification pipeline",
    "AutoModelForSequenceClassification, trust_remote_code",
]


def save_golden(folder: str | Path, outputs: dict[str, np.ndarray], promise: dict) -> Path:
    """Write `golden.safetensors`: tensors `outputs`, and `promise` (kind, doors, inputs, settings) as JSON."""
    path = Path(folder) / GOLDEN_FILE
    outputs = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in outputs.items()}
    bad = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"the model answers NaN or infinity ({', '.join(bad)}); there is nothing worth saving")
    save_file(outputs, str(path), metadata={"golden": json.dumps(promise, ensure_ascii=False)})
    return path


def write_golden(model: CoSENTModel | CoSENTCrossEncoder, tokenizer, folder: str | Path) -> Path:
    """Write the golden tensors of a trained model into the folder it was saved to.

    The outputs come from the model in memory, so a folder that was saved wrongly does not verify. They are computed by
    a float32 copy on the CPU: weights of lower precision are exact in it, and every door can repeat it.

    Args:
        model: the trained model; neither its mode, device nor dtype is changed.
        tokenizer: the one that was saved to `folder`.
        folder: where `model.save_pretrained` wrote.

    Raises:
        ValueError: another kind of model, or a model that answers NaN.
    """
    if not isinstance(model, CoSENTModel | CoSENTCrossEncoder):
        raise ValueError(f"no golden tensors are defined for {type(model).__name__}")
    reference = copy.deepcopy(model).float().cpu().eval()
    max_length = reference._max_length(tokenizer, None)
    if isinstance(reference, CoSENTModel):
        # some tokenizers give an empty text no token at all, and then no two libraries agree on its vector
        texts = [text for text in TEXTS if tokenizer(text[:8])["input_ids"]]
        outputs = {"output": reference.encode(texts, tokenizer=tokenizer, prompt="")}
        for name in reference.prompts:
            outputs[f"output.{name}"] = reference.encode(texts, tokenizer=tokenizer, prompt_name=name)
        promise = {
            "kind": "sentence-embedding",
            "doors": ENCODER_DOORS[2:] if reference.pooling == "first-last-avg" else ENCODER_DOORS,
            "inputs": texts,
            "pooling": reference.pooling,
            "normalize": reference.normalize,
            "max_length": max_length,
            "prompts": reference.prompts,
        }
    else:
        outputs = {"output": reference.predict([(a, b) for a, b in PAIRS], tokenizer=tokenizer)}
        promise = {
            "kind": "cross-encoder",
            "doors": CROSS_ENCODER_DOORS,
            "inputs": PAIRS,
            "max_length": max_length,
        }
    return save_golden(folder, outputs, promise)


def _open_encoder(folder: str, promise: dict) -> dict:
    import torch

    model = CoSENTModel.from_pretrained(folder, dtype=torch.float32)
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    return outputs | {
        f"output.{name}": model.encode(promise["inputs"], prompt_name=name) for name in promise["prompts"]
    }


def _open_cross_encoder(folder: str, promise: dict) -> dict:
    import torch

    model = CoSENTCrossEncoder.from_pretrained(folder, dtype=torch.float32)
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]])}


SUZOO_DOORS: dict[str, tuple[str, Callable[[str, dict], dict]]] = {
    "sentence-embedding": ("CoSENTModel (suzoo)", _open_encoder),
    "cross-encoder": ("CoSENTCrossEncoder (suzoo)", _open_cross_encoder),
}


def check_folder(folder: str | Path, report: Callable[[str], None] = print) -> list[Door]:
    """Every door of a saved model: those of `verify` in a process without suzoo, and suzoo's own in this one.

    Args:
        report: called with the table of doors.

    Raises:
        ValueError: a door does not give the golden outputs, or the folder has no readable golden file.
    """
    doors = [*verify(folder), check_with_suzoo(folder)]
    report(format_table(doors))
    if not passed(doors):
        failed = ", ".join(door.name for door in doors if door.status == "failed") or "nothing could be checked"
        raise ValueError(f"{folder} does not verify: {failed}")
    return doors


def check_with_suzoo(folder: str | Path) -> Door:
    """The door that `verify` cannot open: suzoo's own class, in this process.

    Raises:
        ValueError: the folder has no readable golden file.
    """
    name, open_door = SUZOO_DOORS[read_promise(folder)["kind"]]
    return check_door(name, open_door, folder)
