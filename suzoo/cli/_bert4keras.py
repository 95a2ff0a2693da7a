"""Weights, vocabularies and configurations of bert4keras as transformers models: what `suzoo script convert_bert4keras`
does, which says how it checks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RoFormerConfig,
    RoFormerForMaskedLM,
    RoFormerModel,
)

from suzoo.data._bert4keras_vocabulary import LONGEST_WORD, is_cased, read_vocabulary, tokenize
from suzoo.data.vocabulary import redundant_token, without_inner_spaces
from suzoo.models import (
    CoSENTModel,
    DialoGPTConfig,
    DialoGPTForCausalLM,
    TTAConfig,
    TTAForMaskedLM,
    UniLMConfig,
    UniLMForCausalLM,
)
from suzoo.models._file_modes import share_weights
from suzoo.models._projection import Projection
from suzoo.models._tokenizer_files import save_tokenizer

Arrays = dict[str, np.ndarray]

SENTENCES = ([1.0, 0.2, 0.7, 0.4, 0.9, 0.1, 0.6], [0.3, 0.8])  # token ids as fractions of the vocabulary
# texts in which tokenizers differ: capitals, accents, digits, emoji, strange spaces, special tokens, a long word
TEXTS = (
    "今天天气真好，我们去 Beijing 吧！",
    "A Café in Zürich, NAÏVE Ångström ﬁn",
    "3.14 2,024元 ２０２４ ① x² 第3名",
    "ok 🎉 👍🏽 “yes” — … don't",
    "a\u2028b\u00a0c\u3000d\u200be\tf\ng",
    "[SEP] [MASK] [unused1] 日本のサイエンス 서울",
    "ab" * 70,
)
CLASSES: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertForMaskedLM),
    "roformer": (RoFormerConfig, RoFormerForMaskedLM),
    "unilm": (UniLMConfig, UniLMForCausalLM),
    "dialogpt": (DialoGPTConfig, DialoGPTForCausalLM),
    "tta": (TTAConfig, TTAForMaskedLM),
}
ENCODERS: dict[str, tuple[Any, Any]] = {"bert": (BertConfig, BertModel), "roformer": (RoFormerConfig, RoFormerModel)}

# family: its positions
FAMILIES = {
    "bert": "absolute",  # Google's BERT, RoBERTa-wwm, MacBERT and SimBERT, under one set of names
    "nezha": "nezha",
    "roformer": "rope",  # RoFormer and RoFormer-Sim; not RoFormerV2, which is another network
}
# family: the class that is written by default; the stock ones know one family each
DEFAULT_TARGETS = {"bert": "bert", "nezha": "unilm", "roformer": "roformer"}

# a layer of bert4keras: the TensorFlow variables it holds, in its order
KERAS_LAYERS = {
    "Embedding-Token": ["bert/embeddings/word_embeddings"],
    "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
    "Embedding-Position": ["bert/embeddings/position_embeddings"],
    "Embedding-Norm": ["bert/embeddings/LayerNorm/beta", "bert/embeddings/LayerNorm/gamma"],
    "MLM-Dense": ["cls/predictions/transform/dense/kernel", "cls/predictions/transform/dense/bias"],
    "MLM-Norm": ["cls/predictions/transform/LayerNorm/beta", "cls/predictions/transform/LayerNorm/gamma"],
    "MLM-Bias": ["cls/predictions/output_bias"],
    "Pooler-Dense": ["bert/pooler/dense/kernel", "bert/pooler/dense/bias"],
}
KERAS_TRANSFORMER = {
    "MultiHeadSelfAttention": [
        f"attention/{part}/{kind}"
        for part in ("self/query", "self/key", "self/value", "output/dense")
        for kind in ("kernel", "bias")
    ],
    "MultiHeadSelfAttention-Norm": ["attention/output/LayerNorm/beta", "attention/output/LayerNorm/gamma"],
    "FeedForward": [f"{part}/dense/{kind}" for part in ("intermediate", "output") for kind in ("kernel", "bias")],
    "FeedForward-Norm": ["output/LayerNorm/beta", "output/LayerNorm/gamma"],
}
# not needed: the fixed sinusoids of NEZHA, next-sentence prediction; the pooler only for the vectors of SimBERT
IGNORED_LAYERS = ("Embedding-Relative-Position", "Pooler", "NSP-Proba")
IGNORED_VARIABLES = ("cls/seq_relationship/", "global_step")
POOLER = "bert/pooler/"
# what optimizers add to the name of a variable
OPTIMIZER_SUFFIXES = ("/adam_m", "/adam_v", "/Adam", "/Adam_1", "/lamb_m", "/lamb_v")


def read_hdf5(path: Path) -> Arrays:
    """TensorFlow variable names and arrays of a file by Keras' `save_weights` (or `save`) of a bert4keras model."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError("reading Keras weights needs h5py: pip install h5py") from error
    arrays: Arrays = {}
    with h5py.File(path, "r") as file:
        root: Any = file.get("model_weights", file)
        for layer in (_text(name) for name in root.attrs["layer_names"]):
            weights = [_text(name) for name in root[layer].attrs["weight_names"]]
            if not weights or layer in IGNORED_LAYERS:
                continue
            names = _keras_layer(layer)
            if len(names) != len(weights):
                raise ValueError(f"{path}: layer {layer} has {len(weights)} arrays, bert4keras' has {len(names)}")
            arrays |= {name: np.asarray(root[layer][weight]) for name, weight in zip(names, weights, strict=True)}
    return arrays


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras_layer(layer: str) -> list[str]:
    if layer in KERAS_LAYERS:
        return KERAS_LAYERS[layer]
    parts = layer.split("-", 2)  # Transformer-3-FeedForward-Norm
    if len(parts) == 3 and parts[0] == "Transformer" and parts[2] in KERAS_TRANSFORMER:
        return [f"bert/encoder/layer_{int(parts[1])}/{name}" for name in KERAS_TRANSFORMER[parts[2]]]
    raise ValueError(f"layer {layer!r} is not one of a bert4keras masked language model")


