"""The served page, asked as a program asks it: every task, a chat with its history, a sentence for bad input."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from suzoo.demo import answers
from suzoo.demo.models import TASKS

gradio_client = pytest.importorskip("gradio_client", reason='the demo needs gradio: pip install "suzoo[demo]"')


@pytest.fixture(scope="module")
def ask(served):
    """ask("name", inputs...): what the page answers; one user with one session."""
    client = gradio_client.Client(served.local_url, verbose=False)

    def ask(name: str, *inputs):
        return client.predict(*inputs, api_name=f"/{name}")

    ask.client = client
    return ask


def test_every_task_answers_as_its_function(ask, opened):
    encoder, cross_encoder, tta = opened["encoder"], opened["cross-encoder"], opened["tta"]
    assert ask("compare", "encoder", "a dog\n今天") == answers.compare(encoder, "a dog\n今天")
    found = ask("search", "encoder", "cross-encoder", "a man", "a dog\n今天", 5)
    assert found == answers.search(encoder, cross_encoder, "a man", "a dog\n今天", 5)
    assert ask("search", "none", "cross-encoder", "a man", "a dog\n今天", 5) == answers.search(
        None, cross_encoder, "a man", "a dog\n今天", 5
    )
    assert ask("title", "unilm", "今天", 2) == answers.title(opened["unilm"], "今天", 2)
    assert ask("spelling", "tta", "今天 我", 0.01) == answers.spelling(tta, "今天 我", 0.01)
    assert ask("scores", "tta", "今天") == answers.scores(tta, "今天")
    assert ask("explain", "classifier", "今天", "", "dogs", 0) == answers.explanation(
        opened["classifier"], "今天", target="dogs"
    )


def test_bad_input_is_a_sentence_in_the_answer(ask):
    assert ask("compare", "encoder", "") == answers.mistake("write 2 to 30 sentences, one on each line: there are 0")
    assert "role=alert" in ask("explain", "encoder", "a", "", "", 0)


def test_a_chat_has_a_history_that_is_saved_and_continued(ask, served, opened, tmp_path):
    """top_k 1 leaves one token: what greedy search says."""
    reference = answers.open_chat(opened["chat"])
    reference.set_sampling(do_sample=False, top_k=1, top_p=1, temperature=1)
    expected = [reference.reply(text) for text in ("今天天气很好", "a man")]
    said, talk = [], []
    for text in ("今天天气很好", "a man"):
        talk, message, note, saved = ask("chat", "chat", talk, text, 1, 1, 1)
        said.append("".join(part["text"] for part in talk[-1]["content"]))
        assert message == note == "" and [turn["role"] for turn in talk[-2:]] == ["user", "assistant"]
    assert said == expected and len(talk) == 4
    path = saved["value"] if isinstance(saved, dict) else saved
    history = json.loads(Path(path).read_text(encoding="utf-8"))
    assert [turn["text"] for turn in history["turns"]] == [text for _, text in reference.history]

    other = gradio_client.Client(served.local_url, verbose=False)
    talk, note, _ = other.predict("chat", gradio_client.handle_file(path), api_name="/restore")
    assert len(talk) == 4 and note == ""
    talk, *_ = other.predict("chat", talk, "x", 1, 1, 1, api_name="/chat")
    assert "".join(part["text"] for part in talk[-1]["content"]) == reference.reply("x")

    bad = tmp_path / "bad.json"
    bad.write_text("{")
    *_, note, _ = other.predict("chat", gradio_client.handle_file(str(bad)), api_name="/restore")
    assert re.search(r"role=alert>Bad.json is not JSON", note)
    talk, message, note, _ = ask("chat", "chat", talk, " ", 5, 1, 1)
    assert "The message is empty" in note and message == " "
    assert ask("forget")[0] == []


def test_the_tabs_are_those_of_the_models(opened):
    from suzoo.demo.page import page

    def labels(*kinds: str) -> list[str]:
        components = page([opened[kind] for kind in kinds], "x").config["components"]
        return [one["props"]["label"] for one in components if one["type"] == "tabitem"]

    assert labels("encoder") == ["Compare", "Search", "Explain"]
    assert labels("tta", "chat") == ["Chat", "Spelling", "Scores", "Explain"]
    assert labels(*opened) == list(TASKS)


def test_the_server_asks_no_other_machine(opened, monkeypatch):
    from suzoo.demo.page import serve

    asked, connect = [], socket.socket.connect

    def recording(self, address):
        asked.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", recording)
    app = serve([opened["encoder"]], title="x", host=None, port=None, block=False)
    try:
        assert app.local_url.startswith("http://127.0.0.1:")
    finally:
        app.close()
    assert {address[0] for address in asked if isinstance(address, tuple)} <= {"127.0.0.1", "localhost", "::1"}
