"""Model card (`README.md`) and `.eval_results/*.yaml` of a finished run, from what the run recorded.

No number is typed: everything comes from the saved folder. The training scripts write

`run.json`::

    {"recipe": {"model": ..., "seed": 1, "lr": ..., ...},      every field of the recipe dataclass, plain data
     "settings": {"lr": ..., ...},                             optional: those of them that the card shows
     "script": "training/train_cosent.py", "command": "accelerate launch ...",
     "git_commit": "..." or null, "versions": {"torch": "2.13.0", ...}, "synthetic": false,
     "data": {"train": {"source": ..., "rows": 5749, "sha256": ...}, "dev": {...}}}

`metrics.json`::

    {"dev": {"spearman": 0.81, "pearson": 0.80, ...}, "train": {...}}      splits of numbers

Optional are of a split `data.<split>.hub_id` ("owner/name" of a Hub dataset; only such splits can appear on the Hub's
leaderboards), `data.<split>.task_id` (the task in that benchmark, default the split's name) and
`data.<split>.languages` (ISO codes). Of the recipe they are `recipe.license` (of the weights, an SPDX name) and
`recipe.language` (ISO codes, in place of those of the data). Of the run they are `base_model` (the Hub name of what it
started from, where the recipe names a folder) and `sources` ({"file", "used_for", "repository", "licence"} of each).
The card, as all that is pushed, names files and folders without where they lie.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

import suzoo.models  # noqa: F401  AutoConfig knows our model types by it
from suzoo.hub._examples import Examples, examples_in
from suzoo.hub.citations import citations
from suzoo.hub.public import is_local, public_record
from suzoo.hub.tasks import task_named
from suzoo.hub.verify import read_promise
from suzoo.models._oldest import OLDEST, OLDEST_AS_CODE
from suzoo.models._projection import FOLDER as PROJECTION

REPO_PLACEHOLDER = "OWNER/MODEL"  # in the snippets until the model is pushed; push puts the repo id here


# The oldest transformers that opens a folder, and sentence-transformers for the stock ones, as tried: see docs/hub.md
STOCK_NEEDS = "4.57"
STOCK_NEEDS_SENTENCE_TRANSFORMERS = "5.1"
OWN_CODE_NEEDS = OLDEST
LOSSES = {
    "cosent": "with the CoSENT loss",
    "angle": "with AnglE, CoSENT's loss on angles in complex space",
    "sbert": "as Sentence-BERT, by a classifier over [u; v; |u-v|], the baseline of the CoSENT article",
    "info_nce": "by in-batch contrast (InfoNCE)",
    "flat_nce": "by in-batch contrast (FlatNCE)",
    "supcon": "by supervised contrast (SupCon) of texts with classes",
    "am_softmax": "with AM-Softmax, a direction per class of texts",
    "distillation": "by distillation: it has learnt the vectors of a larger encoder, its teacher",
    "simbert": "as SimBERT, by in-batch contrast beside writing similar texts",
}


def template_folder() -> Path:
    """`model_cards/`: package data in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "model_cards"
    return inside if inside.is_dir() else package.parent / "model_cards"


def _read_record(folder: Path, name: str, required: tuple[str, ...] = ()) -> dict:
    path = folder / name
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; a card is made from the folder of a finished run") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    missing = [key for key in required if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; see suzoo.hub.card for what it holds")
    return record


