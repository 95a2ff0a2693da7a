"""The card holds what the run recorded, and nothing it did not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from suzoo.hub.card import REPO_PLACEHOLDER, eval_results, template_folder, write_card
from tests.hub.folders import LANGUAGE_MODELS, METRICS, RUN, finish_run, make_encoder


@pytest.fixture
def folder(encoder_folder, tmp_path) -> Path:
    return Path(shutil.copytree(encoder_folder, tmp_path / "tiny-cosent"))


def rewrite(folder: Path, name: str, record: dict) -> ModelCard:
    (folder / name).write_text(json.dumps(record))
    return ModelCard.load(write_card(folder))


def test_the_numbers_are_those_of_the_metrics_file(folder):
    card = ModelCard.load(folder / "README.md")
    (result, *_) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("spearman", 0.812345, "dev")
    assert "| dev | spearman | 0.8123 |" in card.text and "| train | loss | 1.2500 |" in card.text
    assert {result.dataset_split for result in card.data.eval_results} == {"dev"}  # the training loss is no evaluation
    changed = rewrite(folder, "metrics.json", {"test": {"spearman": 0.5, "rows": 7, "bad": float("nan")}})
    assert "| test | spearman | 0.5000 |" in changed.text and "| test | rows | 7 |" in changed.text
    assert "0.8123" not in changed.text and "bad" not in changed.text


def test_recipe_data_and_origin_are_those_of_the_run_record(folder):
    card = ModelCard.load(folder / "README.md")
    for part in ["| lr | 2e-05 |", RUN["command"], "`0123456789ab`", "seed 7", "`abababababababab`", "torch 2.13.0"]:
        assert part in card.text
    assert "/home/me" not in card.text  # where the author's files lie is nobody's business
    assert card.data.base_model == "some/base-model"
    assert card.data.datasets == ["sentence-transformers/stsb"]
    assert card.data.license is None and "Not declared" in card.text
    recipe = RUN["recipe"] | {"model": None, "license": "mit", "language": ["zh"]}
    card = rewrite(folder, "run.json", RUN | {"recipe": recipe, "synthetic": True})
    assert card.data.base_model is None and "random weights" in card.text
    assert (card.data.license, card.data.language) == ("mit", ["zh"])
    assert "synthetic" in card.text and "(synthetic)" in card.data.eval_results[0].dataset_name


def test_settings_without_effect_are_left_out_and_the_loss_is_named(folder):
    recipe = RUN["recipe"] | {"seed": 0, "warmup": 0.0, "hidden_size": 256, "compile": False, "loss": "sbert"}
    settings = {"warmup": 0.0, "loss": "sbert", "vocabulary": "/home/me/tokenizer"}  # as the script chose them
    data = {"train": {"source": "/home/me/pairs.tsv", "rows": 2, "sha256": "ab"}}
    text = rewrite(folder, "run.json", RUN | {"recipe": recipe, "settings": settings, "data": data}).text
    assert "| loss | sbert |" in text and "| warmup | 0.0 |" in text and "seed 0" in text
    assert "as Sentence-BERT" in text and "CoSENT learns" not in text
    assert not any(f"| {field} |" in text for field in ["hidden_size", "compile"])
    assert "| pairs.tsv | 2 |" in text and "| vocabulary | tokenizer |" in text and "/home/me" not in text
    # a record without them, of another script: what has a value
    text = rewrite(folder, "run.json", RUN | {"recipe": recipe | {"model": None, "loss": "cosent"}}).text
    assert "| hidden_size | 256 |" in text and "with the CoSENT loss" in text and "| compile |" not in text


def test_eval_results_are_written_for_hub_datasets_only(folder):
    (path,) = (folder / ".eval_results").iterdir()
    assert path.name == "sentence-transformers__stsb.yaml"
    (entry,) = yaml.safe_load(path.read_text())
    assert entry["dataset"] == {"id": "sentence-transformers/stsb", "task_id": "dev"} and entry["value"] == 0.812345
    assert eval_results(RUN | {"synthetic": True}, METRICS) == {}
    assert eval_results(RUN | {"data": {"dev": {"source": "dev.tsv"}}}, METRICS) == {}
    huggingface_hub = pytest.importorskip("huggingface_hub._eval_results")  # not in every 1.x
    (parsed,) = huggingface_hub.parse_eval_result_entries([entry])
    assert (parsed.dataset_id, parsed.task_id, parsed.value) == ("sentence-transformers/stsb", "dev", 0.812345)


def test_cross_encoder_and_first_last_avg_have_cards_of_their_own(cross_encoder_folder, tmp_path):
    card = ModelCard.load(cross_encoder_folder / "README.md")
    assert card.data.pipeline_tag == "text-ranking" and "CrossEncoder(" in card.text
    assert "SentenceTransformer(" not in card.text
    card = ModelCard.load(finish_run(make_encoder("first-last-avg", "distilbert"), tmp_path / "fla") / "README.md")
    assert card.data.library_name == "transformers" and "SentenceTransformer(" not in card.text
    assert "opens only as `CoSENTModel`" in card.text


def test_what_is_missing_is_named(folder):
    (folder / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"metrics\.json is missing"):
        write_card(folder)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json lacks synthetic"):
        rewrite(folder, "run.json", {key: value for key, value in RUN.items() if key != "synthetic"})
    with pytest.raises(ValueError, match="rows"):
        rewrite(folder, "run.json", RUN | {"data": {"train": {"source": "x"}}})
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        write_card(folder)


def test_the_template_names_the_repository_only_by_the_placeholder(folder):
    """push replaces it, so it must be there and nothing else may stand for it."""
    text = (folder / "README.md").read_text()
    assert text.count(REPO_PLACEHOLDER) >= 5
    assert (template_folder() / "cosent.md").is_file()


# ---- language models


def python_blocks(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_code_of_the_card_runs_on_the_folder(name, language_folders):
    """Where suzoo is imported the remote code is suzoo's; that it is the folder's elsewhere is for the doors to say."""
    folder = language_folders[name]
    card = ModelCard.load(folder / "README.md")
    blocks = python_blocks(card)
    assert len(blocks) == {"blog": 3, "dialogue": 3, "gpt2": 2, "unilm": 3, "tta": 3, "mlm": 2}[name]
    own_code = name in ("blog", "unilm", "tta")
    assert ("trust_remote_code=True" in card.text) == own_code == bool(list(folder.glob("*.py")))
    for block in blocks:
        found: dict = {}
        exec(compile(block.replace(REPO_PLACEHOLDER, str(folder)), f"card of {name}", "exec"), found)
        for text in ("reply", "target", "best"):
            assert isinstance(found.get(text, ""), str)
    if name == "tta":
        assert set(found) >= {"TTAForMaskedLM", "log_likelihoods"} and found["log_likelihoods"].shape == (1,)


@pytest.mark.parametrize(
    ("name", "tag", "task"),
    [
        ("blog", "text-generation", "text-generation"),
        ("unilm", "text-generation", "summarization"),
        ("tta", "fill-mask", "fill-mask"),
        ("mlm", "fill-mask", "fill-mask"),
    ],
)
def test_language_model_cards_tell_the_hub_what_they_are(name, tag, task, language_folders):
    card = ModelCard.load(language_folders[name] / "README.md")
    assert card.data.pipeline_tag == tag and card.data.library_name == "transformers"
    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == (task, "perplexity", 12.345678)
    assert "| dev | perplexity | 12.3457 |" in card.text and "sentence-transformers" not in card.data.tags
    assert "CoSENT" not in card.text and ("t-ta" in card.data.tags) == (name == "tta")
    widget = card.data.to_dict()["widget"]
    assert ("messages" in widget[0]) == (name == "blog") and (name == "blog" or widget[0]["text"])


def test_a_backward_model_says_so(language_folders, tmp_path):
    folder = Path(shutil.copytree(language_folders["dialogue"], tmp_path / "backward"))
    card = rewrite(folder, "run.json", RUN | {"recipe": RUN["recipe"] | {"reverse": True}})
    assert "A backward model" in card.text and "| reverse | True |" in card.text