def read_checkpoint(path: Path) -> Arrays:
    """The variables of a TensorFlow checkpoint, without those of the optimizer and of the other heads."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ValueError("reading TensorFlow checkpoints needs tensorflow: pip install tensorflow") from error
    reader = tf.train.load_checkpoint(str(path))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(IGNORED_VARIABLES) and not name.endswith(OPTIMIZER_SUFFIXES)
    }


def torch_names(arrays: Arrays) -> dict[str, torch.Tensor]:
    """The state dict of `BertForMaskedLM`. TensorFlow keeps dense weights as (in, out), torch as (out, in)."""
    kinds = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_bias": "bias"}
    state = {}
    for name, array in arrays.items():
        *path, kind = name.replace("layer_", "layer.").split("/")
        if kind.endswith("_embeddings"):
            path, kind = [*path, kind], "weight"
        elif kind in kinds:
            array, kind = (array.T if kind == "kernel" else array), kinds[kind]
        elif kind != "bias":
            raise ValueError(f"variable {name} is not one of a BERT masked language model")
        state[".".join([*path, kind])] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return state


def numpy_logits(arrays: Arrays, config: BertConfig, family: str, ids: list[int], vector: bool = False) -> np.ndarray:
    """(L, V) logits of one sentence, all token types 0, computed in float64 from the arrays as they are stored; or its
    `vector` (D,), [CLS] through the pooler without activation."""
    from scipy.special import erf, softmax

    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def dense(x, name):
        return x @ arrays[name + "/kernel"] + arrays[name + "/bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_eps)
        return x * arrays[name + "/LayerNorm/gamma"] + arrays[name + "/LayerNorm/beta"]

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    size, heads = config.hidden_size // config.num_attention_heads, config.num_attention_heads
    places = np.arange(len(ids))

    def turn(heads_LHK):  # the pairs (0, 1), (2, 3), ... by the angle of their position
        if family != "roformer":
            return heads_LHK
        angle = places[:, None, None] / 10000 ** (np.arange(0, size, 2) / size)
        even, odd = heads_LHK[..., 0::2], heads_LHK[..., 1::2]
        pairs = [even * np.cos(angle) - odd * np.sin(angle), odd * np.cos(angle) + even * np.sin(angle)]
        return np.stack(pairs, -1).reshape(heads_LHK.shape)

    relative = np.zeros((len(ids), len(ids), size))
    if family == "nezha":
        distance = np.clip(places[None] - places[:, None], -64, 64) + 64
        angle = distance[..., None] / 10000 ** (np.arange(0, size, 2) / size)
        relative[..., 0::2], relative[..., 1::2] = np.sin(angle), np.cos(angle)
    table = arrays["bert/embeddings/word_embeddings"]
    x = table[ids] + arrays["bert/embeddings/token_type_embeddings"][0]
    if family == "bert":
        x = x + arrays["bert/embeddings/position_embeddings"][: len(ids)]
    x = norm(x, "bert/embeddings")
    for number in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{number}"
        query, key, value = (
            dense(x, f"{layer}/attention/self/{part}").reshape(len(ids), heads, size)
            for part in ("query", "key", "value")
        )
        query, key = turn(query), turn(key)
        scores = np.einsum("qhd,khd->hqk", query, key) + np.einsum("qhd,qkd->hqk", query, relative)
        weights = softmax(scores / np.sqrt(size), axis=-1)
        seen = np.einsum("hqk,khd->qhd", weights, value) + np.einsum("hqk,qkd->qhd", weights, relative)
        x = norm(x + dense(seen.reshape(x.shape), f"{layer}/attention/output/dense"), f"{layer}/attention/output")
        x = norm(x + dense(gelu(dense(x, f"{layer}/intermediate/dense")), f"{layer}/output/dense"), f"{layer}/output")
    if vector:
        return dense(x[0], "bert/pooler/dense")
    x = norm(gelu(dense(x, "cls/predictions/transform/dense")), "cls/predictions/transform")
    return x @ table.T + arrays["cls/predictions/output_bias"]


def simplified_vocabulary(tokens: list[str]) -> list[str]:
    """What bert4keras' `load_vocab(simplified=True, startswith=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])` keeps."""
    start = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    return start + [token for token in tokens if token not in start and not redundant_token(token)]


