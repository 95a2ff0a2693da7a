"""Files in the layouts of bert4keras and TensorFlow, written here, come over whole; broken ones are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizer

from hub_scripts import convert_bert4keras
from hub_scripts.convert_bert4keras import main
from suzoo.cli._bert4keras import CLASSES, FAMILIES, numpy_logits, simplified_vocabulary, torch_names
from suzoo.data import without_inner_spaces
from suzoo.models import CoSENTModel, DialoGPTForCausalLM, TTAForMaskedLM, UniLMForCausalLM
from tests.models.tiny import tiny, tiny_tokenizer, tokens
from tests.reference import transformer as reference

h5py = pytest.importorskip("h5py")

LAYERS = 3


def words() -> list[str]:
    vocabulary = tiny_tokenizer().get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def arrays_of(model) -> dict[str, np.ndarray]:
    """A state dict under TensorFlow's names, the way Google's BERT writes them."""
    out = {}
    for name, value in model.state_dict().items():
        if name == "cls.predictions.decoder.weight" or name == "cls.predictions.decoder.bias":
            continue
        array = value.float().numpy()
        if name == "cls.predictions.bias":
            out["cls/predictions/output_bias"] = array
            continue
        path, kind = name.replace("layer.", "layer_").rsplit(".", 1)
        path = path.replace(".", "/")
        if path.endswith("LayerNorm"):
            kind = {"weight": "gamma", "bias": "beta"}[kind]
        elif path.endswith("_embeddings"):
            out[path] = array
            continue
        elif kind == "weight":
            kind, array = "kernel", array.T
        out[f"{path}/{kind}"] = array
    return out


def write_keras(path, arrays, *, nested: bool = False) -> None:
    """As Keras 2.3 saves a bert4keras model: groups by layer, arrays by position."""
    norm = ("beta", "gamma")
    layers = {
        "Input-Token": [],
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Norm": [f"bert/embeddings/LayerNorm/{kind}" for kind in norm],
        "MLM-Dense": [f"cls/predictions/transform/dense/{kind}" for kind in ("kernel", "bias")],
        "MLM-Norm": [f"cls/predictions/transform/LayerNorm/{kind}" for kind in norm],
        "MLM-Bias": ["cls/predictions/output_bias"],
    }
    if "bert/embeddings/position_embeddings" in arrays:
        layers["Embedding-Position"] = ["bert/embeddings/position_embeddings"]
    if "bert/pooler/dense/kernel" in arrays:
        layers["Pooler-Dense"] = [f"bert/pooler/dense/{kind}" for kind in ("kernel", "bias")]
    for n in range(LAYERS):
        prefix = f"bert/encoder/layer_{n}/"
        dense = [f"{prefix}attention/{part}" for part in ("self/query", "self/key", "self/value", "output/dense")]
        layers[f"Transformer-{n}-MultiHeadSelfAttention"] = [
            f"{d}/{kind}" for d in dense for kind in ("kernel", "bias")
        ]
        layers[f"Transformer-{n}-MultiHeadSelfAttention-Norm"] = [
            f"{prefix}attention/output/LayerNorm/{k}" for k in norm
        ]
        dense = [f"{prefix}intermediate/dense", f"{prefix}output/dense"]
        layers[f"Transformer-{n}-FeedForward"] = [f"{d}/{kind}" for d in dense for kind in ("kernel", "bias")]
        layers[f"Transformer-{n}-FeedForward-Norm"] = [f"{prefix}output/LayerNorm/{kind}" for kind in norm]
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        names = [*layers, "Embedding-Relative-Position"]
        root.attrs["layer_names"] = [name.encode() for name in names]
        group = root.create_group("Embedding-Relative-Position")
        group.attrs["weight_names"] = [b"Embedding-Relative-Position/embeddings:0"]
        for layer, variables in layers.items():
            group = root.create_group(layer)
            weights = [f"{layer}/{place}_{name.rsplit('/')[-1]}:0" for place, name in enumerate(variables)]
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, name in zip(weights, variables, strict=True):
                group[weight] = arrays[name]


def write_files(folder: Path) -> None:
    """What belongs to the weights: bert_config.json and vocab.txt."""
    config = {
        "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 64, "vocab_size": 41, "hidden_act": "gelu", "type_vocab_size": 2,
        "use_relative_position": False,
    }  # fmt: skip
    (folder / "bert_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(words()) + "\n", encoding="utf-8")


@pytest.fixture
def files(tmp_path, capsys):
    """A model of ours, and a function that runs the script on its bert4keras files; SystemExit with what it says where
    it refuses them."""
    write_files(tmp_path)

    def run(name: str, *options: str):
        arguments = ["--config", "bert_config.json", "--vocab", "vocab.txt", "--output", "out"]
        arguments = [word if word.startswith("--") else str(tmp_path / word) for word in arguments]
        if code := main([str(tmp_path / name), *arguments, *options]):
            said = capsys.readouterr().err
            assert code == 2 and said.count("\n") == 1
            raise SystemExit(said)
        return tmp_path / "out"

    return tmp_path, run


def model_of(positions: str = "absolute"):
    return tiny("unilm", double=False, position_embedding_type=positions, max_relative_position=64)


@pytest.mark.parametrize("nested", [False, True])
def test_keras_weights_become_stock_bert(files, nested, capsys):
    folder, run = files
    model = model_of()
    write_keras(folder / "model.weights", arrays_of(model), nested=nested)
    out = run("model.weights")
    assert "largest difference" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    bert = AutoModelForMaskedLM.from_pretrained(out)
    ids = tokens(2, 7)
    expected = model(ids, token_type_ids=torch.zeros_like(ids), use_cache=False).logits
    torch.testing.assert_close(bert(ids).logits, expected, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = "今天天气很好"
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("family", ["bert", "roformer"])
def test_vectors_of_simbert(files, family, capsys):
    """[CLS] through the pooler without activation, as bert4keras' with_pool="linear", in both libraries."""
    folder, run = files
    arrays = arrays_of(model_of(FAMILIES[family]))
    generator = np.random.default_rng(7)
    kernel, bias = generator.normal(size=(32, 32)), generator.normal(size=32)
    arrays |= {"bert/pooler/dense/kernel": kernel, "bert/pooler/dense/bias": bias}
    write_keras(folder / "model.weights", arrays)
    out = run("model.weights", "--family", family, "--as", "cosent")
    assert "largest difference of vectors" in capsys.readouterr().out
    model, texts = CoSENTModel.from_pretrained(out), ["今天天气很好", "好", "公园" * 9]
    plain = CoSENTModel(model.config, model.encoder, pooling="cls")
    expected = plain.encode(texts, tokenizer=model.tokenizer) @ kernel + bias
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(SentenceTransformer(str(out), device="cpu").encode(texts), expected, atol=1e-5)


