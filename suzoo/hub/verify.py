"""Open a saved model through every door it promises, where suzoo cannot be imported, and compare with the golden file.

This file imports nothing of suzoo and runs as it is: `python verify.py FOLDER`. Exit code 0: every door that could be
opened gave the golden numbers. 1: some door did not. 2: the folder cannot be checked at all.

The doors are opened in one fresh process with an empty cache, no network and no stdin, in which importing suzoo raises.
What is promised, the inputs and the expected outputs are in `golden.safetensors` (see `suzoo.hub.golden`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.metadata
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

GOLDEN_FILE = "golden.safetensors"
TOLERANCE = 1e-5
LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_")


@dataclass
class Door:
    """What happened at one door.

    Attributes:
        name: how a user opens it, as promised in the golden file.
        status: "ok", "failed" or "not checked" (a library it needs is not installed or too old).
        difference: largest absolute difference to the golden outputs, None if none could be computed.
        note: what went wrong, or what is needed.
    """

    name: str
    status: str
    difference: float | None = None
    note: str = ""


# ---- what the folder promises


def read_promise(folder: str | Path) -> dict:
    """The JSON header of the golden file: kind, doors, inputs and settings, see `suzoo.hub.golden`.

    Raises:
        ValueError: no such folder, no golden file, or one that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that save_pretrained wrote")
    path = folder / GOLDEN_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {GOLDEN_FILE}, so there is nothing to check; suzoo.hub.golden.write_golden makes it"
        )
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            promise = json.loads(json.loads(file.read(size))["__metadata__"]["golden"])
        unknown = [name for name in promise["doors"] if name not in DOORS]
    except (struct.error, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); write it again") from error
    if unknown:
        raise ValueError(f"{path} promises doors this version does not know: {', '.join(unknown)}; update suzoo")
    if not promise["doors"]:
        raise ValueError(f"{path} promises no door; write it again with suzoo.hub.golden.write_golden")
    return promise


# ---- the doors, opened in the fresh process
# Each takes the folder and the promise and returns {tensor name: array}. Libraries are imported inside.


def _options() -> dict:
    import torch

    return {"dtype": torch.float32}


def _pool(hidden_BLD, mask_BL, promise: dict):
    """The pooling a reader of the model card computes by hand."""
    if promise["pooling"] == "cls":
        pooled_BD = hidden_BLD[:, 0]
    else:
        assert promise["pooling"] == "mean", f"{promise['pooling']} pooling has no door without suzoo's code"
        weights_BL1 = mask_BL[..., None].to(hidden_BLD.dtype)
        pooled_BD = (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)
    if promise["normalize"]:
        pooled_BD = pooled_BD / pooled_BD.norm(dim=-1, keepdim=True)
    return pooled_BD


def _prompted(promise: dict) -> dict[str, str]:
    """{tensor name: the text that goes before every input}."""
    return {"output": ""} | {f"output.{name}": text for name, text in promise.get("prompts", {}).items()}


def open_sentence_transformer(folder: str, promise: dict) -> dict:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs=_options())
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    for name in promise.get("prompts", {}):
        outputs[f"output.{name}"] = model.encode(promise["inputs"], prompt_name=name)
    return outputs


def open_auto_model(folder: str, promise: dict) -> dict:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False, **_options()).eval()
    outputs = {}
    for tensor, prompt in _prompted(promise).items():
        texts = [prompt + text for text in promise["inputs"]]
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=promise.get("max_length"), return_tensors="pt"
        )
        with torch.no_grad():
            hidden_BLD = model(**batch)[0]
        outputs[tensor] = _pool(hidden_BLD, batch["attention_mask"], promise).numpy()
    return outputs


def open_remote_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True, **_options()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    for name in promise.get("prompts", {}):
        outputs[f"output.{name}"] = model.encode(promise["inputs"], prompt_name=name)
    return outputs


def open_cross_encoder(folder: str, promise: dict) -> dict:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu", model_kwargs=_options())
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]])}


def open_sequence_classification(folder: str, promise: dict) -> dict:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False, **_options()).eval()
    of_classes = promise["kind"] == "classifier"  # texts and all logits; else pairs and one score
    inputs = promise["inputs"]
    columns = [inputs] if of_classes else [[pair[i] for pair in inputs] for i in (0, 1)]
    batch = tokenizer(
        *columns, padding=True, truncation=True, max_length=promise.get("max_length"), return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**batch).logits
    return {"output": (logits if of_classes else logits[:, 0]).numpy()}


