"""The site: every page is in the navigation, the guides' code runs, and the flags that they name exist."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from transformers import BertForSequenceClassification

from suzoo import cli
from suzoo.cli.train import names as scripts
from suzoo.data import read_classes, read_dialogues, read_pairs, read_queries, read_seq2seq
from suzoo.models import CoSENTModel
from tests.hub.folders import make_cross_encoder, make_language_model
from tests.pages import ROOT, blocks, check_command, commands, recipes_of, run_python
from tests.tiny import tiny_config, tiny_tokenizer

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GUIDES = ["docs/start.md", *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("guides/*.md"))]
METHODS = [f"docs/{page}.md" for page in ("losses", "regularizers", "multitask", "optimizers")]
METHODS += sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("methods/*.md"))
TRANSLATED = [f"docs/{page}.md" for page in ("data", "hub", "from_bert4keras", "demo", "notebooks")]
OTHERS = [*TRANSLATED, "docs/zoo.md", "docs/processes.md"]
CHINESE = {page: page.replace("docs/", "docs/zh/", 1) for page in [*GUIDES, *TRANSLATED]}
READERS = {
    "sentence_encoder": read_pairs,
    "reranker": read_pairs,
    "from_sentence_transformers": read_queries,
    "hard_negatives": read_queries,
    "long_tails": read_classes,
    "chat": read_dialogues,
    "titles": read_seq2seq,
}
# not suzoo's: pip's, accelerate's, torchrun's and SLURM's
FOREIGN = {"--help", "--signal", "--num_processes", "--config_file", "--nproc-per-node", "--no-deps"}


def entries(nav) -> list[str]:
    """The pages of the navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in entries(part)]


def test_every_page_is_in_the_navigation_once_and_every_entry_exists():
    own = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    outside = CONFIG["extra"]["pages"]
    assert [path for path in outside if not (ROOT / path).is_file()] == []
    assert sorted(entries(CONFIG["nav"])) == sorted([*own, *outside.values()])


@pytest.mark.parametrize("page", [page for page in METHODS if page != "docs/losses.md"])  # which leads to the families
def test_a_family_of_methods_has_a_picture_and_says_how_to_use_it(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search(r"^!\[.+\]\((\.\./)?figures/\w+\.svg\)$", text, re.MULTILINE)
    for place in ("Trainer", "sentence-transformers", "TRL", "Lightning", "suzoo "):
        assert place in text, place


def test_the_reference_has_every_package():
    for path in (DOCS / "reference").glob("*.md"):
        (package,) = re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert importlib.import_module(package).__all__ and package == f"suzoo.{path.stem}"
    with_names = {path.parent.name for path in ROOT.glob("suzoo/*/__init__.py") if "__all__" in path.read_text()}
    assert with_names == {path.stem for path in (DOCS / "reference").glob("*.md")}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with tiny models where the guides have their trained ones."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("quickstart", "finetune"):
        config = tiny_config(hidden_size=128, num_hidden_layers=1)  # as wide as the quickstart's
        encoder = CoSENTModel(config, pooling="mean").eval()
        encoder.save_pretrained(folder / "out" / name, tokenizer=tiny_tokenizer())
    make_cross_encoder().save_pretrained(folder / "out/cross-finetune", tokenizer=tiny_tokenizer())
    config = tiny_config(num_hidden_layers=1, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(folder / "out/classifier")
    tiny_tokenizer().save_pretrained(folder / "out/classifier")
    language_models = {"dialogpt-history": "dialogue", "dialogpt-backward": "dialogue", "unilm": "unilm", "tta": "tta"}
    for name, kind in language_models.items():
        model, tokenizer = make_language_model(kind)
        model.save_pretrained(folder / "out" / name)
        tokenizer.save_pretrained(folder / "out" / name)
    return folder


def lacks(block: str) -> bool:
    """True where a block imports what is not in the tests' environment, as TRL; its page then says so."""
    imported = re.findall(r"^(?:from|import) (lightning|trl)\b", block, re.MULTILINE)
    return any(find_spec(package) is None for package in imported)


@pytest.mark.parametrize("page", [*GUIDES, *METHODS])
def test_python_blocks_print_what_they_say(workplace, monkeypatch, page):
    monkeypatch.chdir(workplace)
    names: dict = {}
    for block in blocks(page, "python"):
        if lacks(block):
            compile(block, page, "exec")
            assert "not in the environment of the tests" in (ROOT / page).read_text(encoding="utf-8")
            continue
        assert run_python(page, block, names) or "print" not in block or "for " in block


def outline(page: str) -> dict[str, list[str]]:
    """What two languages have in common: levels of headings, blocks, code within the text, and the size of tables."""
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "blocks": re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE),
        "code": sorted(re.findall(r"`([^`]+)`", prose)),
        "rows of tables": re.findall(r"^(\|)", prose, re.MULTILINE),
        "pictures": re.findall(r"^!\[.*\]\(.*?([\w-]+\.\w+)\)", prose, re.MULTILINE),
        "items": re.findall(r"^(- )", prose, re.MULTILINE),
    }


@pytest.mark.parametrize("page", CHINESE)
def test_both_languages_have_the_same_headings_and_the_same_code(page):
    """So the blocks of the Chinese pages need no run of their own."""
    english, chinese = outline(page), outline(CHINESE[page])
    for part in english:
        assert english[part] == chinese[part], part


def test_every_chinese_page_has_an_english_one_and_each_leads_to_the_other():
    pages = {path.relative_to(ROOT).as_posix() for path in DOCS.glob("zh/**/*.md")}
    assert pages == set(CHINESE.values())
    for english, chinese in CHINESE.items():
        for page, other in ((english, chinese), (chinese, english)):
            text = (ROOT / page).read_text(encoding="utf-8")
            targets = [(ROOT / page).parent / link for link in re.findall(r"\]\(([^)#:]+\.md)\)", text)]
            assert (ROOT / other).resolve() in [target.resolve() for target in targets], page
    assert "(docs/zh/start.md)" in (ROOT / "README_zh.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*GUIDES, *METHODS, *OTHERS])
def test_commands_and_flags_exist(page):
    for command in commands(page):
        check_command(command)
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    assert named - known_flags() - FOREIGN == set()


def known_flags() -> set[str]:
    """Of the commands and of every recipe."""
    with_recipes = [name for name in scripts() if name != "tokenizer"]
    recipes = [next(iter(recipes_of(name).values()))() for name in with_recipes]
    flags = {f"--{field.name.replace('_', '-')}" for recipe in recipes for field in dataclasses.fields(recipe)}
    scripts_of_hub = [path.read_text(encoding="utf-8") for path in ROOT.glob("hub_scripts/*.py")]
    return flags.union(flags_of(cli._parser()), *(re.findall(r'"(--[a-z][\w-]*)"', text) for text in scripts_of_hub))


def flags_of(parser) -> set[str]:
    """Of a parser and all its subcommands."""
    below = [sub for action in parser._actions if isinstance(action.choices, dict) for sub in action.choices.values()]
    return {*parser._option_string_actions}.union(*map(flags_of, below))


@pytest.mark.parametrize("page", GUIDES)
def test_rows_that_the_guides_show_can_be_read(tmp_path, page):
    for number, block in enumerate(blocks(page, "json")):
        for place, line in enumerate(block.splitlines()):  # several forms of a row may stand together
            path = tmp_path / f"{number}-{place}.jsonl"
            path.write_text(f"{json.dumps(json.loads(line))}\n", encoding="utf-8")
            assert len(READERS[Path(page).stem](path)) >= 1