def test_a_model_without_pooler_has_no_vectors(files, capsys):
    folder, run = files
    write_keras(folder / "model.weights", arrays_of(model_of()))
    with pytest.raises(SystemExit, match="has no pooler, which makes the vectors of SimBERT"):
        run("model.weights", "--as", "cosent")
    with pytest.raises(SystemExit, match="--as cosent takes the families bert and roformer, not nezha"):
        run("model.weights", "--as", "cosent", "--family", "nezha")


@pytest.mark.parametrize(
    ("target", "model_class"), [("unilm", UniLMForCausalLM), ("dialogpt", DialoGPTForCausalLM), ("tta", TTAForMaskedLM)]
)
@pytest.mark.parametrize("family", ["bert", "nezha", "roformer"])
def test_keras_weights_become_ours(files, target, model_class, family):
    folder, run = files
    model = model_of(FAMILIES[family])
    write_keras(folder / "model.weights", arrays_of(model))
    out = run("model.weights", "--family", family, "--as", target)
    ours = model_class.from_pretrained(out)
    assert ours.config.position_embedding_type == FAMILIES[family]
    assert ours.config.eos_token_id == 2
    if target == "tta":
        assert ours.config.mask_token_id == 40
    state = ours.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_tensorflow_checkpoint(files, monkeypatch):
    """Through a stand-in for tensorflow's reader, which is too large to install for a test."""
    folder, run = files
    model = model_of()
    arrays = arrays_of(model)
    extra = {
        "bert/pooler/dense/kernel": np.zeros((32, 32)),
        "cls/seq_relationship/output_bias": np.zeros(2),
        "global_step": np.array(1),
        "bert/embeddings/word_embeddings/adam_m": np.zeros((41, 32)),
    }
    stored = {**arrays, **extra}
    reader = SimpleNamespace(
        get_variable_to_shape_map=lambda: {name: array.shape for name, array in stored.items()},
        get_tensor=stored.__getitem__,
    )
    train = SimpleNamespace(load_checkpoint=lambda path: reader if path == str(folder / "bert_model.ckpt") else None)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(train=train))
    (folder / "bert_model.ckpt.index").touch()
    bert = AutoModelForMaskedLM.from_pretrained(run("bert_model.ckpt"))
    ids = tokens(1, 5)
    expected = model(ids, token_type_ids=torch.zeros_like(ids), use_cache=False).logits
    torch.testing.assert_close(bert(ids).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numpy_form_is_right(family):
    """What the script checks itself by, against the reference of the models."""
    model = model_of(FAMILIES[family])
    ids = tokens(1, 6)[0].tolist()
    state = {name: value.double() for name, value in model.state_dict().items()}
    expected = reference.logits(state, model.config, ids, [0] * 6, "bidirectional")
    got = numpy_logits(arrays_of(model), model.config, family, ids)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-9)


