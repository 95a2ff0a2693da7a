"""--data-weights in every script that takes several sources, --stream, and that such runs resume to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

from recipes import cosent, frame

import pytest
import train_classifier
import train_contrastive
import train_cosent
import train_cross_encoder
import train_dialogpt
import train_tta
import train_two_tasks
import train_unilm

from suzoo.data import embedded, read_pairs
from tests.training.scripts import cut_and_resumed, refused, run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--cpu-threads", "1", "--vocab-size", "300"]
CORPORA = {
    train_classifier: "classes_zh",
    train_contrastive: "queries_zh",
    train_cosent: "pairs_zh",
    train_cross_encoder: "pairs_zh",
    train_dialogpt: "dialogues_zh",
    train_tta: "text_zh",
    train_two_tasks: "pairs_zh",
    train_unilm: "titles_zh",
}


def sources(script, folder) -> list[str]:
    """Two files of 40 and 20 rows of a corpus."""
    rows = [*embedded.load(CORPORA[script], "train")][:60]
    for name, part in (("a", rows[:40]), ("b", rows[40:])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    files = [str(folder / f"{name}.jsonl") for name in "ab"]
    flags = (
        ["--micro-batch-tokens", "256"] if CORPORA[script][:4] in ("dial", "text", "titl") else ["--batch-size", "8"]
    )
    if script is train_cross_encoder:
        flags += ["--model", "None"]
    if script is train_tta:
        flags += ["--typos", "None"]
    return ["--data", *files, "--dev", files[1], *flags]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("script", CORPORA, ids=lambda script: script.__name__)
def test_no_recipe_brings_column_names_that_other_data_would_lack(script):
    assert [name for name, recipe in script.RECIPES.items() if recipe().columns] == []


@pytest.mark.parametrize("script", CORPORA, ids=lambda script: script.__name__)
def test_every_script_gives_its_batches_the_weights(tmp_path, monkeypatch, script):
    found = []

    def stop(*args, batches, **options):
        found.append(batches)
        raise Stopped

    monkeypatch.setattr(script, "fit", stop)
    flags = ["--output-dir", tmp_path / "run", *TINY, *sources(script, tmp_path), "--data-weights", "3", "1"]
    with pytest.raises(Stopped):
        run(monkeypatch, script, "quickstart", *flags)
    batches = getattr(found[0], "parts", {}).get("similarity", found[0])
    assert batches.mixture.sizes == [40, 20] and sum(batches.mixture.sizes) == len(batches.examples)
    assert batches.mixture.counts[0] == pytest.approx(3 * batches.mixture.counts[1], abs=2)  # in rows
    began = json.loads((tmp_path / "run/checkpoints/began.json").read_text())
    assert began["flags"]["data_weights"] == [3.0, 1.0] and began["data"]["train"]["weights"] == [3.0, 1.0]


STREAM = ["--stream", "--shuffle-buffer", "17"]


@pytest.mark.parametrize(
    ("script", "stream"),
    [(train_cosent, []), (train_unilm, STREAM), (train_tta, [*STREAM, "--objective", "mlm", "--max-scored", "0"])],
    ids=["cosent", "unilm-stream", "mlm-stream"],
)
def test_a_run_with_weights_that_was_cut_resumes_to_the_same_bits(tmp_path, monkeypatch, script, stream):
    monkeypatch.setattr(frame, "publish", lambda *args: None)
    flags = [
        *TINY,
        *sources(script, tmp_path),
        "--data-weights",
        "2",
        "0.5",
        "--max-steps",
        "5",
        "--save-every",
        "2",
        *stream,
    ]
    flags += ["--max-scored", "0"] if script is train_unilm else []
    cut_and_resumed(monkeypatch, script, tmp_path, *flags)
    record = json.loads((tmp_path / "cut/run.json").read_text())
    assert record["data"]["train"]["weights"] == [2.0, 0.5] and record["settings"]["data_weights"] == [2.0, 0.5]
    train = record["data"]["train"]
    assert train["rows"] == "stream" and train["content"] if stream else train["sizes"] == [40, 20]


def test_weights_that_fit_no_sources_are_one_sentence(tmp_path, monkeypatch, capsys):
    def message(*arguments):
        flags = ["--output-dir", tmp_path / "run", *TINY, *sources(train_cosent, tmp_path), *arguments]
        return refused(monkeypatch, capsys, train_cosent, "quickstart", *flags)

    assert "one number per source: 3 for 2 of --data" in message("--data-weights", "1", "2", "3")
    assert "--data-weights must be positive and finite, not 0" in message("--data-weights", "1", "0")
    assert "must be positive and finite, not inf" in message("--data-weights", "inf", "1")
    limited = message("--data-weights", "1", "1", "--max-train-samples", "30")
    assert "b.jsonl a share, and no row of it is read, or none that is new (--max-train-samples?)" in limited


def test_what_a_stream_does_not_take_is_one_sentence(tmp_path, monkeypatch, capsys):
    def message(script, *arguments):
        flags = ["--output-dir", tmp_path / "run", *TINY, *sources(script, tmp_path), "--stream", *arguments]
        return refused(monkeypatch, capsys, script, "quickstart", *flags)

    assert "--stream has no end: say with --max-steps" in message(train_tta)
    assert "--max-steps, and no --max-train-samples" in message(
        train_unilm, "--max-steps", "3", "--max-train-samples", "9"
    )
    assert "the 9 of a micro-batch" in message(train_dialogpt, "--max-steps", "3", "--micro-batch-tokens", "9")


def test_dev_data_with_splits_is_not_read_from_its_train_split(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.tsv").write_text("text1\ttext2\tlabel\n" + f"{name}\t好\t1\n")
    recipe = replace(cosent.finetune(), dev=str(tmp_path))
    source, split = recipe.dev_data
    (row,) = read_pairs(source, split=split)
    assert row.text1 == "validation"
    assert replace(recipe, dev_split="train").dev_data[1] == "train"