def open_classification_pipeline(folder: str, promise: dict) -> dict:
    import numpy as np
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=folder, device="cpu", trust_remote_code=False, **_options())
    length = {"max_length": promise["max_length"]} if promise.get("max_length") else {}
    if promise["kind"] == "classifier":
        answers = classify(promise["inputs"], truncation=True, top_k=None, function_to_apply="none", **length)
        scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        names = classify.model.config.id2label
        return {"output": np.array([[score[names[i]] for i in range(len(names))] for score in scores])}
    pairs = [{"text": first, "text_pair": second} for first, second in promise["inputs"]]
    answers = classify(pairs, truncation=True, **length)
    return {"output": np.array([answer["score"] for answer in answers])}


def open_remote_cross_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, **_options()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]])}


# ---- language models: the writer of the golden file asks them the same


def prompt_inputs(tokenizer, prompt: str | list[dict]) -> dict:
    """Tokens and mask of a text, or of a chat (a list of messages) by the tokenizer's template, ready for a reply."""
    if isinstance(prompt, str):
        inputs = tokenizer(prompt, return_tensors="pt")
    else:
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    # the token types that tokenizers add are left out: models that need some know them better
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def logits_at(model, batches: list[dict], place: Callable[[list[int]], int]):
    """(N, V) logits of N sequences, each by itself, at position `place(ids)`."""
    import numpy as np
    import torch

    with torch.no_grad():
        rows = [model(**inputs).logits[0, place(inputs["input_ids"][0].tolist())] for inputs in batches]
    return np.stack([row.numpy() for row in rows])


def greedy_tokens(model, tokenizer, promise: dict):
    """(N, T) what each prompt is continued by, for as many tokens as promised; -1 behind them."""
    import numpy as np

    rows_NT = np.full((len(promise["inputs"]), max(promise["new_tokens"])), -1)
    for row, (prompt, new_tokens) in enumerate(zip(promise["inputs"], promise["new_tokens"], strict=True)):
        if new_tokens:
            inputs = prompt_inputs(tokenizer, prompt)
            ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, num_beams=1)[0]
            reply = ids[inputs["input_ids"].shape[1] :].tolist()
            rows_NT[row, : len(reply)] = reply
    return rows_NT


def answer_prompts(model, tokenizer, promise: dict) -> dict:
    """A causal language model: logits behind each prompt, and its greedy continuation."""
    batches = [prompt_inputs(tokenizer, prompt) for prompt in promise["inputs"]]
    return {
        "logits": logits_at(model, batches, lambda ids: -1),
        "generated": greedy_tokens(model, tokenizer, promise),
    }


def answer_sources(model, tokenizer, promise: dict) -> dict:
    """A sequence-to-sequence model in one decoder: logits behind each given target, and its own greedy target."""
    pairs = zip(promise["inputs"], promise["targets"], strict=True)
    batches = [dict(tokenizer(source, text_pair=target, return_tensors="pt")) for source, target in pairs]
    return {
        "logits": logits_at(model, batches, lambda ids: -2),  # where the last [SEP] is predicted
        "generated": greedy_tokens(model, tokenizer, promise),
    }


