"""What sentence-transformers' side files say is honoured or refused, and saved so that it means the same there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoTokenizer, pipeline

from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.models._tokenizer_files import save_tokenizer
from tests.hub.folders import make_cross_encoder, make_encoder
from tests.tiny import PAIRS, SENTENCES, tiny_config, tiny_tokenizer

PROMPTS = {"query": "the dog ", "document": ""}


@pytest.fixture
def save(tmp_path):
    """`save(pooling=..., ...)`: the folder of an encoder."""

    def write(**options) -> Path:
        make_encoder(**options).save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
        return tmp_path

    return write


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def same_vectors(folder, texts=SENTENCES, **options) -> CoSENTModel:
    model = CoSENTModel.from_pretrained(folder)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, **options)
    np.testing.assert_allclose(model.encode(texts, **options), theirs, atol=2e-6)
    return model


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("ragged", [True, False])
def test_a_prompt_that_does_not_count_in_the_pooling(pooling, ragged, save):
    folder = save(pooling=pooling, prompts=PROMPTS, include_prompt=False)
    assert json.loads((folder / "1_Pooling/config.json").read_text())["include_prompt"] is False
    model = same_vectors(folder, prompt_name="query")
    counted = CoSENTModel.from_pretrained(folder)
    counted.include_prompt = True
    assert (
        abs(model.encode(SENTENCES, prompt_name="query") - counted.encode(SENTENCES, prompt_name="query")).max() > 0.1
    )
    same_vectors(folder)  # nothing is left out without a prompt
    if not ragged:
        model.encoder.set_attn_implementation("eager")
        assert not model.ragged
        theirs = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES, prompt_name="query")
        np.testing.assert_allclose(model.encode(SENTENCES, prompt_name="query"), theirs, atol=2e-6)
    num = model.prompt_tokens(tiny_tokenizer(), PROMPTS["query"])
    assert num == 3  # [CLS] the dog
    for side in ("left", "right"):
        batch = tiny_tokenizer()([PROMPTS["query"] + text for text in SENTENCES], padding=True, padding_side=side)
        batch = {name: torch.tensor(values) for name, values in batch.items()}
        with torch.no_grad():
            output = model(**batch, prompt_length=num)
        rows = output.last_hidden_state, batch["attention_mask"].bool(), output.sentence_embedding
        for states, mask, vector in zip(*rows, strict=True):
            behind = states[mask][num:]
            torch.testing.assert_close(vector, behind[0] if pooling == "cls" else behind.mean(0))


def test_lower_case_that_the_folder_asks_for(save):
    folder = save()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    texts = [text.upper() for text in SENTENCES]
    cased = CoSENTModel.from_pretrained(folder).encode(texts)
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    model = same_vectors(folder, texts)
    assert abs(model.encode(texts) - cased).max() > 0.1
    model.save_pretrained(folder / "again")
    assert CoSENTModel.from_pretrained(folder / "again").do_lower_case


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("modules.json", None, "names the module my_pkg.weighted.Pooling"),
        ("1_Pooling/config.json", None, "names 1_Pooling/config.json, which is missing"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for .*pooling_mode_max_tokens"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "sets transformer_task"),
        ("sentence_bert_config.json", {"tokenizer_args": {"do_lower_case": True}}, "sets tokenizer_args"),
        ("config_sentence_transformers.json", {"default_prompt_name": "qurey"}, "default prompt 'qurey'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(file, values, message, save):
    folder = save(prompts=PROMPTS)
    if values is not None:
        change(folder / file, **values)
    elif file == "modules.json":
        modules = json.loads((folder / file).read_text())
        modules[1]["type"] = "my_pkg.weighted.Pooling"
        (folder / file).write_text(json.dumps(modules))
    else:
        (folder / file).unlink()
    with pytest.raises(ValueError, match=message):
        CoSENTModel.from_pretrained(folder)


def test_a_side_file_that_is_no_json_or_names_no_pooling(save):
    folder = save()
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ValueError, match="names no Pooling: say which one by pooling="):
        CoSENTModel.from_pretrained(folder)
    assert CoSENTModel.from_pretrained(folder, pooling="mean").pooling == "mean"
    (folder / "modules.json").write_text("{")
    with pytest.raises(ValueError, match=r"modules\.json is not JSON"):
        CoSENTModel.from_pretrained(folder)


def test_the_transformer_may_lie_in_a_folder_of_its_own_as_in_old_models(save, tmp_path):
    folder = save(prompts=PROMPTS)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "0_Transformer/sentence_roberta_config.json").write_text('{"max_seq_length": 9}')
    assert CoSENTModel.from_pretrained(folder).max_seq_length == 9
    (folder / "0_Transformer/sentence_roberta_config.json").rename(folder / "0_Transformer/sentence_bert_config.json")
    same_vectors(folder)


@pytest.mark.parametrize("default", [None, "query"])
def test_the_prompt_of_a_cross_encoder_stands_before_the_first_text(default, tmp_path):
    make_cross_encoder().save_pretrained(tmp_path / "ours", tokenizer=tiny_tokenizer())
    theirs = CrossEncoder(str(tmp_path / "ours"), device="cpu", prompts=PROMPTS, default_prompt_name=default)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model = CoSENTCrossEncoder.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "again", tokenizer=tiny_tokenizer())
    for folder in ("theirs", "again"):
        model = CoSENTCrossEncoder.from_pretrained(tmp_path / folder)
        assert (model.prompts["query"], model.default_prompt_name) == (PROMPTS["query"], default)
        np.testing.assert_allclose(model.predict(PAIRS), theirs.predict(PAIRS), atol=2e-6)
    assert abs(model.predict(PAIRS, prompt="") - model.predict(PAIRS, prompt_name="query")).max() > 0.01
    np.testing.assert_allclose(
        CrossEncoder(str(tmp_path / "again"), device="cpu").predict(PAIRS), theirs.predict(PAIRS), atol=2e-6
    )


# ---- lengths


@pytest.mark.parametrize(("length", "expected"), [(None, 72), (40, 40)])
def test_others_cut_where_the_model_does(length, expected, tmp_path):
    """txtai and the feature-extraction pipeline cut at `model_max_length`; beyond the positions they crash."""
    model, tokenizer = make_encoder(), tiny_tokenizer().__class__.from_pretrained
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=int(1e30))
    model.max_seq_length = length
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    assert tokenizer.model_max_length > 1e9  # the caller's own is left alone
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == expected
    long = " ".join(SENTENCES * 10)
    features = pipeline("feature-extraction", model=str(tmp_path), tokenize_kwargs={"truncation": True})(long)
    assert len(features[0]) == expected
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path)(
            **AutoTokenizer.from_pretrained(tmp_path)(long, truncation=True, return_tensors="pt")
        )[0]
    np.testing.assert_allclose(hidden.mean(1)[0], model.encode(long, tokenizer=tokenizer), atol=2e-6)
    assert CoSENTModel.from_pretrained(tmp_path).encode(long, max_length=72).shape == (32,)  # more than it was cut at


def test_saving_over_an_older_save_leaves_nothing_of_it(tmp_path):
    old = make_encoder(normalize=True, prompts=PROMPTS)
    old.max_seq_length = 20
    old.save_pretrained(tmp_path, tokenizer=tiny_tokenizer(), with_code=True)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 5}')
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "notes.py").write_text("print('mine')")
    new = make_encoder()
    new.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    assert CoSENTModel.from_pretrained(tmp_path).max_seq_length is None
    same_vectors(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    new.save_pretrained(tmp_path / "fresh", tokenizer=tiny_tokenizer())
    fresh = {str(path.relative_to(tmp_path / "fresh")) for path in (tmp_path / "fresh").rglob("*") if path.is_file()}
    assert found == fresh | {"notes.py"}
    make_cross_encoder().save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    assert not (tmp_path / "modules.json").exists() and not (tmp_path / "1_Pooling").exists()


# ---- tokenizers


def test_a_tokenizer_is_saved_as_transformers_4_and_5_read_it(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(_saved(tiny_tokenizer(), tmp_path / "first"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["[speaker1]"]})
    tokenizer("a man", truncation=True, max_length=3, padding="max_length")
    settings = json.loads((_saved(tokenizer, tmp_path / "second") / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["[speaker1]"] and "extra_special_tokens" not in settings
    assert not {"max_length", "stride", "truncation_strategy", "is_local"} & settings.keys()
    state = json.loads((tmp_path / "second/tokenizer.json").read_text())
    assert (state["truncation"], state["padding"]) == (None, None)  # an earlier call's
    again = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert again("a man [speaker1] 好").input_ids == tokenizer("a man [speaker1] 好").input_ids
    assert again.all_special_ids == tokenizer.all_special_ids


def _saved(tokenizer, folder: Path) -> Path:
    save_tokenizer(tokenizer, folder)
    return folder


def test_the_code_of_an_adapter_has_nowhere_to_be_named(tmp_path):
    peft = pytest.importorskip("peft")
    model = CoSENTModel(tiny_config())
    model.encoder = peft.get_peft_model(model.encoder, peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="an adapter folder has no config"):
        model.save_pretrained(tmp_path, with_code=True)