def test_roformer_becomes_the_stock_class(files):
    """Its rotation turns neighbouring pairs, as bert4keras does; a folder that needs no code and no jieba."""
    folder, run = files
    model = model_of("rope")
    write_keras(folder / "model.weights", arrays_of(model))
    out = run("model.weights", "--family", "roformer")
    stock, tokenizer = AutoModelForMaskedLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert type(stock).__name__ == "RoFormerForMaskedLM"
    ids = tokens(2, 9)
    expected = model(ids, token_type_ids=torch.zeros_like(ids), use_cache=False).logits
    torch.testing.assert_close(stock(ids).logits, expected, rtol=0, atol=2e-5)
    assert tokenizer("今天天气很好").input_ids == tiny_tokenizer()("今天天气很好").input_ids


def test_vocab_txt_is_read_as_bert4keras_reads_it(files):
    folder, run = files
    lines = words()
    lines[lines.index("[unused0]")] = "\u2028"  # as line 345 of Google's Chinese vocabulary
    lines[lines.index("今")] += "  "
    lines[lines.index("天")] += "\tx"
    twice = lines.index("[unused1]")
    lines[twice] = "[unused2]"  # which comes again
    content = "\ufeff" + "".join(f"{line}\r\n" if line == "气" else f"{line}\n" for line in lines)
    (folder / "vocab.txt").write_bytes(content.encode())
    write_keras(folder / "model.weights", arrays_of(model_of()))
    tokenizer = AutoTokenizer.from_pretrained(run("model.weights"))
    vocabulary = tokenizer.get_vocab()
    assert len(tokenizer) == 41 and sorted(vocabulary.values()) == list(range(41))
    assert [vocabulary[token] for token in "今天气"] == [4, 5, 6] and vocabulary[f"[line {twice + 1}]"] == twice
    assert tokenizer("今\u2028天气", add_special_tokens=False).input_ids == [4, 5, 6]
    (folder / "vocab.txt").write_bytes("今".encode("gbk"))
    with pytest.raises(SystemExit, match="not UTF-8"):
        run("model.weights")
    (folder / "vocab.txt").write_text(
        "".join(f"{word}\n" for word in words()).replace("[PAD]", "x").replace("[SEP]", "y")
    )
    with pytest.raises(SystemExit, match=r"no \[PAD\] and no \[SEP\]"):
        run("model.weights")