def answer_texts(model, tokenizer, promise: dict) -> dict:
    """A masked language model: logits in the middle of each text, and where it has them, the scores of the texts."""
    options = {"truncation": True, "max_length": promise["max_length"], "return_tensors": "pt"}
    batches = [dict(tokenizer(text, **options)) for text in promise["inputs"]]
    outputs = {"logits": logits_at(model, batches, lambda ids: len(ids) // 2)}
    if promise.get("scores"):
        outputs["score"] = model.score(promise["inputs"], tokenizer=tokenizer).numpy()
    return outputs


ANSWERS = {"causal-lm": answer_prompts, "seq2seq-lm": answer_sources, "masked-lm": answer_texts}


def open_language_model(folder: str, promise: dict, *, auto_class: str, trust: bool = False) -> dict:
    import transformers

    model_class = getattr(transformers, auto_class)
    model = model_class.from_pretrained(folder, trust_remote_code=trust, **_options()).eval()
    assert not trust or "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    return ANSWERS[promise["kind"]](model, tokenizer, promise)


def open_bert_for_masked_lm(folder: str, promise: dict) -> dict:
    """The stock class over the weights of UniLM computes what UniLM does where all is source."""
    from transformers import AutoTokenizer, BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(folder, **_options()).eval()
    # with a stock config at hand, transformers does not ask about the code in the folder
    tokenizer = AutoTokenizer.from_pretrained(folder, config=model.config)
    return {"source_logits": answer_texts(model, tokenizer, promise)["logits"]}


def open_fill_mask_pipeline(folder: str, promise: dict, trust: bool = False) -> dict:
    import numpy as np
    from transformers import pipeline

    fill = pipeline("fill-mask", model=folder, device="cpu", trust_remote_code=trust, **_options())
    # the best probabilities and not their tokens, which rounding may exchange
    return {"fill_mask": np.array([[best["score"] for best in fill(text)] for text in promise["masked"]])}


def open_text_generation_pipeline(folder: str, promise: dict, trust: bool = False) -> dict:
    """Compares texts and raises: a tokenizer may lose its decoder on the way through a folder."""
    from transformers import pipeline

    generate = pipeline("text-generation", model=folder, device="cpu", trust_remote_code=trust, **_options())
    for prompt, new_tokens, text in zip(promise["inputs"], promise["new_tokens"], promise["texts"], strict=True):
        if new_tokens:
            options = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": 1, "return_full_text": False}
            said = generate(prompt, **options)[0]["generated_text"]
            if said.strip() != text.strip():
                raise ValueError(f"{prompt!r} is continued by {said!r}, promised is {text!r}")
    return {}


class Way(NamedTuple):
    """How to open a door.

    Attributes:
        open: takes the folder and the promise, returns {tensor name: array}.
        needs: "library" or "library>=version", beyond any transformers.
        gives: the golden tensors it must give at least; None is all there are.
    """

    open: Callable[[str, dict], dict]
    needs: str | None = None
    gives: tuple[str, ...] | None = None


# older versions would register our class over the stock one of the same config, and refuse to
STOCK_CONFIG_REMOTE_CODE = "transformers>=5.19"
CAUSAL_LM = partial(open_language_model, auto_class="AutoModelForCausalLM")
MASKED_LM = partial(open_language_model, auto_class="AutoModelForMaskedLM")
DOORS = {  # names as a user would write them
    "SentenceTransformer": Way(open_sentence_transformer, "sentence-transformers"),
    "AutoModel": Way(open_auto_model),
    "AutoModel, trust_remote_code": Way(open_remote_encoder, STOCK_CONFIG_REMOTE_CODE),
    "CrossEncoder": Way(open_cross_encoder, "sentence-transformers"),
    "AutoModelForSequenceClassification": Way(open_sequence_classification),
    "text-classification pipeline": Way(open_classification_pipeline),
    "AutoModelForSequenceClassification, trust_remote_code": Way(open_remote_cross_encoder, STOCK_CONFIG_REMOTE_CODE),
    "AutoModelForCausalLM": Way(CAUSAL_LM, gives=("logits", "generated")),
    "AutoModelForCausalLM, trust_remote_code": Way(partial(CAUSAL_LM, trust=True), gives=("logits", "generated")),
    "text-generation pipeline": Way(open_text_generation_pipeline, gives=()),
    "text-generation pipeline, trust_remote_code": Way(partial(open_text_generation_pipeline, trust=True), gives=()),
    "BertForMaskedLM": Way(open_bert_for_masked_lm, gives=("source_logits",)),
    "AutoModelForMaskedLM": Way(MASKED_LM, gives=("logits",)),
    "AutoModelForMaskedLM, trust_remote_code": Way(partial(MASKED_LM, trust=True), gives=("logits",)),
    "fill-mask pipeline": Way(open_fill_mask_pipeline, gives=("fill_mask",)),
    "fill-mask pipeline, trust_remote_code": Way(partial(open_fill_mask_pipeline, trust=True), gives=("fill_mask",)),
}


# ---- comparing


def compare(outputs: dict, golden: dict) -> tuple[float, str]:
    """(largest absolute difference, what is wrong or "") of two {tensor name: array} dicts.

    The tolerance is 1e-5 of the largest golden value, and at least 1e-5: the float32 rounding of another batch shape.
    Whole numbers, which are token ids, have none.
    """
    import numpy as np

    if outputs.keys() != golden.keys():
        return float("nan"), f"gave the outputs {sorted(outputs)}, promised are {sorted(golden)}"
    worst, wrong = 0.0, ""
    for name, expected in golden.items():
        actual = np.asarray(outputs[name], dtype=np.float64)
        if actual.shape != expected.shape:
            return float("nan"), f"{name} has shape {actual.shape}, promised is {expected.shape}"
        difference = float(np.abs(actual - expected).max(initial=0.0))
        exact = np.issubdtype(expected.dtype, np.integer)
        allowed = 0.0 if exact else TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        if not difference <= allowed:  # written so that NaN fails
            rows = np.abs(actual - expected).reshape(len(expected), -1).max(axis=1)
            wrong = wrong or f"{name} differs by {difference:.1e} (allowed {allowed:.1e}), most in row {rows.argmax()}"
        worst = max(worst, difference) if difference == difference else difference
    return worst, wrong


def read_golden(folder: str | Path) -> dict:
    """{tensor name: array} of the expected outputs: float64, or int64 for token ids."""
    import numpy as np
    from safetensors.numpy import load_file

    golden = load_file(str(Path(folder) / GOLDEN_FILE))
    return {
        name: array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float64)
        for name, array in golden.items()
    }


def check_door(name: str, way: Way, folder: str | Path) -> Door:
    """Open one door and compare. Whatever it raises is a failed door, not a crash of the check."""
    try:
        outputs, golden = way.open(str(folder), read_promise(folder)), read_golden(folder)
        if way.gives is not None:
            golden = {tensor: array for tensor, array in golden.items() if tensor in {*way.gives, *outputs}}
        difference, wrong = compare(outputs, golden)
    except Exception as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return Door(name, "failed", note=f"{type(error).__name__}: {first_line}"[:300])
    return Door(name, "failed" if wrong else "ok", difference, wrong)


def check_promised_door(name: str, folder: str | Path) -> Door:
    """Open the door called `name`, unless a library it needs is not installed or too old."""
    way = DOORS[name]
    missing = way.needs and unmet(way.needs)
    return Door(name, "not checked", note=missing) if missing else check_door(name, way, folder)


def unmet(requirement: str) -> str:
    """What to do for "library" or "library>=version", "" when it is there."""
    from packaging.version import Version

    library, _, oldest = requirement.partition(">=")
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        return f"install {library}"
    if oldest and Version(importlib.metadata.version(library)) < Version(oldest):
        return f"needs {library} {oldest} or later"
    return ""


class _NoSuzoo(importlib.abc.MetaPathFinder):
    """Import system hook under which suzoo does not exist, wherever it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "suzoo":
            raise ModuleNotFoundError(f"{fullname} is blocked: the door must open without suzoo", name=fullname)


def _child(folder: str, results: str) -> None:
    """The fresh process: check every promised door, one JSON line per door as soon as it is known."""
    for name in [name for name in sys.modules if name.split(".")[0] == "suzoo"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _NoSuzoo())
    here = Path(__file__).resolve().parent  # python puts it first; its neighbours must not shadow installed packages
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    with open(results, "a", encoding="utf-8") as file:
        for name in read_promise(folder)["doors"]:
            print(json.dumps(asdict(check_promised_door(name, folder))), file=file, flush=True)


def verify(folder: str | Path, *, timeout: float = 1800) -> list[Door]:
    """Check every door `folder` promises, in a fresh process without suzoo, network, cache and stdin.

    Args:
        folder: a saved model with its golden file.
        timeout: seconds for all doors together.

    Returns:
        One `Door` per promise, in the promised order. A door the process died in, or never reached, is "failed".

    Raises:
        ValueError: the folder promises nothing that can be read.
    """
    promise = read_promise(folder)
    with tempfile.TemporaryDirectory(prefix="suzoo-verify-") as scratch:
        results = Path(scratch) / "results.jsonl"
        # a training process launches this one: it must not take itself for another rank of that run
        own = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        environment = own | {
            "HF_HOME": str(Path(scratch) / "huggingface"),
            "HF_HUB_CACHE": str(Path(scratch) / "huggingface" / "hub"),
            "HF_MODULES_CACHE": str(Path(scratch) / "huggingface" / "modules"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(results), str(Path(folder).resolve())]
        died = ""
        try:
            process = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
            if process.returncode:
                last = (process.stderr.strip() or "no message").splitlines()[-1]
                died = f"the checking process ended with code {process.returncode}: {last}"
        except subprocess.TimeoutExpired:
            died = f"not answered within {timeout:.0f} s"
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    doors = {}
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the line a killed process was writing: its door is "failed"
            door = Door(**json.loads(line))
            doors[door.name] = door
    return [doors.get(name, Door(name, "failed", note=died)) for name in promise["doors"]]


def passed(doors: list[Door]) -> bool:
    """True when no door failed and at least one was checked."""
    return any(door.status == "ok" for door in doors) and all(door.status != "failed" for door in doors)


def format_table(doors: list[Door]) -> str:
    """The doors as an aligned text table."""
    width = max(len(door.name) for door in doors)
    lines = [f"{'door':<{width}}  {'status':<11}  difference"]
    for door in doors:
        difference = "-" if door.difference is None else f"{door.difference:.1e}"
        lines.append(f"{door.name:<{width}}  {door.status:<11}  {difference:<10}  {door.note}".rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Open a saved model through every promised door and compare.")
    parser.add_argument("folder", help="folder of the saved model, with golden.safetensors")
    parser.add_argument("--child", metavar="RESULTS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _child(options.folder, options.child)
        return 0
    try:
        doors = verify(options.folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(doors))
    return 0 if passed(doors) else 1


if __name__ == "__main__":
    sys.exit(main())
