"""Push a verified folder to the Hub, so that the repository is what was verified.

One commit brings what a model folder holds and deletes what would change how the repository opens; then the checksums
of the repository are compared with the folder's. Pushing again is harmless: what has not changed is neither sent nor
committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token
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

from suzoo import __version__
from suzoo.hub.check import check_folder
from suzoo.hub.contents import Content, contents_of, is_stale, left_out, named

MESSAGE = "Upload model with suzoo"
SIGNATURE = "Verified and pushed with suzoo"  # by it a push knows the commits of earlier ones
MOVED = 412  # somebody else has committed since the repository was read
RETRIED_STATUS = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


class PushError(ValueError):
    """The Hub refused the push or was not reached; the message says why and what to do."""


def _no_hub(api: HfApi, error: Exception) -> PushError:
    return PushError(f"{api.endpoint} answers as no Hub does ({type(error).__name__}): check HF_ENDPOINT and the proxy")


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


def _read_repository(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, RepoFile]]:
    """(commit, {path: file}) at the head of a branch or pull request."""
    head = api.model_info(repo_id, revision=revision).sha
    assert head is not None
    entries = api.list_repo_tree(repo_id, recursive=True, revision=head)
    return head, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(content: Content, stored: RepoFile | None) -> bool:
    if stored is None:
        return False
    return content.sha256 == stored.lfs.sha256 if stored.lfs else content.git_oid == stored.blob_id


def _differences(contents: dict[str, Content], stored: dict[str, RepoFile]) -> tuple[list[str], list[str]]:
    """(paths to send, paths to delete) that make the repository what the folder is."""
    send = [path for path, content in contents.items() if not _is_same(content, stored.get(path))]
    return send, [path for path in stored if path not in contents and is_stale(path)]


def _card_was_edited(api: HfApi, repo_id: str, head: str) -> bool:
    """True when the last commit that touched README.md was not one of `push`."""
    (readme,) = api.get_paths_info(repo_id, ["README.md"], revision=head, expand=True)
    assert isinstance(readme, RepoFile) and readme.last_commit is not None
    commits = {commit.commit_id: commit for commit in api.list_repo_commits(repo_id, revision=head)}
    last = commits.get(readme.last_commit.oid)
    return last is None or not (last.message.startswith(SIGNATURE) or last.title == MESSAGE)


def _upload(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    contents: dict[str, Content],
    *,
    message: str,
    card: Literal["keep", "replace"] | None,
    tries: int,
    wait: float,
    report: Callable[[str], None],
) -> None:
    """Commit until the repository holds `contents` and nothing stale; the last look at it is the proof."""
    gone: list[str] = []
    for attempt in range(tries):
        head, stored = _retry(lambda: _read_repository(api, repo_id, revision), tries, wait)
        if card == "keep" and "README.md" in stored:
            contents = {path: content for path, content in contents.items() if path != "README.md"}
        send, delete = _differences(contents, stored)
        if not send and not delete:
            break
        gone = delete or gone
        to_ask = card is None and "README.md" in send and "README.md" in stored
        if to_ask and _retry(lambda head=head: _card_was_edited(api, repo_id, head), tries, wait):
            raise PushError(
                f"README.md of {repo_id} was written or edited there: give --card keep to leave it as it is, or "
                "--card replace to put the folder's in its place"
            )
        operations = [CommitOperationAdd(path, contents[path].source) for path in send]
        deletions = [CommitOperationDelete(path) for path in delete]
        try:
            api.create_commit(
                repo_id,
                [*operations, *deletions],
                commit_message=message,
                commit_description=f"{SIGNATURE} {__version__}.",
                revision=revision,
                parent_commit=head,
            )
        except Exception as error:
            cause = _cause(error)
            moved = isinstance(cause, HfHubHTTPError) and cause.response.status_code == MOVED
            if attempt == tries - 1 or not (moved or _is_dropped(cause)):
                raise
            time.sleep(min(60.0, wait * 2**attempt))
            continue
        break
    if gone:
        report(f"deleted from {repo_id}, because the folder has no such file: {', '.join(gone)}")
    _, stored = _retry(lambda: _read_repository(api, repo_id, revision), tries, wait)
    send, delete = _differences(contents, stored)
    if send or delete:
        raise PushError(
            f"{repo_id} is not what was verified ({', '.join([*send, *delete][:5])}): the folder or the repository "
            "changed while it was pushed; push again"
        )


def check_rights(repo_id: str) -> str:
    """The account's name, when its token may write to `repo_id`; asked before a training, whose end would be too late.

    Raises:
        PushError: no token, one that is not accepted or only reads, or a namespace of others; or no connection.
    """
    if not get_token():
        raise PushError("not logged in to the Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="suzoo")
    try:
        account = api.whoami()
    except (HTTPError, ConnectionError, TimeoutError, LocalTokenNotFoundError, RuntimeError) as error:
        raise PushError(_explain(_cause(error), api, repo_id, None)) from error
    except ValueError as error:  # a page in place of JSON
        raise _no_hub(api, error) from error
    if not isinstance(account, dict) or "name" not in account:
        raise PushError(f"{api.endpoint} did not say whose the token is: it answers as no Hub does")
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise PushError("the token may only read: make one that writes, at the settings of your account")
    owner = repo_id.split("/")[0] if "/" in repo_id else account["name"]
    writes = {org["name"] for org in account.get("orgs") or () if org.get("roleInOrg") != "read"}
    if owner not in {account["name"], *writes}:
        raise PushError(f"the account {account['name']} has no right to write to {owner}: push to {account['name']}/…")
    return account["name"]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    card: Literal["keep", "replace"] | None = None,
    token: str | None = None,
    commit_message: str = MESSAGE,
    tries: int = 5,
    wait: float = 1.0,
    report: Callable[[str], None] = print,
    trust_remote_code: bool = False,
    timeout: float | None = None,
    just_written: bool = False,
) -> str:
    """Verify a saved model, then upload it. Run it again after an interruption: it goes on where it stopped.

    Sent is what `suzoo.hub.contents` lists: the model, its card, its record (without the paths of this machine). What
    the repository holds beyond that and would open as another model is deleted in the same commit.

    Args:
        folder: a saved model with `golden.safetensors`.
        repo_id: "owner/name", or "name" for the account's own.
        private: visibility of a repository that is created now; None is the account's default. True refuses a
            repository that is already public.
        revision: branch to push to, created when missing; or `refs/pr/N`, an open pull request.
        create_pr: propose the upload as a pull request. The repository must exist; a second push goes into the same
            open pull request.
        card: what becomes of a README.md that was written or edited on the Hub; None refuses the push.
        token: access token; None takes the one of `hf auth login` or HF_TOKEN.
        commit_message: message of the commit, and title of the pull request.
        tries: how often each step is tried while the connection breaks; `wait` seconds, doubled each time, between.
        report: called with the table of doors before the upload, and with what was left out or deleted.
        trust_remote_code, timeout, just_written: of the verification, see `suzoo.hub.check.open_doors`.

    Returns:
        URL of the repository, of the branch, or of the pull request.

    Raises:
        PushError: the Hub cannot be reached or refuses, or does not hold what was verified; one sentence says why.
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
    folder = Path(folder)
    contents = contents_of(folder) if folder.is_dir() else {}  # before it is verified: what changes after is noticed
    check_folder(folder, report, trust_remote_code=trust_remote_code, timeout=timeout, just_written=just_written)
    if others := left_out(folder, contents):
        report(f"not part of the model, and not sent: {', '.join(others)}")

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
        _upload(
            api,
            repo_id,
            revision,
            named(contents, repo_id),
            message=commit_message,
            card=card,
            tries=tries,
            wait=wait,
            report=report,
        )
        if create_pr and status == "draft":
            _retry(lambda: api.change_discussion_status(repo_id, number, "open"), tries, wait)
    except (HTTPError, ConnectionError, TimeoutError, LocalTokenNotFoundError, RuntimeError) as error:
        cause = _cause(error)
        if isinstance(cause, RuntimeError):
            raise
        raise PushError(_explain(cause, api, repo_id, revision)) from error
    except PushError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # a page, or {}, in place of an answer
        raise _no_hub(api, error) from error
    if create_pr:
        return f"{api.endpoint}/{repo_id}/discussions/{number}"
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")