def _scores(metrics: dict) -> list[tuple[str, str, float]]:
    """(split, metric, value) of every finite number."""
    return [
        (split, name, value)
        for split, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _base_model(recipe: dict) -> str | None:
    """The Hub name the run started from, or of the teacher it learnt from; None for a local folder or from scratch."""
    name = recipe.get("model") or recipe.get("teacher")
    is_name = isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    return name if is_name and not Path(name).exists() and not is_local(name) else None


def _vector_size(folder: Path, config: PreTrainedConfig) -> int | None:
    """Numbers in a sentence's vector: those behind the projection, where the folder has one."""
    try:
        return json.loads((folder / PROJECTION / "config.json").read_text(encoding="utf-8"))["out_features"]
    except FileNotFoundError:
        return getattr(config, "hidden_size", None)


def _shown(run: dict) -> dict:
    """The settings that made the model, as the run's own script chose them; of other records what has a value."""
    if "settings" in run:
        return run["settings"]
    # `is`: a 0 is a setting like any other
    return {k: v for k, v in run["recipe"].items() if not (v is None or v is False or v in ("", []))}


def _widget(kind: str, is_chat: bool, texts: Examples, masked: str | None) -> list[dict[str, Any]]:
    """Examples for the Hub's page, in the form of the pipeline."""
    if kind in ("sentence-embedding", "cross-encoder"):
        return [{"source_sentence": texts.text, "sentences": [texts.similar, texts.other]}]
    if kind == "causal-lm":
        turns = (texts.greeting, texts.question)
        return [{"messages": [{"role": "user", "content": t}]} if is_chat else {"text": t} for t in turns]
    if kind == "seq2seq-lm":
        return [{"text": texts.article}]
    if kind == "classifier":
        return [{"text": texts.text}, {"text": texts.other}]
    return [{"text": masked}] if masked else []


def _needs(doors: list[str], with_st: bool) -> str:
    """The libraries and versions that open a folder, in words."""
    stock = ("SentenceTransformer", "CrossEncoder", "AutoModel")
    if not any(door.startswith(stock) or door.endswith("pipeline") for door in doors if "trust" not in door):
        return f"transformers {OWN_CODE_NEEDS}"
    also = f" and sentence-transformers {STOCK_NEEDS_SENTENCE_TRANSFORMERS}" if with_st else ""
    code = f" (its own code with {OLDEST_AS_CODE})" if any("trust_remote_code" in door for door in doors) else ""
    return f"transformers {STOCK_NEEDS}{code}{also}"


def _languages(run: dict) -> list[str]:
    """ISO codes: those the recipe names, else those of the training texts."""
    named = run["recipe"].get("language")
    if named:
        return [named] if isinstance(named, str) else list(named)
    return list(dict.fromkeys(code for data in run["data"].values() for code in data.get("languages") or ()))


def _hub_ids(data: dict) -> list[str]:
    """The Hub datasets of a split; of several sources there may be several."""
    names = data.get("hub_id") or []
    return [names] if isinstance(names, str) else names


def _model_index(task_type: str, name: str, run: dict, metrics: dict) -> list[dict]:
    results = []
    for split, metric, value in _scores({split: values for split, values in metrics.items() if split != "train"}):
        data = run["data"].get(split, run["data"].get("dev", {}))  # a split without data of its own is a view of dev
        source = " ".join(_hub_ids(data)) or data.get("source", split)
        results.append(
            EvalResult(
                task_type=task_type,
                dataset_type=source,
                dataset_name=f"{source} (synthetic)" if "embedded:" in source else source,
                dataset_split=split,
                metric_type=metric,
                metric_name=metric,
                metric_value=value,
            )
        )
    return eval_results_to_model_index(name, results) if results else []


def eval_results(run: dict, metrics: dict) -> dict[str, list[dict]]:
    """{file name: content} for `.eval_results/`: one file per Hub dataset, with the first metric of each of its splits.

    Splits that are not a Hub dataset, and synthetic ones, have no leaderboard and give nothing. The format is that of
    huggingface_hub's `EvalResultEntry`.
    """
    files: dict[str, list[dict]] = {}
    for split, values in metrics.items():
        hub_ids = _hub_ids(run["data"].get(split, {}))
        first = next(iter(_scores({split: values})), None)
        if split == "train" or run["synthetic"] or len(hub_ids) != 1 or first is None:
            continue
        (hub_id,) = hub_ids
        task = {"id": hub_id, "task_id": run["data"][split].get("task_id", split)}
        entry = {"dataset": task, "value": first[2], "notes": f"{first[1]}, split {split}"}
        files.setdefault(f"{hub_id.replace('/', '__')}.yaml", []).append(entry)
    return files


def write_card(
    folder: str | Path, config: PreTrainedConfig | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Write `README.md` and `.eval_results/` of a finished run from its own records.

    Args:
        folder: the run's output folder: weights, `golden.safetensors`, `run.json`, `metrics.json`.
        config, tokenizer: the model's; None reads them from the folder.

    Returns:
        Path of the README. Its snippets name the repository `OWNER/MODEL` until `suzoo push` fills in the real one.

    Raises:
        ValueError: a record is missing or lacks a field.
    """
    folder = Path(folder)
    run = _read_record(folder, "run.json", ("recipe", "script", "command", "versions", "data", "synthetic"))
    metrics = _read_record(folder, "metrics.json")
    if config is None:  # it knows every family's name for the number of layers
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False)
    assert tokenizer is not None
    promise = read_promise(folder)
    base_model = run.get("base_model") or _base_model(run["recipe"])
    run = public_record(run)
    kind, recipe = promise["kind"], run["recipe"]
    loss = "simbert" if recipe.get("tasks") == "simbert" else recipe.get("loss", "cosent")
    loss = "distillation" if recipe.get("teacher") else loss
    task = task_named(promise)
    with_st = kind in ("sentence-embedding", "cross-encoder") and promise.get("pooling") != "first-last-avg"
    from_scratch = not recipe.get("model") and not recipe.get("teacher")  # a teacher's licence is not ours to give
    languages = _languages(run)
    texts = examples_in(languages)
    masked = texts.masked.format(mask=tokenizer.mask_token) if promise.get("masked") else None
    vocabulary = len(tokenizer.get_vocab())
    settings = _shown(run)
    if "vocab_size" in settings:  # what was asked for is an upper bound
        settings = settings | {"vocab_size": vocabulary}
    own_code = any("trust_remote_code" in door for door in promise["doors"])
    encoder_code = kind == "sentence-embedding" and not {"SentenceTransformer", "AutoModel"} & set(promise["doors"])
    metadata = {
        "license": recipe.get("license") or ("apache-2.0" if run["synthetic"] and from_scratch else None),
        "language": languages,
        "library_name": "sentence-transformers" if with_st else "transformers",
        "pipeline_tag": task.pipeline_tag,
        "tags": [*task.tags, *(["sentence-transformers"] if with_st else []), "suzoo"],
        "base_model": base_model,
        "datasets": sorted({name for data in run["data"].values() for name in _hub_ids(data)}),
        "widget": _widget(kind, isinstance(promise["inputs"][0], list), texts, masked),
        "model-index": _model_index(task.task_type, folder.resolve().name, run, metrics),
    }
    metadata = {key: value for key, value in metadata.items() if value}
    environment = Environment(
        loader=FileSystemLoader(template_folder()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        text = environment.get_template(task.template).render(
            metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10**6).strip(),
            name=folder.resolve().name,
            repo_id=REPO_PLACEHOLDER,
            kind=kind,
            promise=promise,
            config=config,
            vector_size=_vector_size(folder, config),
            layout=getattr(config, "layout", None),
            own_code=own_code,
            trust=", trust_remote_code=True" if encoder_code else "",
            needs=_needs(promise["doors"], with_st),
            ex=texts,
            masked=masked,
            vocabulary=f"{vocabulary:,}",
            citations=citations(
                run,
                task.citations,
                getattr(config, "position_embedding_type", None),
                template_folder() / "citations.bib",
            ),
            run=run,
            recipe=settings,
            trained=LOSSES.get(loss, f"with the loss `{loss}`"),
            is_cosent=loss == "cosent",
            scores=_scores(metrics),
            base_model=base_model,
            from_scratch=from_scratch,
            license=metadata.get("license"),
            has_curves=(folder / "curves.png").is_file(),
        )
    except UndefinedError as error:
        raise ValueError(f"run.json or metrics.json of {folder} lacks a field the card shows: {error}") from error
    for name, entries in eval_results(run, metrics).items():
        (folder / ".eval_results").mkdir(exist_ok=True)
        (folder / ".eval_results" / name).write_text(
            yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path
