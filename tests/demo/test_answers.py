"""What the demo says: the library's numbers, every character escaped, and a sentence for bad input."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import sys
from itertools import pairwise

import pytest

from suzoo.analysis import explain
from suzoo.cli import main
from suzoo.demo import answers
from suzoo.demo.models import TASKS, able, open_models
from suzoo.models import CoSENTModel
from tests.test_cli import fails

TEXTS = ["今天天气很好", "他买了三本书", "a <b>dog</b>"]


def cells(found: str) -> list[list[str]]:
    """The text of a table's cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
    parts = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in parts]


def plain(found: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", found))


def test_every_kind_of_folder_is_opened_as_itself(folders, opened):
    assert {kind: one.origin for kind, one in opened.items()} == folders
    assert all(not one.model.training for one in opened.values())
    assert [one.kind for one in able(list(opened.values()), "Search")] == ["encoder", "cross-encoder"]
    assert set().union(*TASKS.values()) == set(folders)


def test_names_are_short_where_that_is_enough(folders, tmp_path):
    again = tmp_path / "encoder"
    shutil.copytree(folders["encoder"], again)
    found = open_models([folders["encoder"], str(again), folders["encoder"], folders["tta"]])
    assert [one.name for one in found] == [folders["encoder"], str(again), "tta"]


def test_compare_shows_the_cosines(opened):
    found = answers.compare(opened["encoder"], "\n" + "\n\n".join(TEXTS))
    vectors = CoSENTModel.from_pretrained(opened["encoder"].origin).encode(TEXTS, normalize=True)
    rows = cells(found)
    assert [row[0] for row in rows] == ["", *(f"{number} {text}" for number, text in enumerate(TEXTS, 1))]
    assert [row[1:] for row in rows[1:]] == [[f"{cosine:.2f}" for cosine in row] for row in vectors @ vectors.T]
    assert "<b>dog" not in found
    best = max((float(vectors[i] @ vectors[j]), j, i) for i in range(3) for j in range(i))
    assert f"Most alike: {best[1] + 1} and {best[2] + 1}, with a cosine of {best[0]:.2f}." in found


def test_search_takes_the_encoders_best_in_the_cross_encoders_order(opened):
    encoder, reranker = opened["encoder"], opened["cross-encoder"]
    documents = ["a dog", "a man plays the flute", "今天天气很好", "他买了三本书", "nobody sleeps"]
    cosines = encoder.model.encode(documents, normalize=True) @ encoder.model.encode("a man", normalize=True)
    nearest = [documents[i] for i in (-cosines).argsort()]
    by_vectors = cells(answers.search(encoder, None, "a man", "\n".join(documents), 3))
    assert [row[2] for row in by_vectors[1:]] == nearest[:3]
    expected = [hit["text"] for hit in reranker.model.rank("a man", nearest[:3])]
    both = cells(answers.search(encoder, reranker, "a man", "\n".join(documents), 3))
    assert both[0] == ["#", "cosine", "score", "text"] and [row[3] for row in both[1:]] == expected
    by_pairs = cells(answers.search(None, reranker, "a man", "\n".join(documents), 3))
    assert [row[2] for row in by_pairs[1:]] == [hit["text"] for hit in reranker.model.rank("a man", documents)[:3]]


def test_a_query_is_encoded_with_its_prompt(opened):
    model = opened["encoder"].model
    with_prompts = CoSENTModel(model.config, model.encoder, pooling="mean", prompts={"query": "今天 "}).eval()
    one = opened["encoder"]._replace(model=with_prompts)
    with_prompts.tokenizer = one.tokenizer
    row = cells(answers.search(one, None, "a man", "a dog"))[1]
    query, document = (
        with_prompts.encode(text, prompt=prompt, normalize=True) for text, prompt in (("a man", "今天 "), ("a dog", ""))
    )
    assert row[1] == f"{query @ document:.3f}"


def test_a_reply_grows_and_ends_as_the_session_has_it(opened):
    session = answers.open_chat(opened["chat"])
    session.set_sampling(do_sample=False, top_k=1, top_p=1, temperature=1)
    parts = list(answers.stream_reply(session, " 今天 "))
    assert len(parts) > 3 and all(after.startswith(before) for before, after in pairwise(parts[:-1]))
    assert parts[-1] == session.history[1][1] and session.history[0] == ("user", "今天")
    second = list(answers.stream_reply(session, "a man"))[-1]
    plain_session = answers.open_chat(opened["chat"])
    plain_session.set_sampling(do_sample=False, top_k=1, top_p=1, temperature=1)
    assert [plain_session.reply("今天"), plain_session.reply("a man")] == [parts[-1], second]


def test_what_fails_while_a_reply_is_made_fails_where_it_is_read(opened):
    session = answers.open_chat(opened["chat"])
    session.reply = lambda text, streamer: (_ for _ in ()).throw(RuntimeError("no memory"))
    with pytest.raises(RuntimeError, match="no memory"):
        list(answers.stream_reply(session, "a"))
    reader = answers.stream_reply(answers.open_chat(opened["chat"]), "a man")
    next(reader)
    reader.close()  # a reader that goes away waits for the model and leaves no thread


def test_a_title_is_what_generate_texts_writes(opened):
    one = opened["unilm"]
    (expected,) = one.model.generate_texts(["今天"], tokenizer=one.tokenizer, num_beams=2, max_new_tokens=32)
    assert plain(answers.title(one, " 今天 ", num_beams=2)) == expected != ""


def test_spelling_marks_what_changes(opened):
    one = opened["tta"]
    text = "今天 <天> 我"
    found = answers.spelling(one, text)
    changes = one.model.suggest(text, tokenizer=one.tokenizer)
    assert changes and re.findall(r"<del[^>]*>(.*?)</del><ins>(.*?)</ins>", found) == [
        (html.escape(change.original), change.replacement) for change in changes
    ]
    corrected = list(text)
    for change in reversed(changes):
        corrected[change.start : change.end] = change.replacement
    assert html.escape("".join(corrected)) in found and f"{len(changes)} changed" in found
    assert answers.spelling(one, text, error_rate=1e-12) == "<p>The model changes nothing.</p>"


def test_scores_are_those_of_the_tokens(opened):
    one = opened["tta"]
    found = answers.scores(one, "今天 a <man>")
    tokens = one.model.score_tokens("今天 a <man>", tokenizer=one.tokenizer)
    assert cells(found)[1:] == [[t.text, f"{t.log_prob:.2f}", f"{math.exp(t.log_prob):.3f}"] for t in tokens]
    total = float(one.model.score(["今天 a <man>"], tokenizer=one.tokenizer)[0])
    assert f"Sum {total:.2f} nats" in found and f"perplexity {math.exp(-total / len(tokens)):.2f}" in found


@pytest.mark.parametrize("kind", TASKS["Explain"])
def test_explanations_of_every_kind(opened, kind):
    one = opened[kind]
    more = {"pair": "他买了三本书"} if kind == "encoder" else {"position": 1} if kind in ("tta", "masked-lm") else {}
    found = answers.explanation(one, "今天天气", **more)
    expected = explain(one.model, one.tokenizer, "今天天气", *([more["pair"]] if "pair" in more else []),
                       **({"position": 1} if "position" in more else {}))  # fmt: skip
    assert re.findall(r'title="([^"]+)"', found) == [f"{value:+.4f}" for value in expected.values]
    assert expected.target in plain(found)


def test_bad_input_is_a_sentence(opened):
    for message, answer in [
        (
            "write 2 to 30 sentences, one on each line: there are 1",
            lambda: answers.compare(opened["encoder"], "a\n \n"),
        ),
        ("there are 31", lambda: answers.compare(opened["encoder"], "a\n" * 31)),
        ("the query is empty", lambda: answers.search(opened["encoder"], None, " ", "a")),
        ("1 to 1000 documents", lambda: answers.search(opened["encoder"], None, "a", "")),
        ("no model to search with", lambda: answers.search(None, None, "a", "a")),
        ("the message is empty", lambda: list(answers.stream_reply(answers.open_chat(opened["chat"]), ""))),
        ("the article is empty", lambda: answers.title(opened["unilm"], "\n")),
        ("the text has 102 tokens and the model reads 72", lambda: answers.spelling(opened["tta"], "天" * 100)),
        ("the text has 102 tokens", lambda: answers.scores(opened["tta"], "天" * 100)),
        ("write the second one", lambda: answers.explanation(opened["encoder"], "a")),
        ("no class 'cats'; it has weather", lambda: answers.explanation(opened["classifier"], "a", target="cats")),
        ("position 9 is outside", lambda: answers.explanation(opened["tta"], "a", position=9)),
        ("the text has 102 tokens and the model has", lambda: answers.explanation(opened["classifier"], "天" * 100)),
    ]:
        with pytest.raises(ValueError, match=message):
            answer()
    assert answers.mistake("a < b") == "<p class=sz-mistake role=alert>A &lt; b.</p>"


def test_without_a_model_the_embedded_one_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("suzoo.demo.launch", lambda names, **options: shown.append(names))
    assert main(["demo"]) == 0
    (opened,) = open_models(*shown)
    assert (opened.name, opened.kind) == ("cosent-zh-mini", "encoder")


def test_the_command_says_what_is_missing(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "there is no folder" in fails(capsys, "demo", tmp_path / "nowhere")
    mute = shutil.copytree(folders["chat"], tmp_path / "mute")
    config = json.loads((mute / "config.json").read_text())
    del config["layout"]
    (mute / "config.json").write_text(json.dumps(config))
    assert "give --layout" in fails(capsys, "demo", mute)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "suzoo.demo.page", raising=False)
    assert 'pip install "suzoo[demo]"' in fails(capsys, "demo", folders["encoder"])
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
