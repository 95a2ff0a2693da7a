"""Names that may be folders or of the Hub: a mistyped folder should not wait for a network that is not there."""

from __future__ import annotations

import time
from pathlib import Path


def check_folder_or_hub(name: str) -> None:
    """
    Raises:
        ValueError: `name` is no folder here, and cannot be asked of the Hub.
    """
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
