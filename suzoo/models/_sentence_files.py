"""The side files of sentence-transformers: what they say about a sentence encoder, read and written.

    modules.json                        what follows what: Transformer, Pooling, perhaps Dense and Normalize
    1_Pooling/config.json               pooling, and whether prompts count in it
    sentence_bert_config.json           length of a text, lower case
    config_sentence_transformers.json   prompts

What is not there has its default. What is there is honoured or refused, and what cannot be read is an error.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# sentence-transformers' names for our poolings; first-last-avg has none
ST_POOLING = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
_OTHER_ST_POOLINGS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens")
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
# Once named after the model's family
_LENGTH_FILES = [f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert")]
_LENGTH_FILES += ["sentence_xlm-roberta_config.json", "sentence_xlnet_config.json"]
# What else sentence_bert_config.json may say, and the value with which a sentence encoder is what we take it for
_PLAIN = {
    "transformer_task": ("feature-extraction", "sequence-classification"),
    "module_output_name": ("token_embeddings", "scores"),
}
# A file that every repository has and only a download of all of it fetches: what is not beside it is not there
_OF_WHOLE_DOWNLOADS = ".gitattributes"
_EMPTY = ("model_args", "tokenizer_args", "config_args", "processing_kwargs", "query_expansion")


@dataclass
class SentenceSettings:
    """What the side files say.

    Attributes:
        pooling: "cls", "mean", "last" or "first-last-avg"; None where no file says it.
        include_prompt: whether the tokens of a prompt count in the pooling.
        normalize: whether vectors have length 1.
        prompts, default_prompt_name: texts put before an input.
        max_seq_length: tokens per text; None leaves it to the tokenizer.
        do_lower_case: lower the texts before the tokenizer sees them.
        subfolder: where the Transformer's own files are.
    """

    pooling: str | None = None
    include_prompt: bool = True
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    subfolder: str = ""


def read_modules(path: str, options: dict[str, Any]) -> tuple[list[dict], str]:
    """(modules of `modules.json`, subfolder of the Transformer); ([], "") where there is no such file.

    Raises:
        ValueError: a module that is not sentence-transformers' own Transformer, Pooling, Dense or Normalize, or that
            stands elsewhere in this order.
    """
    modules = read_json(path, "modules.json", options) or []
    for module in modules:
        package, _, kind = module["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
            raise ValueError(
                f"modules.json of {path} names the module {module['type']}; "
                "suzoo knows Transformer, Pooling, Dense and Normalize of sentence_transformers"
            )
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds != sorted(kinds, key=_MODULES.index):
        raise ValueError(f"modules.json of {path} has the order {', '.join(kinds)}; suzoo knows {', '.join(_MODULES)}")
    transformers = [module["path"] for module in modules if module["type"].endswith(".Transformer")]
    return modules, transformers[0] if transformers else ""


def in_subfolder(subfolder: str, options: dict[str, Any]) -> dict[str, str]:
    """What to put over `options` where the Transformer's own files lie in a subfolder of the model."""
    return {"subfolder": "/".join(filter(None, [options.get("subfolder"), subfolder]))} if subfolder else {}


def read_settings(path: str, modules: list[dict], subfolder: str, options: dict[str, Any]) -> SentenceSettings:
    """What the side files of a folder or Hub repository say beside `modules.json`.

    Raises:
        ValueError: a pooling, a length or a default prompt that suzoo cannot honour; a file that is named and missing.
        OSError: a file that could not be read.
    """
    named = [module["path"] for module in modules if module["type"].endswith(".Pooling")]
    pooling_file = f"{named[0] if named else '1_Pooling'}/config.json"
    pooling = read_json(path, pooling_file, options)
    if named and pooling is None:
        raise ValueError(f"modules.json of {path} names {pooling_file}, which is missing")
    settings = SentenceSettings(normalize=any(module["type"].endswith(".Normalize") for module in modules))
    if pooling is not None:
        settings.pooling = _pooling_name(pooling, f"{path}/{pooling_file}")
        settings.include_prompt = pooling.get("include_prompt", True)
    settings.max_seq_length, settings.do_lower_case = read_lengths(path, modules, subfolder, options)
    settings.prompts, settings.default_prompt_name = read_prompts(path, options)
    return settings


def read_lengths(path: str, modules: list[dict], subfolder: str, options: dict[str, Any]) -> tuple[int | None, bool]:
    """(tokens per text, whether texts are lowered) of `sentence_bert_config.json`.

    Raises:
        ValueError: another setting there that suzoo has not.
    """
    at = f"{subfolder}/" if subfolder else ""
    for name in _LENGTH_FILES if modules else _LENGTH_FILES[:1]:
        if (lengths := read_json(path, at + name, options)) is not None:
            odd = [key for key, plain in _PLAIN.items() if lengths.get(key, plain[0]) not in plain]
            odd += [key for key in _EMPTY if lengths.get(key)]
            if odd:
                raise ValueError(f"{name} of {path} sets {odd[0]} to {lengths[odd[0]]!r}, which suzoo cannot honour")
            return lengths.get("max_seq_length"), bool(lengths.get("do_lower_case"))
    return None, False


