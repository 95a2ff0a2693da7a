"""`suzoo chat`, `score`, `summarize`, `slim-vocab`: the library's answers, line by line, and mistakes in a sentence."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import sys

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from suzoo.cli import main
from suzoo.data import add_tokens, num_ids
from suzoo.decoding import ChatSession, MMIReranker, bert4keras_beam_search
from suzoo.hub.golden import check_with_suzoo, write_golden
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM, UniLMForCausalLM
from tests.hub.folders import finish_language_run, make_language_model
from tests.test_cli import fails
from tests.tiny import tiny_config, tiny_tokenizer

TEXTS = ["今天天气很好", "", "a man sleeps", "他买了三本书" * 15, "a [SEP]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Read only: {name: folder} of saved language models."""
    root = tmp_path_factory.mktemp("cli-language-models")
    for name in ("dialogue", "gpt2", "unilm", "tta", "mlm"):
        model, tokenizer = make_language_model(name)
        if name == "dialogue":  # replies of several words, however random the weights
            model.generation_config.suppress_tokens = [3]
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


def talk(monkeypatch, *lines: str, terminal: bool = False) -> None:
    """What stdin will hold."""
    stdin = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()), encoding="utf-8")
    stdin.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdin", stdin)


def session(folder, **options) -> ChatSession:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    return ChatSession(model, tokenizer, **{"do_sample": False, "max_new_tokens": 6, **options})


# ---- chat


def test_piped_lines_are_answered_line_by_line(folders, monkeypatch, capsys):
    talk(monkeypatch, "今天天气很好", "", "  a man ", "/reset", "今天天气很好")
    assert main(["chat", str(folders["dialogue"]), "--greedy", "--max-new-tokens", "6"]) == 0
    expected = session(folders["dialogue"])
    first, second = expected.reply("今天天气很好"), expected.reply("a man")
    assert first and second
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [first, second, first, ""] and captured.err == ""


def test_sampling_follows_the_flags_and_the_seed(folders, monkeypatch, capsys):
    said = []
    for seed in ("1", "1", "2"):
        talk(monkeypatch, "a man", "x")
        arguments = ["chat", str(folders["gpt2"]), "--layout", "dialogpt", "--seed", seed, "--max-new-tokens", "9"]
        assert main([*arguments, "--top-k", "40", "--top-p", "0.99", "--temperature", "3"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_sampling_changes_in_a_chat(folders, monkeypatch, capsys):
    """From the next reply on: top_k 1 leaves one token, as greedy search does."""
    arguments = ["chat", str(folders["gpt2"]), "--layout", "dialogpt", "--max-new-tokens", "9", "--top-k", "40"]
    wrong = ["/set top_p 2", "/set top_k many", "/set beams 3", "/set temperature nan", "/set top_k"]
    talk(monkeypatch, *wrong, "/set top_k 1", "/set temperature=2", "a man", terminal=True)
    assert main(arguments) == 0
    said = capsys.readouterr()
    expected = session(folders["gpt2"], layout="dialogpt", max_new_tokens=9).reply("a man")
    assert said.out.replace("> ", "").strip() == expected
    for sentence in ["top_p 2.0", "not 'many'", "beams cannot be set", "temperature nan", "takes a number, not ''"]:
        assert sentence in said.err
    talk(monkeypatch, "/set top_p 0.9")
    assert main([*arguments, "--greedy"]) == 2
    assert "start without it" in capsys.readouterr().err


def test_a_history_is_continued_and_saved(folders, tmp_path, monkeypatch, capsys):
    arguments = ["chat", str(folders["dialogue"]), "--greedy", "--max-new-tokens", "6"]
    kept = tmp_path / "talk.json"
    talk(monkeypatch, "今天天气很好", f"/save {tmp_path / 'early.json'}", "/quit", "never said")
    assert main([*arguments, "--history", str(kept)]) == 0
    assert json.loads(kept.read_text())["turns"][0]["text"] == "今天天气很好"
    talk(monkeypatch, "a man")
    assert main([*arguments, "--history", str(kept)]) == 0
    talk(monkeypatch, "x", f"/load {tmp_path / 'early.json'}", "a man")
    assert main(arguments) == 0
    expected = session(folders["dialogue"])
    first, second = expected.reply("今天天气很好"), expected.reply("a man")
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[:2] == [first, second] and lines[3] == second
    assert f"saved 2 turns to {tmp_path / 'early.json'}" in said.err
    loaded = session(folders["dialogue"])
    loaded.load(kept)
    assert loaded.history == expected.history


def test_in_a_terminal_mistakes_do_not_end_the_conversation(folders, tmp_path, monkeypatch, capsys):
    talk(monkeypatch, "/help", "/load nowhere.json", "\u200b", "a man", terminal=True)
    monkeypatch.chdir(tmp_path)
    assert main(["chat", str(folders["dialogue"]), "--greedy", "--max-new-tokens", "6"]) == 0
    captured = capsys.readouterr()
    assert captured.out.replace("> ", "").strip() == session(folders["dialogue"]).reply("a man")
    assert "/reset forgets" in captured.err and "nowhere.json" in captured.err and "no tokens" in captured.err
    # the same through a pipe is an error, and the history so far is kept
    talk(monkeypatch, "a man", "/load nowhere.json", "x")
    assert main(["chat", str(folders["dialogue"]), "--greedy", "--history", "kept.json"]) == 2
    assert "nowhere.json: No such file" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "kept.json").read_text())["turns"]) == 2


