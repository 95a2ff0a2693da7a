"""Stock folders where suzoo is not installed, and transformers and sentence-transformers are those of 2025."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from suzoo.data import add_tokens, train_unigram, train_wordpiece, without_inner_spaces
from suzoo.data.vocabulary import chat_tokenizer
from suzoo.hub.golden import write_golden
from suzoo.hub.verify import read_promise
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, DialoGPTConfig, DialoGPTForCausalLM
from suzoo.models._dialogue import SPEAKER_TOKENS, DialogueLayout
from suzoo.models._oldest import OLDEST
from suzoo.models._tokenizer_files import save_tokenizer
from tests.hub.folders import ROOT, finish_language_run
from tests.tiny import SENTENCES, SMALL, tiny_config, tiny_tokenizer

OTHERS = ("transformers==4.57.6", "sentence-transformers==5.1.2")
TEXTS = [f"{first}, {second}. Café №{i}" for i, first in enumerate(SENTENCES * 5) for second in SENTENCES]


@pytest.fixture(scope="session")
def other_python(tmp_path_factory) -> str:
    """A python that has `OTHERS`: that of SUZOO_STOCK_PYTHON, else one made here, which shares torch and the rest."""
    if given := os.environ.get("SUZOO_STOCK_PYTHON"):
        return given
    home = tmp_path_factory.mktemp("others")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))
    python = str(home / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *OTHERS], check=True)
    return python


def outside(python: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([python, *arguments], capture_output=True, text=True, timeout=600)


def save(kind: str, folder: Path) -> Path:
    """A folder of this kind as a training leaves it, with a trained tokenizer of another class each."""
    torch.manual_seed(7)
    wordpiece = train_wordpiece(TEXTS, vocab_size=200, lowercase=kind == "encoder", model_max_length=64)
    sizes = {**SMALL, "max_position_embeddings": 72, "pad_token_id": 0, "initializer_range": 0.4}
    if kind == "encoder":
        model, tokenizer = CoSENTModel(tiny_config(vocab_size=len(wordpiece), **sizes), pooling="mean"), wordpiece
        model.prompts, model.max_seq_length = {"query": "the dog "}, 30
    elif kind == "cross-encoder":
        tokenizer = train_unigram(TEXTS, vocab_size=150, model_max_length=64)
        model = CoSENTCrossEncoder(tiny_config("xlm-roberta", vocab_size=len(tokenizer), **sizes))
    elif kind == "classifier":
        tokenizer = without_inner_spaces(wordpiece)
        config = BertConfig(vocab_size=len(tokenizer), num_labels=3, id2label=dict(enumerate("abc")), **sizes)
        model = BertForSequenceClassification(config)
    elif kind == "masked-lm":
        model, tokenizer = BertForMaskedLM(BertConfig(vocab_size=len(wordpiece), **sizes)), wordpiece
    else:
        # without pieces of words: the pipeline of transformers 4 joins a reply that starts with one to the prompt
        tokenizer = add_tokens(without_inner_spaces(tiny_tokenizer()), SPEAKER_TOKENS, special=True)
        tokenizer = chat_tokenizer(tokenizer, DialogueLayout.of_tokenizer("cdial", tokenizer))
        ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        model = DialoGPTForCausalLM(DialoGPTConfig(vocab_size=len(tokenizer), layout="cdial", **sizes, **ids))
    model.eval()
    if isinstance(model, CoSENTModel | CoSENTCrossEncoder):
        model.save_pretrained(folder, tokenizer=tokenizer)
    else:
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
    write_golden(model, tokenizer, folder)
    return folder


KINDS = ("encoder", "cross-encoder", "classifier", "masked-lm", "cdial")


@pytest.mark.parametrize("kind", KINDS)
def test_no_stock_folder_has_code_or_a_class_of_one_version(kind, tmp_path):
    folder = save(kind, tmp_path / kind)
    assert not list(folder.glob("*.py")) and "auto_map" not in (folder / "config.json").read_text()
    assert "TokenizersBackend" not in (folder / "tokenizer_config.json").read_text()
    assert not [door for door in read_promise(folder)["doors"] if "trust" in door]


@pytest.mark.slow
def test_the_others_are_those_of_2025(other_python):
    code = "import transformers, sentence_transformers as s; print(transformers.__version__, s.__version__)"
    assert re.match(r"4\.57\.\d 5\.1\.\d", outside(other_python, "-c", code).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stock_folders_open_with_transformers_4(kind, other_python, tmp_path):
    """By the doors of `verify`: scores, vectors and logits to 1e-5, tokens and texts exactly."""
    folder = save(kind, tmp_path / kind)
    done = outside(other_python, str(ROOT / "suzoo/hub/verify"), str(folder))
    statuses = dict(re.findall(r"^(.+?)  +(ok|failed|not checked) ", done.stdout, re.MULTILINE))
    assert statuses == dict.fromkeys(read_promise(folder)["doors"], "ok"), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blog", "unilm", "tta"])
def test_own_code_says_which_transformers_it_needs(name, other_python, tmp_path):
    folder = finish_language_run(name, tmp_path / name)
    done = outside(other_python, str(ROOT / "suzoo/hub/verify"), str(folder))
    lines = [line for line in done.stdout.splitlines() if re.match("(AutoModel|[a-z-]+ pipeline).*, trust", line)]
    assert lines and all(f"the code of this model needs transformers {OLDEST} or later" in line for line in lines)