def make_tokenizer(tokens: list[str], lower_case: bool) -> PreTrainedTokenizerFast:
    """A stock tokenizer that reads texts as bert4keras does.

    Raises:
        ValueError: it reads one of `TEXTS` otherwise.
    """
    vocabulary = {token: place for place, token in enumerate(tokens)}
    mask = "[MASK]" if "[MASK]" in vocabulary else None  # a simplified vocabulary has none
    stock = BertTokenizer(vocab=vocabulary, do_lower_case=lower_case, mask_token=mask)  # ty: ignore[invalid-argument-type]
    tokenizer: Any = without_inner_spaces(stock)
    tokenizer.backend_tokenizer.model.max_input_chars_per_word = LONGEST_WORD
    for text in TEXTS:
        theirs = tokenize(text, vocabulary, lower_case=lower_case)
        ours = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if ours != theirs:
            raise ValueError(
                f"the new tokenizer reads {text[:40]!r} as {tokenizer.convert_ids_to_tokens(ours)}, bert4keras as "
                f"{tokenizer.convert_ids_to_tokens(theirs)}: nothing was written"
            )
    return tokenizer


def convert(
    weights: Path,
    config_path: Path,
    vocab_path: Path,
    *,
    family: str,
    target: str,
    simplified: bool,
    lower_case: bool | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, float]:
    """The new model, its tokenizer, and the largest difference of logits between new and old on fixed sentences.

    Args:
        lower_case: what the `do_lower_case` of bert4keras' tokenizer was; None looks whether the vocabulary has
            capitals.

    Raises:
        ValueError: files that do not belong together, or weights of another kind of model.
    """
    arrays = read_checkpoint(weights) if Path(f"{weights}.index").exists() else read_hdf5(weights)
    if target != "cosent":
        arrays = {name: array for name, array in arrays.items() if not name.startswith(POOLER)}
    elif f"{POOLER}dense/kernel" not in arrays:
        raise ValueError(f"{weights} has no pooler, which makes the vectors of SimBERT: it was built without with_pool")
    tokens = read_vocabulary(vocab_path)
    tokens = simplified_vocabulary(tokens) if simplified else tokens
    table = arrays.get("bert/embeddings/word_embeddings")
    if table is None or len(table) != len(tokens):
        rows = 0 if table is None else len(table)
        raise ValueError(
            f"{weights} has {rows} tokens, {vocab_path} {len(tokens)}: another vocabulary, or --simplified is missing"
        )
    lower_case = not is_cased(tokens) if lower_case is None else lower_case
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in tokens]
    if missing:
        raise ValueError(f"{vocab_path} has no {' and no '.join(missing)}: it is not a vocabulary of BERT's")
    tokenizer = make_tokenizer(tokens, lower_case)
    config = BertConfig(**json.loads(config_path.read_text()))
    config.vocab_size = len(tokens)
    ids = {"pad_token_id": tokens.index("[PAD]"), "eos_token_id": tokens.index("[SEP]")}
    if target == "tta" and "[MASK]" in tokens:
        ids["mask_token_id"] = tokens.index("[MASK]")
    state = torch_names(arrays)
    model: Any
    if target == "cosent":
        model = _build_encoder(family, config, ids["pad_token_id"])
        state = _encoder_state(state, keeps_pooler=family == "bert")
    else:
        model = _build(target, config, position_embedding_type=FAMILIES[family], **ids)
    if target == "roformer":
        state = {name.replace("bert.", "roformer.", 1) if name[:5] == "bert." else name: state[name] for name in state}
    own = {name: value for name, value in model.named_parameters() if "embed_positions" not in name}  # computed
    wrong = sorted(
        name for name in state.keys() | own.keys()
        if name not in state or name not in own or state[name].shape != own[name].shape
    )  # fmt: skip
    if wrong:
        raise ValueError(f"{weights} does not fill {type(model).__name__}, it differs in {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    # T-TA and DialoGPT do not let all tokens see each other: compare them as what they are made from
    twin = model
    if target in ("dialogpt", "tta"):
        twin = _build("unilm", config, position_embedding_type=FAMILIES[family])
        twin.load_state_dict(model.state_dict())
    return model, tokenizer, _difference(twin, arrays, config, family)


def write_converted(
    weights: Path,
    config_path: Path,
    vocab_path: Path,
    output: Path,
    *,
    family: str,
    target: str | None,
    simplified: bool,
    lower_case: bool | None,
) -> None:
    """Convert, say how far apart old and new are, and write the folder.

    Args:
        target: by default what `DEFAULT_TARGETS` says.

    Raises:
        ValueError: as `convert`; family and target do not fit; the numbers differ, and nothing was written.
    """
    target = target or DEFAULT_TARGETS[family]
    if target in ("bert", "roformer") and target != family:
        raise ValueError(f"stock {target} has no positions of {family}: choose --as unilm, dialogpt or tta")
    if target == "cosent" and family not in ENCODERS:
        raise ValueError(f"--as cosent takes the families {' and '.join(ENCODERS)}, not {family}")
    model, tokenizer, difference = convert(
        weights, config_path, vocab_path, family=family, target=target, simplified=simplified, lower_case=lower_case
    )
    lower = tokenizer.backend_tokenizer.normalizer.lowercase
    print(f"texts are read {'in lower case' if lower else 'as they are, cased'}, as bert4keras reads them")
    numbers = "vectors" if target == "cosent" else "logits"
    print(f"largest difference of {numbers}, new model against the old arrays: {difference:.1e}")
    if not difference < 1e-3:
        raise ValueError(f"the {numbers} differ by {difference:.1e}: nothing was written")
    if isinstance(model, CoSENTModel):
        model.save_pretrained(output, tokenizer=tokenizer)
    else:
        model.save_pretrained(output)
        share_weights(output)  # a stock class leaves them to their owner
        save_tokenizer(tokenizer, output)
    print(f"wrote {output}")


def _build_encoder(family: str, config: BertConfig, pad_token_id: int) -> CoSENTModel:
    """An encoder whose vector is [CLS] through a linear layer."""
    config_class, encoder_class = ENCODERS[family]
    sizes = {name: getattr(config, name) for name in SIZES}
    encoder = encoder_class(config_class(**sizes, pad_token_id=pad_token_id))
    projection = Projection(config.hidden_size, config.hidden_size)
    return CoSENTModel(encoder.config, encoder, pooling="cls", projection=projection).eval()


def _encoder_state(state: dict[str, torch.Tensor], *, keeps_pooler: bool) -> dict[str, torch.Tensor]:
    """The same weights under the names of `CoSENTModel`: the pooler is its projection, and stays where stock BERT has
    one; the head of the language model is left out."""
    pooler = "bert.pooler.dense."
    named = {f"encoder.{name[5:]}": value for name, value in state.items() if name.startswith("bert.")}
    linear = {f"projection.linear.{kind}": state[pooler + kind] for kind in ("weight", "bias")}
    return {name: value for name, value in named.items() if keeps_pooler or ".pooler." not in name} | linear


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
         "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_dropout_prob",
         "attention_probs_dropout_prob", "initializer_range")  # fmt: skip


def _build(target: str, config: BertConfig, **fields: Any) -> PreTrainedModel:
    """A model in evaluation mode with the sizes of `config` and the given fields."""
    config_class, model_class = CLASSES[target]
    if target in DEFAULT_TARGETS.values() and target != "unilm":
        fields.pop("position_embedding_type")
    return model_class(config_class(**{name: getattr(config, name) for name in SIZES}, **fields)).eval()


@torch.no_grad()
def _difference(model: PreTrainedModel, arrays: Arrays, config: BertConfig, family: str) -> float:
    """Largest difference of logits where all tokens see each other, or of vectors."""
    vector = isinstance(model, CoSENTModel)
    largest = 0.0
    for sentence in SENTENCES:
        ids = [int(fraction * (config.vocab_size - 1)) for fraction in sentence]
        inputs = torch.tensor([ids])
        output: Any = model(input_ids=inputs, token_type_ids=torch.zeros_like(inputs))
        found = (output.sentence_embedding if vector else output.logits)[0].numpy()
        largest = max(largest, float(np.abs(found - numpy_logits(arrays, config, family, ids, vector)).max()))
    return largest
