"""What a model folder holds: the files that a push sends, those that it deletes from a repository, their checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from suzoo.hub.card import REPO_PLACEHOLDER
from suzoo.hub.public import public_record
from suzoo.hub.verify.trust import OURS, named_modules

# Patterns of paths; a star does not cross a "/". What decides how a repository opens, and the record of the run
MODEL = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.tiktoken"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "*sentencepiece*.model", "tokenizer.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("processor_config.json", "preprocessor_config.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("[0-9]_*/config.json", "[0-9]_*/*.safetensors", "*.onnx", "onnx/*"),
    *("run.json", "metrics.json", "metrics.jsonl", "curves.png", ".eval_results/*.yaml"),
)
NO_WEIGHTS = ("optimizer*.safetensors", "scheduler*.safetensors", "random_states*.safetensors")
# What somebody may have written for the repository itself
TEXTS = ("README.md", "LICENSE*", "NOTICE*")
# Never pushed, and deleted from a repository, because they open as another model
OTHER_WEIGHTS = (
    *("*.bin.index.json", "pytorch_model*.bin", "adapter_model.bin", "[0-9]_*/pytorch_model.bin"),
    *("tf_model*.h5", "flax_model*.msgpack", "rust_model.ot", "*.gguf", "openvino/*", "custom_generate/*"),
)


def matches(path: str, patterns: Iterable[str]) -> bool:
    parts = path.split("/")
    return any(
        len(pattern.split("/")) == len(parts) and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def pushed_files(folder: Path) -> list[str]:
    """Paths below `folder` of what a push sends: model, record, card, and the code that the config names."""
    code = named_modules(folder)
    paths = sorted(path for path in _shallow_files(folder) if path in code or matches(path, (*MODEL, *TEXTS)))
    return [path for path in paths if not matches(path, NO_WEIGHTS)]


def left_out(folder: Path, pushed: Iterable[str]) -> list[str]:
    """Names at the top of `folder` of which nothing is pushed; a folder's ends in "/"."""
    tops = {path.split("/")[0] for path in pushed}
    return sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in tops)


def is_stale(path: str) -> bool:
    """True for a file of a repository that may stay only if the pushed folder has it too."""
    return matches(path, (*MODEL, *OTHER_WEIGHTS)) or (path.endswith(".py") and (OURS / path).is_file())


def _shallow_files(folder: Path) -> Iterator[str]:
    for pattern in ("*", "*/*"):  # a model has no deeper ones, and data or checkpoints may be large
        yield from (path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())


@dataclass(frozen=True)
class Content:
    """A file as it is sent.

    Attributes:
        source: the file, or what is sent in its place.
        git_oid: the id of a blob of git, by which the Hub knows small files.
        sha256: by which it knows large ones.
    """

    source: Path | bytes
    git_oid: str
    sha256: str

    @classmethod
    def of(cls, source: Path | bytes) -> Content:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        git, sha256 = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
        for part in _parts(source):
            git.update(part)
            sha256.update(part)
        return cls(source, git.hexdigest(), sha256.hexdigest())


def _parts(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while part := file.read(1 << 22):
            yield part


def contents_of(folder: Path) -> dict[str, Content]:
    """{path: content} of what a push sends. The record of the run goes without the paths of this machine."""
    contents = {path: Content.of(folder / path) for path in pushed_files(folder)}
    if "run.json" in contents:
        try:
            record = public_record(json.loads((folder / "run.json").read_text(encoding="utf-8")))
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / 'run.json'} is not the record of a run ({error}): delete or mend it"
            ) from error
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        contents["run.json"] = Content.of(text.encode())
    return contents


def copy_contents(folder: Path, target: Path) -> None:
    """Write to `target` what a push of `folder` sends."""
    for path, content in contents_of(folder).items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content.source, bytes):
            file.write_bytes(content.source)
        else:
            shutil.copyfile(content.source, file)


def named(contents: dict[str, Content], repo_id: str) -> dict[str, Content]:
    """The same, with the repository's name in the card's snippets."""
    if "README.md" not in contents:
        return contents
    source = contents["README.md"].source
    card = source if isinstance(source, bytes) else source.read_bytes()
    return contents | {"README.md": Content.of(card.replace(REPO_PLACEHOLDER.encode(), repo_id.encode()))}