def test_an_interrupted_reply_leaves_no_turn(folders, tmp_path, monkeypatch, capsys):
    original, calls = ChatSession._generate, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(ChatSession, "_generate", interrupted)
    history = tmp_path / "talk.json"
    arguments = ["chat", str(folders["dialogue"]), "--greedy", "--max-new-tokens", "6", "--history", str(history)]
    talk(monkeypatch, "x", "a man", terminal=True)
    assert main(arguments) == 0
    assert "forgotten" in capsys.readouterr().err
    assert json.loads(history.read_text())["turns"][0]["text"] == "a man"
    calls.clear()
    talk(monkeypatch, "x")
    assert main(arguments) == 130


def test_a_backward_model_chooses_among_candidates(folders, monkeypatch, capsys):
    said = {}
    for flags in (["--candidates", "8", "--backward", str(folders["dialogue"])], []):
        talk(monkeypatch, "今天天气很好", "a man")
        options = ["--seed", "3", "--max-new-tokens", "6", "--top-k", "40", "--consistent"]
        assert main(["chat", str(folders["dialogue"]), *options, *flags]) == 0
        said[bool(flags)] = capsys.readouterr().out
    assert said[True] != said[False]
    expected = session(folders["dialogue"])
    torch.manual_seed(3)
    options = {"do_sample": True, "max_new_tokens": 6, "top_k": 40, "consistent": True, "num_candidates": 8}
    reranker = MMIReranker(expected.model, expected.tokenizer)
    expected = ChatSession(expected.model, expected.tokenizer, reranker=reranker, **options)
    assert said[True] == "".join(f"{expected.reply(text)}\n" for text in ("今天天气很好", "a man"))
    talk(monkeypatch, "x")
    alone = ["chat", folders["dialogue"], "--candidates", "8"]
    assert "--backward and --candidates (2 or more) go together" in fails(capsys, *alone)
    assert "there is no folder nowhere here" in fails(capsys, *alone, "--backward", "nowhere")


def test_epsilon_ends_replies_and_summaries(folders, tmp_path, monkeypatch, capsys):
    lengths = {}
    (tmp_path / "in.txt").write_text(TEXTS[0], encoding="utf-8")
    for epsilon in ("0", "0.9"):
        talk(monkeypatch, "今天天气很好")
        options = ["--max-new-tokens", "20", "--self-terminating", epsilon]
        assert main(["chat", str(folders["gpt2"]), "--layout", "dialogpt", "--greedy", *options]) == 0
        assert main(["summarize", str(folders["unilm"]), str(tmp_path / "in.txt"), *options]) == 0
        lengths[epsilon] = [len(line) for line in capsys.readouterr().out.splitlines()]
    assert all(short < long / 2 for short, long in zip(lengths["0.9"], lengths["0"], strict=True))
    assert "epsilon is between 0 and 1" in fails(capsys, "chat", folders["dialogue"], "--self-terminating", "2")


