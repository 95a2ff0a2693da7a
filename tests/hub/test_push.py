"""push with the real huggingface_hub client against a Hub on the loopback interface."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from suzoo.hub import push as p
from suzoo.hub.card import REPO_PLACEHOLDER
from suzoo.hub.push import PushError, push
from suzoo.hub.verify import Door
from tests.hub.folders import opens_remote_code_over_a_stock_config, run_python

REPO = "alice/tiny-cosent"


@pytest.fixture
def folder(encoder_folder, tmp_path) -> Path:
    """A copy, because push writes the repository's name into the card."""
    return Path(shutil.copytree(encoder_folder, tmp_path / "tiny-cosent"))


@pytest.fixture
def trusting(monkeypatch):
    """push without the seconds of verification, for what is about the transport."""
    monkeypatch.setattr(p, "check_folder", lambda folder, report, **options: [])


def commits(hub, repo_id: str = REPO) -> int:
    return len(hub.repos[repo_id].messages) - 1  # without the initial one


@opens_remote_code_over_a_stock_config
def test_push_then_load_by_name_in_every_way_of_the_card(
    hub, as_user, folder, cross_encoder_folder, tmp_path, monkeypatch
):
    """The folder is verified, pushed to a private repository, and every snippet of its README runs as it stands."""
    reranker = Path(shutil.copytree(cross_encoder_folder, tmp_path / "tiny-reranker"))
    as_user(hub, "hf_alice")
    tables = []
    assert push(folder, REPO, private=True, report=tables.append) == f"{hub.endpoint}/{REPO}"
    assert tables[0].count(" ok ") == 4
    monkeypatch.setattr(p, "check_folder", lambda folder, report, **options: [])  # once was enough
    push(reranker, "tiny-reranker", private=True)
    snippets = []
    for repo_id in [REPO, "alice/tiny-reranker"]:
        assert hub.repos[repo_id].private
        readme = hub.files(repo_id)["README.md"].decode()
        assert repo_id in readme and REPO_PLACEHOLDER not in readme
        blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        snippets += [block for block in blocks if "suzoo" not in block] + [b for b in blocks if "suzoo" in b]
    assert len(snippets) == 4 + 5
    code = f"""
import sys
sys.modules["suzoo"] = None  # importing it now raises
snippets = {snippets!r}
results = []
for i, snippet in enumerate(snippets):
    if "suzoo" in snippet:
        sys.modules.pop("suzoo", None)
    names = {{}}
    exec(snippet, names)
    if "vectors" in names:
        results.append(("vectors", [[float(x) for x in row] for row in names["vectors"]]))
    if "ranking" in names:
        results.append(("ranking", [(hit["corpus_id"], float(hit["score"])) for hit in names["ranking"]]))
    if "suzoo" in snippet:
        sys.modules["suzoo"] = None
vectors = [value for kind, value in results if kind == "vectors"]
rankings = [value for kind, value in results if kind == "ranking"]
assert len(vectors) == 4 and len(rankings) == 3, results
import numpy as np
unit = [np.array(v) / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
for other in unit[1:]:
    np.testing.assert_allclose(unit[0], other, atol=1e-5)
for other in rankings[1:]:
    assert [i for i, _ in other] == [i for i, _ in rankings[0]]
    np.testing.assert_allclose([s for _, s in rankings[0]], [s for _, s in other], atol=1e-5)
print("all equal")
"""
    done = run_python(code, tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_alice")
    assert done.returncode == 0 and "all equal" in done.stdout, done.stderr


def test_upload_is_complete_and_leaves_checkpoints_out(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    push(folder, REPO)
    stored = hub.files(REPO)
    local = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(stored) == {path for path in local if not path.startswith("checkpoints/")}
    assert all(content == (folder / path).read_bytes() for path, content in stored.items())
    assert {"curves.png", "run.json", "metrics.jsonl", "1_Pooling/config.json"} <= set(stored)
    assert not hub.repos[REPO].private


def test_pushing_again_changes_nothing_and_a_change_is_one_commit(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    first = push(folder, REPO)
    assert push(folder, REPO) == first and commits(hub) == 1
    puts = [request for request in hub.requests if request.startswith("PUT")]
    (folder / "metrics.json").write_text('{"dev": {"spearman": 0.9}}')
    push(folder, REPO)
    assert commits(hub) == 2 and b"0.9" in hub.files(REPO)["metrics.json"]
    assert [request for request in hub.requests if request.startswith("PUT")] == puts  # no weight is sent twice


@pytest.mark.parametrize("how", ["drop before reading", "drop after applying", "503"])
@pytest.mark.parametrize("step", ["POST /api/repos/create", "PUT /lfs", r"POST /api/models/.*/commit/"])
def test_a_broken_connection_is_resumed(hub, as_user, folder, trusting, step, how):
    as_user(hub, "hf_alice")
    hub.fail_next(step, how, times=2)
    push(folder, REPO, wait=0.01)
    assert commits(hub) == 1 and hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert all(left < 2 for _, left, _ in hub.state.failures)


def test_a_connection_that_stays_broken_ends_in_one_sentence_and_the_next_push_resumes(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    hub.fail_next("/commit/", "drop before reading", times=3)
    with pytest.raises(PushError, match=r"^no connection to .*: check the network; pushing again resumes$"):
        push(folder, REPO, tries=3, wait=0.01)
    puts = [request for request in hub.requests if request.startswith("PUT")]
    assert commits(hub) == 0 and puts
    push(folder, REPO)
    assert commits(hub) == 1
    assert [request for request in hub.requests if request.startswith("PUT")] == puts  # the weights were already there


def test_a_branch_is_created_once(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    assert push(folder, REPO, revision="v1") == f"{hub.endpoint}/{REPO}/tree/v1"
    push(folder, REPO, revision="v1")
    assert hub.files(REPO, "main") == {} and "model.safetensors" in hub.files(REPO, "v1")
    assert commits(hub) == 1


def test_a_pull_request_is_opened_once_and_only_proposes(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    push(folder, REPO)
    as_user(hub, "hf_bob")
    (folder / "metrics.json").write_text("{}")
    hub.fail_next("/commit/", "drop after applying")
    url = push(folder, REPO, create_pr=True, wait=0.01)
    assert url == f"{hub.endpoint}/{REPO}/discussions/1"
    assert push(folder, REPO, create_pr=True) == url
    assert [pull["status"] for pull in hub.repos[REPO].pull_requests] == ["open"]
    assert hub.files(REPO, "refs/pr/1")["metrics.json"] == b"{}" != hub.files(REPO)["metrics.json"]
    assert push(folder, REPO, create_pr=True, commit_message="another change").endswith("/2")


def test_every_refusal_is_one_sentence(hub, as_user, folder, trusting):
    def refused(pattern: str, repo_id: str = REPO, **options):
        with pytest.raises(PushError, match=pattern) as caught:
            push(folder, repo_id, tries=2, wait=0.01, **options)
        assert "\n" not in str(caught.value)

    as_user(hub, None)
    refused("not logged in to the Hub")
    as_user(hub, "hf_wrong")
    refused("does not accept the token")
    as_user(hub, "hf_alice")
    push(folder, REPO)
    refused("is not a repository name", "not a name!")
    refused("alice/nothing does not exist on", "alice/nothing", create_pr=True)
    refused("has no revision 'refs/pr/9'", revision="refs/pr/9")
    refused("either create_pr or revision", create_pr=True, revision="v1")
    refused("exists and is public", private=True)
    as_user(hub, "hf_bob")
    refused("no right to write to alice/tiny-cosent.*--create-pr")
    refused("no right to write to alice/new", "alice/new")
    assert commits(hub) == 1 and list(hub.repos) == [REPO]
    as_user("http://127.0.0.1:9", "hf_alice")  # nobody listens on the discard port
    refused("no connection to http://127.0.0.1:9")


@pytest.mark.parametrize("step", ["/commit/", "PUT /lfs"])  # the client wraps the second in a RuntimeError
def test_a_server_that_refuses_is_quoted(hub, as_user, folder, trusting, step):
    as_user(hub, "hf_alice")
    hub.fail_next(step, "413")
    with pytest.raises(PushError, match="refused the push to alice/tiny-cosent: on demand"):
        push(folder, REPO)


def test_offline_mode_is_named(hub, as_user, folder, trusting, monkeypatch):
    as_user(hub, "hf_alice")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        push(folder, REPO)


def test_a_model_that_cannot_be_had_by_name_is_one_sentence(
    hub, as_user, folder, trusting, tmp_path, capsys, monkeypatch
):
    from suzoo.cli import main

    as_user(hub, "hf_alice")
    push(folder, REPO, private=True)
    (tmp_path / "in.txt").write_text("a\n")
    arguments = ["encode", REPO, str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npy"), "--overwrite"]
    assert main(arguments) == 0
    for token, options, reason in [
        ("hf_alice", ["--revision", "v9"], "v9 is not a valid git identifier"),
        ("hf_bob", [], "nor a model of the Hub that this account may see"),
        (None, [], "nor a model of the Hub that this account may see"),
        ("hf_wrong", [], "does not accept the token"),
    ]:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache of {token}"))
        as_user(hub, token)
        capsys.readouterr()
        assert main([*arguments, *options]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"suzoo encode: cannot load {REPO}: ") and reason in message
        assert message.count("\n") == 1


def test_what_does_not_verify_is_not_pushed(hub, as_user, folder, monkeypatch):
    monkeypatch.setattr(
        "suzoo.hub.check.verify", lambda folder, **options: [Door("AutoModel", "failed", 1.0, "differs")]
    )
    as_user(hub, "hf_alice")
    with pytest.raises(ValueError, match=r"does not verify: AutoModel$"):
        push(folder, REPO, just_written=True)
    assert hub.repos == {} and hub.requests == []
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="is not a folder"):
        push(folder, REPO, just_written=True)