def test_case_is_that_of_the_vocabulary_or_of_the_flag(files, capsys):
    folder, run = files
    lines = words()
    lines[lines.index("[unused0]")], lines[lines.index("[unused1]")] = "A", "é"
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    write_keras(folder / "model.weights", arrays_of(model_of()))
    for flags, said, expected in (
        ([], "cased", ["A", "a", "é"]),
        (["--cased"], "cased", ["A", "a", "é"]),
        (["--lower-case"], "in lower case", ["a", "a", "[UNK]"]),
    ):
        tokenizer = AutoTokenizer.from_pretrained(run("model.weights", *flags))
        assert tokenizer.tokenize("A a é") == expected and said in capsys.readouterr().out


def test_a_tokenizer_that_reads_otherwise_is_noticed(files, monkeypatch):
    folder, run = files
    write_keras(folder / "model.weights", arrays_of(model_of()))
    monkeypatch.setattr(
        "suzoo.cli._bert4keras.without_inner_spaces",
        lambda stock: without_inner_spaces(BertTokenizer(vocab=stock.get_vocab(), do_lower_case=False)),
    )
    vocabulary = words()
    vocabulary[vocabulary.index("[unused0]")] = "ok"
    vocabulary[vocabulary.index("[unused1]")] = "cafe"
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    with pytest.raises(SystemExit, match="reads 'A Café"):
        run("model.weights")
    assert not (folder / "out").exists()


def test_a_wrong_layout_is_noticed(files, capsys):
    folder, run = files
    arrays = arrays_of(model_of())
    with pytest.raises(SystemExit, match="does not fill"):
        write_keras(folder / "a.weights", {**arrays, "cls/predictions/output_bias": np.zeros(40)})
        run("a.weights")
    (folder / "vocab.txt").write_text("\n".join(words()[:-1]), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"41 tokens, .* 40: another vocabulary"):
        run("a.weights")
    with pytest.raises(SystemExit, match="stock bert has no positions of nezha"):
        run("a.weights", "--family", "nezha", "--as", "bert")
    with pytest.raises(SystemExit, match="No such file"):
        run("none.weights")
    assert not (folder / "out").exists()
    with pytest.raises(ValueError, match="is not one of a BERT"):
        torch_names({"bert/embeddings/strange": np.zeros(1)})


def test_swapped_arrays_are_noticed(files, monkeypatch):
    """The self-check can fail: query and key swapped on the way."""
    folder, run = files
    write_keras(folder / "model.weights", arrays_of(model_of()))
    monkeypatch.setattr(
        "suzoo.cli._bert4keras.torch_names",
        lambda arrays: {
            name.replace("self.query", "X").replace("self.key", "self.query").replace("X", "self.key"): value
            for name, value in torch_names(arrays).items()
        },
    )
    with pytest.raises(SystemExit, match="the logits differ"):
        run("model.weights")


def test_simplified_vocabulary(files):
    folder, run = files
    kept = simplified_vocabulary(words())
    assert kept[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "今"] and "[MASK]" not in kept and "##a" in kept
    rows = [words().index(token) for token in kept]
    arrays = arrays_of(model_of())
    for name in ("bert/embeddings/word_embeddings", "cls/predictions/output_bias"):
        arrays[name] = arrays[name][rows]
    write_keras(folder / "model.weights", arrays)
    out = run("model.weights", "--simplified", "--as", "unilm")
    assert UniLMForCausalLM.from_pretrained(out).config.eos_token_id == 3
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("今天").input_ids == [2, 4, 5, 3] and len(tokenizer) == len(kept)


def test_the_command_offers_what_there_is():
    assert set(convert_bert4keras.FAMILIES) == set(FAMILIES)
    assert set(convert_bert4keras.TARGETS) == {*CLASSES, "cosent"}