# ---- score


def test_scores_are_those_of_the_model(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    arguments = ["score", str(folders["tta"]), str(tmp_path / "in.txt")]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    rows = [json.loads(line) for line in printed.splitlines()]
    model = TTAForMaskedLM.from_pretrained(folders["tta"])
    totals, means = model.score(TEXTS), model.score(TEXTS, per_token=True)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["score"] for row in rows] == pytest.approx(totals.tolist(), abs=1e-4)
    assert [row["per_token"] for row in rows] == pytest.approx(means.tolist(), abs=1e-5)
    assert [row["tokens"] for row in rows] == [6, 0, 3, 70, 4]  # 72 positions, [CLS] and [SEP] among them
    perplexity = math.exp(-float(totals.sum()) / 83)
    assert said == f"5 texts, 1 of them cut to the model's length, 83 tokens, pseudo-perplexity {perplexity:.2f}\n"
    for name in ("out.jsonl", "out.tsv"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "out.tsv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["text"] for row in table] == TEXTS
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]


def test_no_texts_have_no_scores(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("")
    assert main(["score", str(folders["tta"]), str(tmp_path / "in.txt")]) == 0
    printed, said = capsys.readouterr()
    assert printed == "" and said.startswith("0 texts")


# ---- summarize


def test_summaries_are_those_of_generate_texts(folders, tmp_path, monkeypatch, capsys):
    articles = [*TEXTS, "今天天气很好"]
    (tmp_path / "in.txt").write_text("\n".join(articles) + "\n", encoding="utf-8")
    model, tokenizer = (
        UniLMForCausalLM.from_pretrained(folders["unilm"]),
        AutoTokenizer.from_pretrained(folders["unilm"]),
    )
    options = {"max_new_tokens": 8, "num_beams": 2, "no_repeat_ngram_size": 2, "do_sample": False}
    expected = model.generate_texts(articles, **options)
    flags = ["--max-new-tokens", "8", "--num-beams", "2", "--no-repeat-ngram-size", "2"]
    arguments = ["summarize", str(folders["unilm"]), str(tmp_path / "in.txt"), *flags]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == expected and len(set(expected)) > 2
    for name in ("out.txt", "out.jsonl"):
        assert main([*arguments, "--output", str(tmp_path / name), "--batch-size", "2"]) == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines() == expected
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == [{"text": text, "summary": summary} for text, summary in zip(articles, expected, strict=True)]

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXTS[0].encode())))
    parity = ["summarize", str(folders["unilm"]), "-", "--bert4keras", "--max-new-tokens", "8", "--num-beams", "3"]
    capsys.readouterr()
    assert main(parity) == 0
    ids = tokenizer(TEXTS[0])["input_ids"]
    target = bert4keras_beam_search(model.eval(), ids, num_beams=3, max_new_tokens=8, end_id=tokenizer.sep_token_id)
    assert capsys.readouterr().out == tokenizer.decode(target, skip_special_tokens=True) + "\n"


# ---- slim-vocab


@pytest.mark.parametrize("name", ["dialogue", "unilm", "tta", "mlm"])
def test_a_slim_model_is_a_pair_with_its_tokenizer(folders, name, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("今天天气很好\na man sleeps\na man\n", encoding="utf-8")
    arguments = ["slim-vocab", str(folders[name]), str(tmp_path / "slim"), "--corpus", str(tmp_path / "corpus.txt")]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "slim", trust_remote_code=False)
    assert len(tokenizer) == 5 + 5 + 3  # special tokens, characters, words
    assert f"to {len(tokenizer)} tokens" in said
    assert float(re.search(r"differ by (\S+),", said)[1]) < 1e-5  # products of other shapes, computed one by one
    assert tokenizer.decode(tokenizer("今天天气很好 a man").input_ids, skip_special_tokens=True).startswith(
        "今天天气很好"
    )
    assert len({(tmp_path / "slim" / file).stat().st_mode for file in ("config.json", "model.safetensors")}) == 1
    config = json.loads((tmp_path / "slim/config.json").read_text())
    assert config["vocab_size"] == len(tokenizer) and config["architectures"] == [
        json.loads((folders[name] / "config.json").read_text())["architectures"][0]
    ]


