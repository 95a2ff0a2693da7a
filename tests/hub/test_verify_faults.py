"""Faults that saved folders had, each put back into a good folder: verify names it in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from suzoo.hub import verify as v
from suzoo.hub.golden import check_with_suzoo, write_golden
from suzoo.hub.verify.batches import ask_in_batches
from suzoo.hub.verify.language_models import ANSWERS
from suzoo.models import modeling_dialogpt, modeling_unilm
from tests.hub.folders import make_cross_encoder, make_encoder, make_language_model
from tests.tiny import tiny_tokenizer


def edit(name: str, **changes) -> Callable[[Path], None]:
    """Set keys of a JSON file; None removes one."""

    def fault(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {key: value for key, value in (content | changes).items() if value is not None}
        path.write_text(json.dumps(content))

    return fault


def remove(name: str) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return fault


def tokenizer_json(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        path = folder / "tokenizer.json"
        state = json.loads(path.read_text())
        change(state)
        path.write_text(json.dumps(state))

    return fault


def template(change: Callable[[str], str]) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        path.write_text(change(path.read_text()))

    return fault


def two_tokens_with_one_id(state: dict) -> None:
    vocabulary = state["model"]["vocab"]
    vocabulary["man"] = vocabulary["woman" if "woman" in vocabulary else "women"]


def cls_and_sep_around_every_text(state: dict) -> None:
    state["post_processor"] = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["post_processor"]


def normalize_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    kind = modules[1]["type"].replace("Pooling", "Normalize")
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Normalize").mkdir()


def no_pooling_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}

# folder: fault, the door that names it, part of the sentence
ENCODER = {
    "1_Pooling is missing": (remove("1_Pooling"), "files", "names 1_Pooling/config.json, which is missing"),
    "auto_map dangles": (
        edit("config.json", auto_map={"AutoModel": "modeling_cosent.CoSENTModel"}),
        "files",
        "names modeling_cosent.py, which is not in the folder",
    ),
    "settings are cut off": (lambda folder: (folder / "modules.json").write_text("[{"), "files", "is not JSON"),
    "stale sentence_bert_config": (
        edit("sentence_bert_config.json", max_seq_length=16),
        "SentenceTransformer",
        "cuts texts at 16 tokens, promised are 64",
    ),
    "wrong pooling": (edit("1_Pooling/config.json", **CLS), "SentenceTransformer", "pools by cls, promised is mean"),
    "prompts do not count": (
        edit("1_Pooling/config.json", include_prompt=False),
        "SentenceTransformer",
        "include_prompt of its Pooling is False",
    ),
    "no pooling": (no_pooling_module, "SentenceTransformer", "has no Pooling"),
    "vectors of length 1": (normalize_module, "SentenceTransformer", "makes vectors of length 1"),
    "prompts are lost": (
        edit("config_sentence_transformers.json", prompts={}),
        "SentenceTransformer",
        "for the prompt 'query' the text None, promised is 'a man '",
    ),
    "a prompt by default": (
        edit("config_sentence_transformers.json", default_prompt_name="query"),
        "SentenceTransformer",
        "takes the prompt 'query' where none is named",
    ),
    "cuts beyond the positions": (
        edit("tokenizer_config.json", model_max_length=512),
        "AutoTokenizer",
        "cuts a long text at 512 tokens (model_max_length is 512), the model takes 64",
    ),
    "never cuts": (
        edit("tokenizer_config.json", model_max_length=int(1e30)),
        "AutoTokenizer",
        "the model takes 64",
    ),
    "padding on the left": (
        edit("tokenizer_config.json", padding_side="left"),
        "AutoTokenizer",
        "pads on the left, promised is right",
    ),
    "no padding": (edit("tokenizer_config.json", pad_token=None), "AutoTokenizer", "names no pad_token"),
    "capitals": (
        tokenizer_json(lambda state: state["normalizer"].update(lowercase=False)),
        "AutoTokenizer",
        "reads 'A man is playing a guitar",
    ),
    "accents": (
        tokenizer_json(lambda state: state["normalizer"].update(strip_accents=False)),
        "AutoTokenizer",
        "reads 'A Café in ZÜRICH",
    ),
    "Chinese is not cut into characters": (
        tokenizer_json(lambda state: state["normalizer"].update(handle_chinese_chars=False)),
        "AutoTokenizer",
        "reads '今天天气真好",
    ),
    "no special tokens": (
        tokenizer_json(lambda state: state.update(post_processor=None)),
        "AutoTokenizer",
        "promised is '[CLS]",
    ),
    "two tokens with one id": (tokenizer_json(two_tokens_with_one_id), "AutoTokenizer", "have one id"),
    "more tokens than rows": (
        tokenizer_json(lambda state: state["model"]["vocab"].update(new=999)),
        "AutoTokenizer",
        "'new' has the id 999, the model",
    ),
}
CROSS_ENCODER = {
    "prompts are lost": (
        edit("config_sentence_transformers.json", prompts={}),
        "CrossEncoder",
        "for the prompt 'query' the text None, promised is 'a man '",
    ),
    "activation is lost": (
        edit("config.json", sentence_transformers=None),
        "CrossEncoder",
        "gives the Sigmoid of the score",
    ),
    "problem_type is lost": (
        edit("config.json", problem_type=None),
        "text-classification pipeline",
        "takes the sigmoid of the score, because problem_type is None",
    ),
    "cuts beyond the positions": (
        edit("tokenizer_config.json", model_max_length=512),
        "AutoTokenizer",
        "cuts a long text at 512 tokens",
    ),
}
PROMPTED = {
    "no prompt by default": (
        edit("config_sentence_transformers.json", default_prompt_name=None),
        "SentenceTransformer",
        "takes the prompt None where none is named, promised is 'query'",
    ),
}
DIALOGUE = {
    "padding on the right": (
        edit("tokenizer_config.json", padding_side="right"),
        "AutoTokenizer",
        "pads on the right, promised is left",
    ),
    "no eos_token": (edit("tokenizer_config.json", eos_token=None), "AutoTokenizer", "names no eos_token"),
    "another eos_token": (
        edit("tokenizer_config.json", eos_token="[PAD]"),
        "AutoModelForCausalLM",
        "ends at 3, and not at the tokenizer's eos_token [PAD]",
    ),
    "generation without an end": (
        edit("generation_config.json", eos_token_id=None),
        "AutoModelForCausalLM",
        "not at the tokenizer's eos_token [SEP]",
    ),
    "[CLS] and [SEP] around what was rendered": (
        tokenizer_json(cls_and_sep_around_every_text),
        "AutoTokenizer",
        "reads '",
    ),
    "spaces are kept": (
        template(lambda text: text.replace("| trim", "")),
        "AutoTokenizer",
        "keeps the spaces around a message",
    ),
    "the mask is lost": (
        template(lambda text: text.replace("message.role == 'assistant' and said", "message.role == 'user' and said")),
        "AutoTokenizer",
        "as said by the assistant, who said",
    ),
    "token types": (
        edit("tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
        "AutoTokenizer",
        "gives token types",
    ),
    "never cuts": (edit("tokenizer_config.json", model_max_length=None), "AutoTokenizer", "the model takes 64"),
}
MASKED = {
    "padding on the left": (
        edit("tokenizer_config.json", padding_side="left"),
        "AutoTokenizer",
        "pads on the left, promised is right",
    ),
}
GOOD = {
    "encoder": ENCODER,
    "prompted": PROMPTED,
    "cross_encoder": CROSS_ENCODER,
    "dialogue": DIALOGUE,
    "mlm": MASKED,
}
CASES = [
    pytest.param(folder, *case, id=f"{folder}: {name}")
    for folder, cases in GOOD.items()
    for name, case in cases.items()
]


@pytest.fixture(scope="module")
def prompted_folders(tmp_path_factory) -> dict[str, Path]:
    """Good ones: of an encoder and a cross-encoder with a prompt, and of an encoder that uses it by default."""
    root = tmp_path_factory.mktemp("faults")
    cross_encoder = make_cross_encoder()
    cross_encoder.prompts = {"query": "a man "}
    models = {
        "encoder": make_encoder(prompts={"query": "a man "}),
        "prompted": make_encoder("cls", prompts={"query": "a man "}, default_prompt_name="query"),
        "cross_encoder": cross_encoder,
    }
    for name, model in models.items():
        model.save_pretrained(root / name, tokenizer=tiny_tokenizer())
        write_golden(model, tiny_tokenizer(), root / name)
    return {name: root / name for name in models}


@pytest.mark.parametrize(("kind", "fault", "name", "sentence"), CASES)
def test_a_fault_that_is_put_back_is_named(kind, fault, name, sentence, prompted_folders, language_folders, tmp_path):
    folders = {**prompted_folders, **language_folders}
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    fault(folder)
    door = v.check_promised_door(name, folder)
    assert door.status == "failed" and sentence in door.note, door.note
    assert "\n" not in door.note and "Error" not in door.note


def test_good_folders_have_no_fault(prompted_folders):
    for folder in prompted_folders.values():
        doors = [v.check_promised_door(name, folder) for name in v.read_promise(folder)["doors"]]
        assert v.passed([*doors, check_with_suzoo(folder)]), v.format_table(doors)


def documents_forgotten(mask: Callable) -> Callable:
    """A mask that knows neither positions nor documents."""

    def forgetful(*args, **kwargs):
        given = signature(mask).bind(*args, **kwargs)
        given.arguments |= {"position_ids": None, "documents": None}
        return mask(*given.args, **given.kwargs)

    return forgetful


CODE = {  # which function of which model has the fault, the function with it, part of the sentence
    "packed rows of DialoGPT see each other": (
        "blog",
        "causal_mask",
        documents_forgotten(modeling_dialogpt.causal_mask),
        "one row of packed inputs with position_ids that restart is answered otherwise",
    ),
    "packed rows of UniLM see each other": (
        "unilm",
        "prefix_mask",
        documents_forgotten(modeling_unilm.prefix_mask),
        "one row of packed inputs with position_ids that restart is answered otherwise",
    ),
    "positions count padding": (  # NEZHA's distances do not change
        "unilm",
        "count_positions",
        lambda mask, past, new, device: torch.arange(new, device=device)[None] + past,
        "a batch padded on the left is answered otherwise",
    ),
}


def asked_in_batches(name: str, folder: Path) -> None:
    model, tokenizer = make_language_model(name)
    promise = v.read_promise(folder)
    outputs = ANSWERS[promise["kind"]](model, tokenizer, promise)
    ask_in_batches(model, tokenizer, promise, outputs, own_code=True)


@pytest.mark.parametrize("case", CODE)
def test_a_fault_of_the_code_is_named(case, language_folders, monkeypatch):
    """Golden answers are of the same code, so a fault shows where another way of asking gives another answer."""
    name, function, broken, sentence = CODE[case]
    monkeypatch.setattr({"blog": modeling_dialogpt, "unilm": modeling_unilm}[name], function, broken)
    with pytest.raises(ValueError, match=sentence):
        asked_in_batches(name, language_folders[name])


def test_a_cache_that_forgets_is_named(language_folders, monkeypatch):
    """As with transformers 5.24, which gave the cache another name."""
    whole = DynamicCache.update

    def forgetful(cache, new, *args, **kwargs):
        keys, values = whole(cache, new, *args, **kwargs)
        return (keys, values) if keys.shape == new.shape else (keys * 0, values)

    monkeypatch.setattr(DynamicCache, "update", forgetful)
    for name in ("blog", "unilm"):
        with pytest.raises(ValueError, match=r"generate\(\) in a batch .*is answered otherwise"):
            asked_in_batches(name, language_folders[name])


def test_suzoo_names_the_faults_too(prompted_folders, tmp_path):
    folder = Path(shutil.copytree(prompted_folders["encoder"], tmp_path / "encoder"))
    remove("1_Pooling")(folder)
    assert "1_Pooling/config.json, which is missing" in check_with_suzoo(folder).note
