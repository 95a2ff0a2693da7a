"""Names that may be files, folders or of the Hub: a mistyped one should wait for no network and no library."""

from __future__ import annotations

import difflib
import glob
import re
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")  # of files of data, each also with .gz
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
EMBEDDED = "embedded:"  # in front of the name of what comes with this package
EMBEDDED_MODELS = Path(__file__).parent / "data" / "embedded" / "models"
HUB_DATASET = r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?"


def is_url(name: str | Path) -> bool:
    return isinstance(name, str) and "://" in name


def without_query(name: str) -> str:
    return name.partition("?")[0] if is_url(name) else name


def format_of(name: str) -> str:
    """The suffix that says how a file of data is read, .gz aside; empty if we cannot read it."""
    path = PurePosixPath(without_query(name).lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in SUFFIXES else ""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` or nothing; for the middle of an error message."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return f" (did you mean {found[0]!r}?)" if found else ""


def why_no_data(source: str | Path) -> str | None:
    """Why a source of data cannot be read: it is nothing on this machine, and no name that the Hub could have."""
    path = Path(source).expanduser()
    if is_url(source) or str(source).startswith("embedded:") or glob.has_magic(str(source)):
        return None
    if path.is_file() or path.is_dir() or (not format_of(path.name) and re.fullmatch(HUB_DATASET, str(source))):
        return None
    if path.exists():
        return f"{source} is neither a file nor a folder: a pipe is read once, so write what comes out of it to a file"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"there is no file or folder {source}{nearest(path.name, siblings)}"


def names_a_split(name: str) -> bool:
    """Whether a word in the name of a file or folder is that of a split, as in stsb.train.jsonl."""
    words = set(re.split(r"[-_. ]", name))
    return any(words & {*names} for names in SPLIT_NAMES.values())


def split_of_dev(source: str) -> str | None:
    """What to read of a source that is there for dev data alone: its dev split, or None, which is all of it.

    A file, a pattern and a folder whose files name no split are dev data as they are. What has splits, as a dataset of
    the Hub has, is not: unasked, its rows would be those of train.
    """
    path = Path(source).expanduser()
    if not is_url(source) and path.is_dir():
        folders = [path, path / "data"] if (path / "data").is_dir() else [path]
        return "dev" if any(names_a_split(entry.name) for folder in folders for entry in folder.iterdir()) else None
    is_as_it_is = format_of(source) or glob.has_magic(source) or path.is_file()
    return None if is_as_it_is and not source.startswith("embedded:") else "dev"


def not_empty(folder: str | Path) -> str:
    """Of an output folder that holds a run."""
    return f"{folder} is not empty: add --resume to continue, --overwrite to start anew"


def model_folder(name: str) -> str:
    """The folder of `embedded:NAME`, a model that comes with this package; any other name as it is.

    Raises:
        ValueError: no such model comes with it.
    """
    if not name.startswith(EMBEDDED):
        return name
    own, known = name.removeprefix(EMBEDDED), sorted(folder.name for folder in EMBEDDED_MODELS.iterdir())
    if own not in known:
        raise ValueError(f"there is no {name}{nearest(own, known)}; there is {', '.join(known)}")
    return str(EMBEDDED_MODELS / own)


def check_folder_or_hub(name: str) -> None:
    """
    Raises:
        ValueError: `name` is no folder here, no embedded model, and cannot be asked of the Hub.
    """
    name = model_folder(name)
    if Path(name).is_dir():
        return
    if Path(name).is_file():
        raise ValueError(f"{name} is a file and not the folder of a model")
    if name.count("/") > 1 or name.startswith((".", "~", "/")):
        raise ValueError(f"there is no folder {name}")
    if reason := why_unreachable(name, "model"):
        raise ValueError(f"there is no folder {name} here, and {reason}: check the name, or the network")


def why_unreachable(name: str, repo_type: str) -> str | None:
    """What keeps this machine from the Hub. None where the Hub answers, or is not needed: the cache has something of
    `name`.

    huggingface_hub goes on for half a minute where no connection can be opened, and transformers asks it for several
    files. This tries twice, a second apart. Answers that are late, broken or errors are left to its patience.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import get_session

    in_cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)
    if in_cache.is_dir():
        return None
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE keeps it from being asked of the Hub"
    reason = ""
    for attempt in range(2):
        time.sleep(attempt)
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:
            # of httpx or httpx2, by the version of huggingface_hub
            if not {"ConnectError", "ConnectTimeout"} & {kind.__name__ for kind in type(error).__mro__}:
                return None
            reason = f"{constants.ENDPOINT} cannot be reached ({error})"
        else:
            return None
    return reason
