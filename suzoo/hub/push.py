"""Push a verified folder to the Hub. Pushing again is harmless: what has not changed is neither sent nor committed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from suzoo.hub.card import REPO_PLACEHOLDER
from suzoo.hub.check import check_folder

# checkpoints hold optimizer state; the rest is what editors, trackers and interpreters leave behind
IGNORED = ["checkpoints/**", "**/__pycache__/**", "*.tmp", "**/*.tmp", ".DS_Store", "**/events.out.tfevents.*"]
RETRIED_STATUS = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


class PushError(ValueError):
    """The Hub refused the push or was not reached; the message says why and what to do."""


def _cause(error: Exception) -> Exception:
    """What is behind the RuntimeError in which huggingface_hub wraps a failed upload of one file."""
    wrapped = isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception)
    return error.__cause__ if wrapped else error


def _is_dropped(error: Exception) -> bool:
    """True for what may succeed when tried again: a broken connection, a timeout, a busy server."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in RETRIED_STATUS
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _retry(call: Callable[[], T], tries: int, wait: float) -> T:
    """`call()`, tried again after `wait`, 2 `wait`, 4 `wait` ... seconds while the connection is at fault."""
    for attempt in range(tries):
        try:
            return call()
        except Exception as error:
            if attempt == tries - 1 or not _is_dropped(_cause(error)):
                raise
            time.sleep(min(60.0, wait * 2**attempt))
    raise AssertionError("tries is at least 1")


def _explain(error: Exception, api: HfApi, repo_id: str, revision: str | None) -> str:
    """One sentence: what went wrong, and what to do."""
    if isinstance(error, LocalTokenNotFoundError):
        return "not logged in to the Hub: run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: check its name"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:  # before "not found": the Hub hides private repositories behind 401
            return f"{api.endpoint} does not accept the token: log in again with `hf auth login`, or correct HF_TOKEN"
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            return f"{repo_id} does not exist on {api.endpoint}, or this account may not see it"
        if status == 403:
            return (
                f"this account or token has no right to write to {repo_id}: push to a repository of your own, use a "
                "token with write access, or propose the change with create_pr (--create-pr)"
            )
        reason = error.server_message or f"status {status}"
        return f"{api.endpoint} refused the push to {repo_id}: {reason.strip().splitlines()[0]}"
    return f"no connection to {api.endpoint} ({type(error).__name__}): check the network; pushing again resumes"


def _create(api: HfApi, repo_id: str, private: bool | None) -> str:
    """Make the repository if it is not there, and return its full name. Never changes who can see it."""
    full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(full_name).private:
        raise PushError(f"{full_name} exists and is public, not private: use another name, or hide it first")
    return full_name


def _pull_request(api: HfApi, repo_id: str, title: str) -> tuple[int, str]:
    """(number, status) of this account's open pull request of that title, made if there is none."""
    author = api.whoami()["name"]
    for discussion in api.get_repo_discussions(repo_id, author=author, discussion_type="pull_request"):
        if discussion.title == title and discussion.status in ("draft", "open"):
            return discussion.num, discussion.status
    created = api.create_pull_request(repo_id, title=title)
    return created.num, created.status


def _name_repository(folder: Path, repo_id: str) -> None:
    """Put the repository's name into the card's snippets, where it still has the placeholder."""
    readme = folder / "README.md"
    if readme.is_file() and REPO_PLACEHOLDER in (text := readme.read_text(encoding="utf-8")):
        readme.write_text(text.replace(REPO_PLACEHOLDER, repo_id), encoding="utf-8")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str = "Upload model with suzoo",
    tries: int = 5,
    wait: float = 1.0,
    report: Callable[[str], None] = print,
    trust_remote_code: bool = False,
    timeout: float | None = None,
    just_written: bool = False,
) -> str:
    """Verify a saved model, then upload it. Run it again after an interruption: it goes on where it stopped.

    Args:
        folder: a saved model with `golden.safetensors`; `checkpoints/` and event files are not uploaded.
        repo_id: "owner/name", or "name" for the account's own.
        private: visibility of a repository that is created now; None is the account's default. True refuses a
            repository that is already public.
        revision: branch to push to, created when missing; or `refs/pr/N`, an open pull request.
        create_pr: propose the upload as a pull request. The repository must exist; a second push goes into the same
            open pull request.
        token: access token; None takes the one of `hf auth login` or HF_TOKEN.
        commit_message: message of the commit, and title of the pull request.
        tries: how often each step is tried while the connection breaks; `wait` seconds, doubled each time, between.
        report: called with the table of doors, before the upload.
        trust_remote_code, timeout, just_written: of the verification, see `suzoo.hub.check.open_doors`.

    Returns:
        URL of the repository, of the branch, or of the pull request.

    Raises:
        PushError: the Hub cannot be reached or refuses; one sentence says why.
        ValueError: the folder does not verify, so nothing was sent.
    """
    if tries < 1:
        raise ValueError(f"tries must be at least 1, not {tries}")
    if create_pr and revision is not None:
        raise PushError("a pull request is made against the main branch: give either create_pr or revision")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is not a repository name: owner/name, of letters, digits and -_.") from error
    if not (token or get_token()):
        raise PushError("not logged in to the Hub: run `hf auth login`, or set HF_TOKEN")
    check_folder(folder, report, trust_remote_code=trust_remote_code, timeout=timeout, just_written=just_written)

    folder = Path(folder)
    api = HfApi(token=token, library_name="suzoo")
    try:
        if create_pr:
            _retry(lambda: api.model_info(repo_id), tries, wait)
            number, status = _retry(lambda: _pull_request(api, repo_id, commit_message), tries, wait)
            revision = f"refs/pr/{number}"
        else:
            repo_id = _retry(lambda: _create(api, repo_id, private), tries, wait)
            if revision is not None and not revision.startswith("refs/"):
                _retry(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), tries, wait)
        _name_repository(folder, repo_id)
        _retry(
            lambda: api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                ignore_patterns=list(IGNORED),
            ),
            tries,
            wait,
        )
        if create_pr and status == "draft":
            _retry(lambda: api.change_discussion_status(repo_id, number, "open"), tries, wait)
    except (HTTPError, ConnectionError, TimeoutError, LocalTokenNotFoundError, RuntimeError) as error:
        cause = _cause(error)
        if isinstance(cause, RuntimeError):
            raise
        raise PushError(_explain(cause, api, repo_id, revision)) from error
    if create_pr:
        return f"{api.endpoint}/{repo_id}/discussions/{number}"
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")