def test_slimming_by_rule_and_what_could_be_verified_can_be_verified(tmp_path, capsys):
    finish_language_run("dialogue", tmp_path / "model")
    assert main(["slim-vocab", str(tmp_path / "model"), str(tmp_path / "slim"), "--bert4keras-rule"]) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "slim")) < len(
        AutoTokenizer.from_pretrained(tmp_path / "model")
    )
    assert check_with_suzoo(tmp_path / "slim").status == "ok"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"title": "a man a man"}\n{"title": "a dog"}\n')
    common = ["slim-vocab", str(tmp_path / "model"), str(tmp_path / "common"), "--corpus", str(corpus)]
    assert main([*common, "--column", "title", "--min-count", "2"]) == 0
    assert set(AutoTokenizer.from_pretrained(tmp_path / "common").get_vocab()) >= {"a", "man", "[SEP]"}
    assert "dog" not in AutoTokenizer.from_pretrained(tmp_path / "common").get_vocab()


def test_mistakes_are_one_sentence(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a\n")
    source = tmp_path / "in.txt"
    assert "use `suzoo summarize`" in fails(capsys, "chat", folders["unilm"])
    assert "not a causal language model" in fails(capsys, "chat", folders["mlm"])
    assert "give --layout" in fails(capsys, "chat", folders["gpt2"])
    assert "no folder" in fails(capsys, "chat", folders["gpt2"], "--history", tmp_path / "nowhere/talk.json")
    assert "under half of max_tokens" in fails(capsys, "chat", folders["dialogue"], "--max-tokens", 10)
    assert "not a T-TA model" in fails(capsys, "score", folders["mlm"], source)
    assert "not a UniLM model" in fails(capsys, "summarize", folders["tta"], source)
    assert "no room for a source" in fails(capsys, "summarize", folders["unilm"], source, "--max-new-tokens", 70)
    parity = ["summarize", folders["unilm"], source, "--bert4keras"]
    assert "no --no-repeat-ngram-size" in fails(capsys, *parity, "--no-repeat-ngram-size", 2)
    assert "must end in" in fails(capsys, "score", folders["tta"], source, "--output", tmp_path / "out.npy")
    assert "cannot load" in fails(capsys, "score", tmp_path, source)
    assert "not an empty folder" in fails(capsys, "slim-vocab", folders["tta"], tmp_path, "--bert4keras-rule")
    out = tmp_path / "out"
    rule = ["slim-vocab", folders["tta"], out, "--bert4keras-rule"]
    assert "--column is for" in fails(capsys, *rule, "--column", "text")
    mute = shutil.copytree(folders["tta"], tmp_path / "mute")
    for path in mute.glob("tokenizer*"):
        path.unlink()
    assert "no usable tokenizer" in fails(capsys, "score", mute, source)
    assert not out.exists() and not list(tmp_path.glob("*.npy"))
    with pytest.raises(SystemExit) as end:
        main(["slim-vocab", str(folders["tta"]), str(out)])
    assert end.value.code == 2 and "--corpus" in capsys.readouterr().err


def test_a_model_that_changes_is_not_written(folders, tmp_path, monkeypatch, capsys):
    from suzoo.data import vocabulary

    slim = vocabulary.slim_vocabulary

    def wrong_row(model, tokenizer, keep):
        slim_tokenizer = slim(model, tokenizer, keep)
        with torch.no_grad():
            model.get_input_embeddings().weight[6, 0] += 1
        return slim_tokenizer

    def wrong_case(model, tokenizer, keep):  # the pair agrees with itself; only the original tokenizer can tell
        state = json.loads(slim(model, tokenizer, keep).backend_tokenizer.to_str())
        state["normalizer"]["lowercase"] = not state["normalizer"]["lowercase"]
        return vocabulary._with_backend(tokenizer, Tokenizer.from_str(json.dumps(state)))

    (tmp_path / "corpus.txt").write_text("a man\nA Man\n")
    for wrong, reason in ((wrong_row, "answers differently"), (wrong_case, "reads 'A Man' otherwise")):
        monkeypatch.setattr(vocabulary, "slim_vocabulary", wrong)
        arguments = ["slim-vocab", folders["mlm"], tmp_path / "out", "--corpus", tmp_path / "corpus.txt"]
        said = fails(capsys, *arguments)
        assert reason in said and "nothing was written" in said and not (tmp_path / "out").exists()


def test_added_tokens_and_words_are_cut_with_the_rest(tmp_path, capsys):
    model, tokenizer = make_language_model("dialogue")
    tokenizer = add_tokens(tokenizer, ["[speaker1]", "[speaker2]"], special=True)
    model.resize_token_embeddings(num_ids(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-2:].normal_()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "corpus.txt").write_text("今天天气很好\na man sleeps\na man\nx\n", encoding="utf-8")
    (tmp_path / "words.txt").write_text("天气\nman\n今天\n", encoding="utf-8")
    arguments = ["slim-vocab", tmp_path / "model", tmp_path / "slim", "--corpus", tmp_path / "corpus.txt"]
    arguments += ["--min-count", "2", "--add-words", tmp_path / "words.txt"]
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().err
    slim = AutoTokenizer.from_pretrained(tmp_path / "slim")
    # 今天, 天气 and man are words; a and man stand twice in the corpus
    assert "2 of 3 words added" in said and f"to {len(slim)} tokens" in said and "MB of weights" in said
    assert re.search(r"to \d+ tokens.*, (\d+\.\d+)% of the corpus's pieces lost", said)
    text = "a[speaker1]天气[speaker2]man"
    old, new = (
        (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval(), AutoTokenizer.from_pretrained(tmp_path / name))
        for name in ("model", "slim")
    )
    ids = new[1](text, return_tensors="pt").input_ids
    pieces = new[1].convert_ids_to_tokens(ids[0])
    assert pieces == ["a", "[speaker1]", "天气", "[speaker2]", "man"]
    # without the word the models agree
    plain = "[CLS] a [speaker1] a man [speaker2]"
    logits = [m(t(plain, return_tensors="pt").input_ids).logits for m, t in (old, new)]
    common = [token for token in new[1].get_vocab() if token in old[1].get_vocab()]
    assert {"[speaker1]", "[speaker2]", "a", "man"} <= set(common)
    torch.testing.assert_close(
        logits[1][..., new[1].convert_tokens_to_ids(common)], logits[0][..., old[1].convert_tokens_to_ids(common)]
    )


@pytest.mark.parametrize("kind", ["encoder", "cross-encoder"])
def test_encoders_are_cut_as_what_they_are(kind, tmp_path, capsys):
    """The folder of a stock class and its side files: the same vectors and scores, by suzoo and after a reload."""
    tokenizer, texts = tiny_tokenizer(), ["今天天气很好", "a man is playing a flute"]
    torch.manual_seed(0)
    model = CoSENTModel(tiny_config(), pooling="mean", normalize=True, prompts={"query": "dog: "})
    if kind == "cross-encoder":
        model = CoSENTCrossEncoder(tiny_config(num_labels=1))
    model.eval()
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    write_golden(model, tokenizer, tmp_path / "model")
    (tmp_path / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    arguments = ["slim-vocab", tmp_path / "model", tmp_path / "slim", "--corpus", tmp_path / "corpus.txt"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "0.000% of the corpus's pieces lost" in capsys.readouterr().err
    slim = type(model).from_pretrained(tmp_path / "slim")
    assert slim.config.vocab_size < model.config.vocab_size
    if kind == "encoder":
        assert slim.pooling == "mean" and slim.normalize and slim.prompts == {"query": "dog: "}
        options = {"output": "torch", "prompt_name": "query"}  # a prompt whose words the corpus lacks
        expected, got = (m.encode(texts, tokenizer=t, **options) for m, t in ((model, tokenizer), (slim, None)))
    else:
        pair = [(texts[0], texts[1])]
        expected, got = (m.predict(pair, output="torch", tokenizer=t) for m, t in ((model, tokenizer), (slim, None)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert check_with_suzoo(tmp_path / "slim").status == "ok"
