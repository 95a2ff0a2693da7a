"""The card holds what the run recorded, and nothing it did not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from suzoo.hub._examples import EXAMPLES
from suzoo.hub.card import (
    OWN_CODE_NEEDS,
    REPO_PLACEHOLDER,
    STOCK_NEEDS,
    STOCK_NEEDS_SENTENCE_TRANSFORMERS,
    eval_results,
    template_folder,
    write_card,
)
from suzoo.hub.citations import CHOICES, POSITIONS, SWITCHES, read_entries
from suzoo.hub.contents import contents_of
from suzoo.hub.public import public_name
from suzoo.hub.tasks import TASKS
from suzoo.losses.citations import BIBTEX, cite
from suzoo.models import CoSENTModel
from tests.hub.folders import LANGUAGE_MODELS, METRICS, RUN, finish_run, make_encoder
from tests.tiny import tiny_tokenizer


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
    assert "Trained on synthetic text" in card.text
    assert "synthetic" not in card.data.eval_results[0].dataset_name  # it was scored on real text


def test_a_member_of_the_zoo_says_what_it_was_made_of(folder):
    sources = [
        {"file": "pairs.tsv", "used_for": "test", "repository": "github.com/owner/pairs", "licence": "CC BY 4.0"}
    ]
    data = RUN["data"] | {"test": {"source": "pairs.tsv", "rows": 7, "sha256": "0" * 64}}
    data["dev"] = {"source": "embedded:pairs_zh", "rows": 5, "sha256": "1" * 64}
    (folder / "metrics.json").write_text(json.dumps(METRICS | {"test": {"spearman": 0.7}}))
    record = {
        "recipe": RUN["recipe"] | {"model": "./base"},
        "base_model": "owner/base",
        "sources": sources,
        "data": data,
    }
    card = rewrite(folder, "run.json", RUN | record)
    assert card.data.base_model == "owner/base" and "Started from owner/base" in card.text
    assert (
        "| pairs.tsv | test | github.com/owner/pairs | CC BY 4.0 |" in card.text
        and "Trained on synthetic" not in card.text
    )
    named = {result.dataset_split: result.dataset_name for result in card.data.eval_results}
    assert named["test"] == "pairs.tsv" and named["dev"] == "embedded:pairs_zh (synthetic)"


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
    assert "no form in sentence-transformers" in card.text and "hidden_states" in card.text


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


# ---- what is said to people of other languages, and what is nobody's business


@pytest.mark.parametrize(
    ("languages", "text"), [(["zh"], "今天天气真好"), (["en"], "The weather"), (["fr", "ja"], "今日")]
)
def test_examples_are_in_the_language_of_the_data(folder, languages, text):
    data = {split: part | {"languages": languages} for split, part in RUN["data"].items()}
    card = rewrite(folder, "run.json", RUN | {"data": data})
    assert card.data.language == languages
    assert f'model.encode(["{text}' in card.text
    assert card.data.to_dict()["widget"][0]["source_sentence"].startswith(text)
    others = {"zh": "天气", "en": "weather", "ja": "天気"}
    assert not any(word in card.text for code, word in others.items() if code not in languages)
    recipe = RUN["recipe"] | {"language": ["ko"]}
    assert rewrite(folder, "run.json", RUN | {"recipe": recipe}).data.language == ["ko"]  # who says so knows better


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("language", EXAMPLES)
def test_the_code_of_the_card_is_python_in_every_language(name, language, language_folders, tmp_path):
    folder = Path(shutil.copytree(language_folders[name], tmp_path / name))
    card = rewrite(folder, "run.json", RUN | {"recipe": RUN["recipe"] | {"language": [language]}})
    for block in python_blocks(card):
        compile(block, "card", "exec")
    assert "{mask}" not in card.text
    if name in ("mlm", "tta"):
        assert EXAMPLES[language].masked.format(mask="[MASK]") in card.text
        assert card.data.to_dict()["widget"] == [{"text": EXAMPLES[language].masked.format(mask="[MASK]")}]


def test_examples_stand_in_code_and_keep_their_promises():
    for texts in EXAMPLES.values():
        assert not any(sign in text for text in texts for sign in '"\\\n')
        assert len(texts.typo) == len(texts.corrected) and texts.typo != texts.corrected


def test_the_vocabulary_is_counted_and_not_what_was_asked_for(folder):
    recipe = RUN["recipe"] | {"model": None, "vocab_size": 8000}
    text = rewrite(folder, "run.json", RUN | {"recipe": recipe}).text
    assert f"| vocab_size | {len(tiny_tokenizer())} |" in text and "8000" not in text
    assert f"The tokenizer knows {len(tiny_tokenizer())} tokens" in text


def test_every_method_of_the_recipe_is_cited_once(folder, language_folders, tmp_path):
    recipe = RUN["recipe"] | {"optimizer": "lion", "fgm": 0.1, "pgd": 0.0, "lora_r": 8, "weighting": "pcgrad"}
    run = RUN | {"recipe": recipe, "citations": cite("cosent_loss", "rdrop_loss")}
    text = rewrite(folder, "run.json", run).text
    keys = re.findall(r"@\w+\{(\w+),", text)
    assert set(keys) == {
        *("arxiv230206675", "kexue9473", "kexue7234", "arxiv160507725", "arxiv210609685", "kexue8896"),
        *("arxiv200106782", "cosent2024", "kexue8847", "arxiv210614448", "kexue8496"),
    }
    assert len(keys) == len(set(keys))
    keys = {
        name: re.findall(r"\{(\w+),\n", (language_folders[name] / "README.md").read_text()) for name in LANGUAGE_MODELS
    }
    assert keys["unilm"] == ["kexue6933", "arxiv190503197"] and keys["tta"] == ["kexue7661", "arxiv200408097"]
    assert keys["blog"] == ["kexue7718", "arxiv191100536", "arxiv190900204"] and keys["mlm"] == ["arxiv181004805"]


def test_every_key_has_an_entry_and_every_entry_a_method():
    entries = read_entries((template_folder() / "citations.bib").read_text())
    tables = [{kind: task.citations for kind, task in TASKS.items()}, POSITIONS, SWITCHES, *CHOICES.values()]
    assert {key for table in tables for keys in table.values() for key in keys} == set(entries)
    losses = read_entries(cite(*BIBTEX))
    assert not set(entries) & set(losses)


def test_the_card_says_which_versions_it_needs(language_folders, encoder_folder):
    for name in LANGUAGE_MODELS:
        text = (language_folders[name] / "README.md").read_text()
        needs = OWN_CODE_NEEDS if "trust_remote_code=True" in text else STOCK_NEEDS
        assert f"opens with transformers {needs} or later" in text
    needs = f"transformers {STOCK_NEEDS} and sentence-transformers {STOCK_NEEDS_SENTENCE_TRANSFORMERS}"
    assert f"opens with {needs} or later" in (encoder_folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/home/me/data/pairs.tsv", "pairs.tsv"),
        ("~/models/bert/", "bert"),
        ("../vocabulary", "vocabulary"),
        ("data/train.jsonl", "train.jsonl"),
        ("runs/2026/out", "out"),
        ("C:\\Users\\me\\pairs.tsv", "pairs.tsv"),
        ("--data=/home/me/pairs.tsv", "--data=pairs.tsv"),
        ("--columns", "--columns"),
        ("text1=sentence1", "text1=sentence1"),
        ("hfl/chinese-macbert-base", "hfl/chinese-macbert-base"),
        ("sentence-transformers/stsb", "sentence-transformers/stsb"),
        ("embedded:pairs_zh", "embedded:pairs_zh"),
        ("betas=(0.95,0.98)", "betas=(0.95,0.98)"),
        ("hf://datasets/a/b/c.parquet", "hf://datasets/a/b/c.parquet"),
    ],
)
def test_local_paths_become_names(text, name):
    assert public_name(text) == name


def test_of_several_sources_each_is_named(folder):
    data = {
        "train": {"source": "a/b /home/me/x.tsv data/*.jsonl", "rows": 2, "sha256": "ab", "hub_id": "a/b"},
        "dev": {"source": "a/b c/d", "rows": 2, "sha256": "ab", "hub_id": ["a/b", "c/d"]},
    }
    card = rewrite(folder, "run.json", RUN | {"data": data})
    assert "| train | a/b x.tsv *.jsonl | 2 |" in card.text and card.data.datasets == ["a/b", "c/d"]
    assert eval_results(RUN | {"data": data}, METRICS) == {}  # one number of two data sets belongs on no leaderboard


def test_nothing_that_is_pushed_says_where_things_lie(folder, tmp_path):
    """The record, the card, and whatever transformers writes into a folder about where a model came from."""
    secret = tmp_path / "secret-place"
    shutil.copytree(folder, secret / "base")
    model = CoSENTModel.from_pretrained(secret / "base")
    _ = model.tokenizer
    model.save_pretrained(folder)
    recipe = RUN["recipe"] | {
        "model": f"{secret}/base",
        "vocabulary": f"{secret}/vocab",
        "confusion": [f"{secret}/c.txt"],
    }
    data = {"train": {"source": f"{secret}/pairs.tsv", "rows": 1, "sha256": "ab", "hub_id": None}}
    command = f"accelerate launch training/train_cosent.py stsb --data={secret}/pairs.tsv --output-dir {secret}/out"
    settings = recipe | {"optimizer_options": ["a=1"]}
    run = RUN | {"recipe": recipe, "data": data, "command": command, "settings": settings}
    (folder / "run.json").write_text(json.dumps(run))
    write_card(folder)
    for path, content in contents_of(folder).items():
        source = content.source if isinstance(content.source, bytes) else content.source.read_bytes()
        assert b"secret-place" not in source and b"/home/me" not in source, path
    assert "--data=pairs.tsv --output-dir out" in (folder / "README.md").read_text()
    assert "secret-place" in (folder / "run.json").read_text()  # at home the record stays whole