def read_prompts(path: str, options: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    """(prompts by name, name of the one that is used when none is named).

    Raises:
        ValueError: the default is not among the prompts.
    """
    saved = read_json(path, "config_sentence_transformers.json", options) or {}
    prompts, default = dict(saved.get("prompts") or {}), saved.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ValueError(
            f"config_sentence_transformers.json of {path} names the default prompt {default!r}, which it does not hold"
        )
    return prompts, default


def write_settings(folder: Path, settings: SentenceSettings, hidden_size: int, with_dense: bool = False) -> None:
    """Write the side files, and remove those that an older save left and this one does not write.

    "first-last-avg" has no sentence-transformers form: such a folder gets no modules.json.

    Args:
        with_dense: the caller writes `2_Dense` afterwards.
    """
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    pooling |= dict.fromkeys([*ST_POOLING.values(), *_OTHER_ST_POOLINGS], False)
    pooling["include_prompt"] = settings.include_prompt
    remove_side_files(folder)
    if settings.pooling in ST_POOLING:
        pooling[ST_POOLING[settings.pooling]] = True
        kinds = ["Pooling"] + ["Dense"] * with_dense + ["Normalize"] * settings.normalize
        types = [("", "Transformer"), *((f"{place}_{kind}", kind) for place, kind in enumerate(kinds, 1))]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(types)
        ]
        write_json(folder / "modules.json", modules)
    else:
        pooling["suzoo_pooling"] = settings.pooling
    write_json(folder / "1_Pooling/config.json", pooling)
    write_prompts(folder, settings.prompts, settings.default_prompt_name, "SentenceTransformer")
    lengths = {"max_seq_length": settings.max_seq_length, "do_lower_case": settings.do_lower_case}
    if any(lengths.values()):
        write_json(folder / "sentence_bert_config.json", lengths)


def write_prompts(folder: Path, prompts: dict[str, str], default_prompt_name: str | None, model_type: str) -> None:
    settings = {"prompts": prompts, "default_prompt_name": default_prompt_name, "model_type": model_type}
    if model_type == "SentenceTransformer":
        settings["similarity_fn_name"] = "cosine"
    write_json(folder / "config_sentence_transformers.json", settings)


def write_cross_encoder_settings(folder: Path, prompts: dict[str, str], default_prompt_name: str | None) -> None:
    """The side files of a cross-encoder: none without prompts, and else those from which `CrossEncoder` takes them."""
    remove_side_files(folder)
    if not prompts:
        return
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    task: dict[str, Any] = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
    task["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
    write_json(folder / "sentence_bert_config.json", task)
    write_prompts(folder, prompts, default_prompt_name, "CrossEncoder")


def remove_side_files(folder: Path) -> None:
    """Remove what an older save of another kind, by us or by sentence-transformers, may have left in the folder."""
    for name in ("modules.json", "config_sentence_transformers.json", *_LENGTH_FILES):
        (folder / name).unlink(missing_ok=True)
    for number in range(1, 4):
        for kind in ("Pooling", "Normalize", "Dense"):
            shutil.rmtree(folder / f"{number}_{kind}", ignore_errors=True)


def _pooling_name(config: dict, where: str) -> str:
    """Our name for the pooling of a sentence-transformers Pooling config, old or new form."""
    if "suzoo_pooling" in config:
        return config["suzoo_pooling"]
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
    names = {key: name for name, key in ST_POOLING.items()} | {"cls": "cls", "mean": "mean", "lasttoken": "last"}
    if len(modes) != 1 or modes[0] not in names:
        raise ValueError(f"{where} asks for {', '.join(modes) or 'nothing'}; suzoo has cls, mean and last token")
    return names[modes[0]]


def find_file(path: str, filename: str, options: dict[str, Any]) -> Path | None:
    """Where a file of a local folder or Hub repository is on this disk; None when there is none.

    Args:
        options: some of `HUB_OPTIONS`.

    Raises:
        OSError: the Hub did not answer, or is not to be asked and never said whether it has the file.
    """
    subfolder = options.get("subfolder") or ""
    if os.path.isdir(path):
        found = Path(path, subfolder, filename)
        return found if found.is_file() else None
    else:
        whole = f"{subfolder}/{filename}" if subfolder else filename
        where: dict[str, Any] = {name: options.get(name) for name in ("cache_dir", "revision")}
        offline = bool(options.get("local_files_only"))
        try:
            found = Path(hf_hub_download(path, whole, token=options.get("token"), local_files_only=offline, **where))
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            return None  # whoever loads the weights says so
        except (EntryNotFoundError, HfHubHTTPError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            if try_to_load_from_cache(path, whole, **where) is _CACHED_NO_EXIST:  # the Hub has said so once
                return None
            if isinstance(try_to_load_from_cache(path, _OF_WHOLE_DOWNLOADS, **where), str):
                return None
            raise OSError(
                f"{whole} of {path} could not be read, and without it the model may be another one "
                f"({(str(error).strip() or type(error).__name__).splitlines()[0]}); open the model once with the Hub "
                "at hand, or download the repository and give the folder"
            ) from error
    return found


def read_json(path: str, filename: str, options: dict[str, Any]) -> Any:
    """A side file of a local folder or Hub repository; None when there is none.

    Raises:
        OSError: as `find_file`.
        ValueError: not JSON.
    """
    found = find_file(path, filename, options)
    if found is None:
        return None
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{found} is not JSON ({error})") from error


def write_json(path: Path, content: dict | list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
