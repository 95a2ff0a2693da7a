"""push with the real huggingface_hub client against a Hub on the loopback interface."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from suzoo.hub import push as p
from suzoo.hub.card import REPO_PLACEHOLDER
from suzoo.hub.push import PushError, push
from suzoo.hub.verify import Door
from tests.hub.folders import open_doors_here, run_python

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


def test_push_then_load_by_name_in_every_way_of_the_card(
    hub, as_user, folder, cross_encoder_folder, tmp_path, monkeypatch
):
    """The folder is verified, pushed to a private repository, and every snippet of its README runs as it stands."""
    reranker = Path(shutil.copytree(cross_encoder_folder, tmp_path / "tiny-reranker"))
    as_user(hub, "hf_alice")
    open_doors_here(monkeypatch)
    tables = []
    assert push(folder, REPO, private=True, report=tables.append) == f"{hub.endpoint}/{REPO}"
    assert tables[0].count(" ok ") == 8
    monkeypatch.setattr(p, "check_folder", lambda folder, report, **options: [])  # once was enough
    push(reranker, "tiny-reranker", private=True)
    snippets = []
    for repo_id in [REPO, "alice/tiny-reranker"]:
        assert hub.repos[repo_id].private
        readme = hub.files(repo_id)["README.md"].decode()
        assert repo_id in readme and REPO_PLACEHOLDER not in readme
        blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        snippets += [block for block in blocks if "suzoo" not in block] + [b for b in blocks if "suzoo" in b]
    assert len(snippets) == 3 + 4
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
assert len(vectors) == 3 and len(rankings) == 2, results
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


def test_the_model_is_sent_whole_and_nothing_else(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    model = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        "checkpoints/optimizer.safetensors"
    }
    others = [".env", "train.tsv", "optimizer.pt", "optimizer.safetensors", "run.log", "try.ipynb", "helper.py"]
    for name in [*others, "data/rows.jsonl", "runs/events.out.tfevents.1", "__pycache__/helper.pyc"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not for others")
    said = []
    push(folder, REPO, report=said.append)
    stored = hub.files(REPO)
    assert set(stored) == model
    assert {"curves.png", "run.json", "metrics.jsonl", "1_Pooling/config.json"} <= model
    changed = {path for path, content in stored.items() if content != (folder / path).read_bytes()}
    assert changed == {"README.md", "run.json"}  # the name of the repository, and no local paths
    assert json.loads(stored["run.json"])["recipe"]["output_dir"] == "out"
    assert not hub.repos[REPO].private
    (sentence,) = said
    assert all(name in sentence for name in [*others, "checkpoints/", "data/", "runs/"])


def test_the_code_that_the_config_names_is_sent_and_no_other(hub, as_user, language_folders, tmp_path, trusting):
    folder = Path(shutil.copytree(language_folders["tta"], tmp_path / "tta"))
    code = {path.name for path in folder.glob("*.py")}
    (folder / "convert.py").write_text("import this")
    as_user(hub, "hf_alice")
    push(folder, REPO)
    assert {path for path in hub.files(REPO) if path.endswith(".py")} == code and "modeling_tta.py" in code


STALE = [
    *("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin", "tf_model.h5"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "sentence_bert_config.json", "vocab.txt"),
    *("2_Dense/config.json", "2_Dense/model.safetensors", ".eval_results/other__data.yaml", "onnx/model.onnx"),
    *("openvino/openvino_model.bin", "custom_generate/generate.py", "chat_template.jinja", "modeling_tta.py"),
]
KEPT = [".gitattributes", "LICENSE", "picture.png", "handler.py", "docs/how.md", "training_args.bin"]


def test_what_would_change_how_the_repository_opens_goes_in_the_same_commit(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    push(folder, REPO)
    hub.edit(REPO, dict.fromkeys([*STALE, *KEPT], b"old"))
    model = hub.files(REPO)["model.safetensors"]
    hub.edit(REPO, {"model.safetensors": b"other weights"})
    before, said = commits(hub), []
    push(folder, REPO, report=said.append)
    stored = hub.files(REPO)
    assert commits(hub) == before + 1 and stored["model.safetensors"] == model
    assert not set(STALE) & set(stored) and set(KEPT) <= set(stored)
    assert all(path in said[-1] for path in STALE)
    push(folder, REPO)
    assert commits(hub) == before + 1


def test_an_adapter_of_an_earlier_push_is_not_applied(hub, as_user, folder, trusting, tmp_path, monkeypatch):
    """The repository opens as the folder does, by name."""
    import peft

    from suzoo.models import CoSENTModel

    as_user(hub, "hf_alice")
    push(folder, "alice/base")
    model = CoSENTModel.from_pretrained(folder)
    expected = model.encode(["a man"])
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(model.encoder, lora).save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "alice/base"})
    )
    adapter = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir() if path.is_file()}
    push(folder, REPO)
    hub.edit(REPO, {name: content for name, content in adapter.items() if name != "README.md"})
    push(folder, REPO)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    opened = CoSENTModel.from_pretrained(REPO).encode(["a man"])
    assert abs(opened - expected).max() < 1e-6


def test_a_folder_that_changes_while_it_is_pushed_is_noticed(hub, as_user, folder, monkeypatch):
    def change(folder, report, **options):
        (folder / "metrics.json").write_text("{}")

    monkeypatch.setattr(p, "check_folder", change)
    as_user(hub, "hf_alice")
    with pytest.raises(
        PushError, match=r"is not what was verified \(metrics.json\): the folder or the repository changed"
    ):
        push(folder, REPO)
    monkeypatch.setattr(p, "check_folder", lambda folder, report, **options: [])
    push(folder, REPO)
    assert hub.files(REPO)["metrics.json"] == b"{}"


def test_a_commit_of_somebody_else_in_between_is_no_error(hub, as_user, folder, trusting, monkeypatch):
    as_user(hub, "hf_alice")
    push(folder, REPO)
    (folder / "metrics.json").write_text("{}")
    read, calls = p._read_repository, []

    def slow_reader(*arguments):
        answer = read(*arguments)
        if not calls:
            hub.edit(REPO, {"adapter_model.safetensors": b"late"})
        calls.append(answer)
        return answer

    monkeypatch.setattr(p, "_read_repository", slow_reader)
    push(folder, REPO, wait=0.01)
    stored = hub.files(REPO)
    assert stored["metrics.json"] == b"{}" and "adapter_model.safetensors" not in stored and len(calls) == 3


def test_a_card_edited_on_the_hub_is_not_overwritten_silently(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    push(folder, REPO, commit_message="first")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nours, second")
    push(folder, REPO, commit_message="second")  # what was never touched there follows the folder
    assert b"second" in hub.files(REPO)["README.md"]
    hub.edit(REPO, {"README.md": b"theirs"})
    hub.edit(REPO, {"LICENSE": b"MIT"})
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(
        PushError, match=r"README\.md of alice/tiny-cosent was written or edited there: give --card keep"
    ):
        push(folder, REPO)
    assert hub.files(REPO)["metrics.json"] != b"{}"
    push(folder, REPO, card="keep")
    assert hub.files(REPO)["README.md"] == b"theirs" and hub.files(REPO)["metrics.json"] == b"{}"
    with pytest.raises(PushError, match="--card replace"):  # kept once is not given up
        push(folder, REPO)
    push(folder, REPO, card="replace")
    assert b"ours, second" in hub.files(REPO)["README.md"] and hub.files(REPO)["LICENSE"] == b"MIT"
    before = commits(hub)
    push(folder, REPO)
    assert commits(hub) == before


def test_a_folder_without_a_card_leaves_the_one_there(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    push(folder, REPO)
    (folder / "README.md").unlink()
    before = hub.files(REPO)["README.md"]
    push(folder, REPO)
    assert hub.files(REPO)["README.md"] == before


def test_one_folder_goes_to_two_repositories_each_under_its_name(hub, as_user, folder, trusting):
    as_user(hub, "hf_alice")
    for repo_id in ("alice/one", "alice/two"):
        push(folder, repo_id)
        card = hub.files(repo_id)["README.md"].decode()
        assert repo_id in card and REPO_PLACEHOLDER not in card
    assert "alice/one" not in card and REPO_PLACEHOLDER in (folder / "README.md").read_text()


@pytest.mark.parametrize("pushes", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_pushes_over_a_bad_connection_are_bit_equal_and_say_no_token(
    pushes, hub, as_user, folder, trusting, caplog, capfd
):
    """A fifth of all requests fails. What was pushed is what is there, and the token stands in no log."""
    caplog.set_level(logging.DEBUG)
    as_user(hub, "hf_alice")
    push(folder, REPO)
    first = hub.files(REPO)
    hub.fail_often(0.2, seed=pushes)
    again = 0
    for number in range(pushes):
        (folder / "metrics.json").write_text(json.dumps({"dev": {"spearman": number}}))
        (folder / "model.safetensors").write_bytes(bytes([number]) * 1000)
        repo_id = f"alice/m{number % 7}"
        for _ in range(20):
            try:
                push(folder, repo_id, wait=0.001)
                break
            except PushError as error:
                assert "pushing again resumes" in str(error) or "refused the push" in str(error)
                again += 1
        stored = hub.files(repo_id)
        assert stored.keys() == first.keys()
        assert all(stored[path] == (folder / path).read_bytes() for path in set(stored) - {"README.md", "run.json"})
    assert again <= pushes // 4
    said = capfd.readouterr()
    assert "hf_alice" not in caplog.text + said.out + said.err


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
    (folder / "metrics.json").write_text("{}")
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


def test_a_page_in_place_of_any_answer_is_one_sentence(hub, as_user, folder, trusting):
    """As of a proxy that asks to log in, or {}: a sentence, and the next push makes the repository what it should be.

    An answer whose content nobody reads, as that to an upload, may be any page: the checksums are compared at the end.
    """
    as_user(hub, "hf_alice")
    push(folder, REPO)
    asked = list(dict.fromkeys(re.sub(r"/[0-9a-f]{40,}", "/[0-9a-f]+", request) for request in hub.requests))
    assert len(asked) > 5
    whole, refused = hub.files(REPO), []
    for number, request in enumerate(asked):
        for how in ("page", "nothing"):
            repo_id = f"alice/{how}{number}"
            hub.fail_next("^" + request.replace(REPO, repo_id) + "$", how)
            try:
                push(folder, repo_id, tries=2, wait=0.01)
            except PushError as error:
                refused.append(request)
                assert "\n" not in str(error) and "<html>" not in str(error), (request, how)
                push(folder, repo_id, tries=2, wait=0.01)
            hub.state.failures.clear()
            stored = hub.files(repo_id)
            assert stored.keys() == whole.keys() and stored["model.safetensors"] == whole["model.safetensors"]
    assert len(refused) > len(asked)


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
