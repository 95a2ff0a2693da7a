"""CoSENTModel and CoSENTCrossEncoder over every family of encoders they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.models._ragged import RAGGED_ENCODERS
from tests.reference.cosent_models import encode_one_by_one, predict_one_by_one
from tests.tiny import FAMILIES, PAIRS, SENTENCES, flatten, tiny_config, tiny_tokenizer

POOLINGS = ["cls", "mean", "first-last-avg"]


def tiny_model(family="bert", pooling="cls", **overrides) -> CoSENTModel:
    torch.manual_seed(1)
    model = CoSENTModel(tiny_config(family, **overrides), pooling=pooling).eval()
    model.tokenizer = tiny_tokenizer()
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = tiny_model(pooling="mean")
    folder = tmp_path_factory.mktemp("cosent")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_encode_equals_one_sentence_at_a_time(family, pooling):
    model = tiny_model(family, pooling)
    expected = encode_one_by_one(model.encoder, tiny_tokenizer(), SENTENCES, pooling)
    takes_ours = model.encoder._can_set_attn_implementation()  # ModernBERT from transformers 5.10 on
    assert model.ragged == (family in RAGGED_ENCODERS and takes_ours)
    np.testing.assert_allclose(model.encode(SENTENCES), expected, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_flat_and_padded_forward_agree_in_value_and_gradient(family):
    model = tiny_model(family, "mean").double()
    ids = tiny_tokenizer()(SENTENCES)["input_ids"]
    flat, lengths = flatten(ids)
    cotangent = torch.randn(len(ids), 32, dtype=torch.double)
    padded = tiny_tokenizer()(SENTENCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    results = []
    for inputs in ({"input_ids": flat, "lengths": lengths}, dict(padded)):
        model.zero_grad()
        out = model(**inputs)
        (out.sentence_embedding * cotangent).sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((out, grads))
    (one, grads), (other, other_grads) = results
    torch.testing.assert_close(one.sentence_embedding, other.sentence_embedding, rtol=1e-10, atol=1e-10)
    states = other.last_hidden_state[padded["attention_mask"].bool()]
    torch.testing.assert_close(one.last_hidden_state[0], states, rtol=1e-10, atol=1e-10)
    assert grads.keys() == other_grads.keys() and not any("pooler" in name for name in grads)
    for name in grads:
        torch.testing.assert_close(grads[name], other_grads[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_ignores_padding_on_either_side(pooling):
    model = tiny_model(pooling=pooling)
    tokenizer = tiny_tokenizer()
    alone = model(**tokenizer(SENTENCES[0], return_tensors="pt")).sentence_embedding
    for side in ("right", "left"):
        batch = tokenizer.pad(
            {"input_ids": tokenizer(SENTENCES[:2])["input_ids"]}, return_tensors="pt", padding_side=side
        )
        # positions restart for the left-padded row, as a tokenizer of that side would have them
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        out = model(**batch, position_ids=positions).sentence_embedding
        torch.testing.assert_close(out[:1], alone, atol=1e-5, rtol=1e-5)


def test_encode_keeps_order_computes_repeats_once_and_counts_cut_tokens():
    model = tiny_model()
    lengths_seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: lengths_seen.extend(kwargs["lengths"]), with_kwargs=True)
    vectors, truncated = model.encode(SENTENCES, max_length=6, return_truncated=True, batch_tokens=8)
    assert len(lengths_seen) == len(set(SENTENCES)) and max(lengths_seen) == 6
    assert (vectors[0] == vectors[6]).all()
    ids = tiny_tokenizer()(SENTENCES)["input_ids"]
    assert truncated.tolist() == [max(0, len(row) - 6) for row in ids]


def test_encode_options():
    model = tiny_model()
    model.prompts = {"query": "a man "}
    vectors = model.encode(SENTENCES)
    assert vectors.dtype == np.float32 and vectors.shape == (8, 32)
    assert model.encode(SENTENCES[0]).shape == (32,)
    assert model.encode([]).shape == (0, 32)
    unit = model.encode(SENTENCES, normalize=True, output="torch")
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(8))
    expected = model.encode(["a man x"])
    np.testing.assert_allclose(model.encode(["x"], prompt_name="query"), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode(["x"], prompt="a man "), expected, atol=1e-6)
    model.default_prompt_name = "query"
    np.testing.assert_allclose(model.encode(["x"]), expected, atol=1e-6)
    model.train()
    model.encode(["x"])
    assert model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(["x"], output="list"), "choose numpy or torch"),
        (lambda m: m.encode(["x", None]), "text 1 is of type NoneType"),
        (lambda m: m.encode(["x"], prompt_name="qurey"), "no prompt is called 'qurey'"),
        (lambda m: m.encode(["x"], max_length=1000), "positions for 72 tokens"),
        (lambda m: CoSENTModel(tiny_config(), pooling="max"), "choose one of cls, mean, last, first-last-avg"),
        (lambda m: setattr(m, "max_seq_length", 100), "max_seq_length=100, but this model has positions for 72 tokens"),
        (lambda m: m(torch.tensor([2, 3]), lengths=[3]), "lengths sum to 3, but input_ids has 2"),
        (lambda m: m.save_pretrained("x", push_to_hub=True), "save_pretrained does not push"),
        (lambda m: CoSENTModel(tiny_config()).encode(["x"]), "pass tokenizer="),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny_model())


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_keeps_every_bit_and_weights_have_the_stock_names(family, tmp_path):
    model = tiny_model(family, "mean")
    model.normalize, model.max_seq_length, model.prompts = True, 40, {"query": "a "}
    model.save_pretrained(tmp_path)
    again = CoSENTModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.encode(SENTENCES), model.encode(SENTENCES), atol=1e-6)
    assert (again.pooling, again.normalize, again.max_seq_length, again.prompts) == ("mean", True, 40, {"query": "a "})
    stock = AutoModel.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(stock) is type(model.encoder)
    assert all((stock.state_dict()[k] == v).all() for k, v in model.encoder.state_dict().items())
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    again.save_pretrained(tmp_path / "second")
    first, second = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "second/model.safetensors")
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


def test_first_last_avg_has_no_sentence_transformers_files(tmp_path):
    model = tiny_model(pooling="first-last-avg")
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists()
    again = CoSENTModel.from_pretrained(tmp_path)
    assert again.pooling == "first-last-avg"
    np.testing.assert_allclose(again.encode(SENTENCES), model.encode(SENTENCES), atol=1e-6)


def test_state_dict_argument_is_what_gets_written(saved, tmp_path):
    model, _ = saved
    zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=zeros)
    written = load_file(tmp_path / "model.safetensors")
    assert "embeddings.word_embeddings.weight" in written and not any(v.any() for v in written.values())


def test_plain_mlm_folder_loads_and_a_foreign_folder_does_not(tmp_path):
    mlm = AutoModelForMaskedLM.from_config(tiny_config()).eval()
    mlm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = CoSENTModel.from_pretrained(tmp_path, pooling="mean")
    expected = encode_one_by_one(mlm.bert, tiny_tokenizer(), SENTENCES, "mean")
    np.testing.assert_allclose(model.encode(SENTENCES), expected, atol=1e-6)
    tiny_config("bert", num_hidden_layers=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks encoder weights"):
        CoSENTModel.from_pretrained(tmp_path)


def test_attention_implementation_can_be_switched(saved):
    model, folder = saved
    eager = CoSENTModel.from_pretrained(folder, attn_implementation="eager")
    assert not eager.ragged
    np.testing.assert_allclose(eager.encode(SENTENCES), model.encode(SENTENCES), atol=1e-5)
    ids = tiny_tokenizer()(SENTENCES[:1], return_tensors="pt")
    assert eager(**ids, output_attentions=True).attentions[0].shape == (1, 4, 8, 8)
    eager.set_attn_implementation("sdpa")
    assert eager.encoder.config._attn_implementation == "sdpa"
    assert tiny_model("deberta-v2").config._attn_implementation != "sdpa"


def test_gradient_checkpointing_changes_nothing_on_flat_input():
    flat, lengths = flatten(tiny_tokenizer()(SENTENCES)["input_ids"])
    grads = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(3)
        model(flat, lengths=lengths).sentence_embedding.pow(2).sum().backward()
        grads.append(model.encoder.encoder.layer[0].output.dense.weight.grad)
    assert torch.equal(*grads)


def test_bfloat16_encode_is_close():
    model = tiny_model(pooling="mean")
    exact = model.encode(SENTENCES, normalize=True)
    half = model.to(torch.bfloat16).encode(SENTENCES, normalize=True)
    assert half.dtype == np.float32
    assert (exact * half).sum(1).min() > 0.999


def test_wrapper_flags_follow_the_encoder():
    assert tiny_model("bert")._supports_sdpa and tiny_model("bert")._supports_flash_attn
    assert not tiny_model("deberta-v2")._supports_sdpa


# The cross-encoder


def tiny_cross_encoder(family="bert") -> CoSENTCrossEncoder:
    torch.manual_seed(2)
    model = CoSENTCrossEncoder(tiny_config(family)).eval()
    model.tokenizer = tiny_tokenizer()
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_equals_one_pair_at_a_time_through_save_and_load(family, tmp_path):
    model = tiny_cross_encoder(family)
    model.max_seq_length = 50
    expected = predict_one_by_one(model.encoder, tiny_tokenizer(), PAIRS)
    np.testing.assert_allclose(model.predict(PAIRS), expected, atol=2e-6)
    model.save_pretrained(tmp_path)
    again = CoSENTCrossEncoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.predict(PAIRS), model.predict(PAIRS), atol=1e-6)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(stock) is type(model.encoder) and stock.config.num_labels == 1
    assert again.tokenizer.model_max_length == 50 and tiny_tokenizer().model_max_length == 64


def test_predict_takes_iterators_and_arrays():
    model = CoSENTCrossEncoder(tiny_config("bert")).eval()
    model.tokenizer = tiny_tokenizer()
    scores = model.predict(PAIRS)
    for pairs in (iter(PAIRS), zip(*zip(*PAIRS, strict=True), strict=True), np.array(PAIRS), [list(p) for p in PAIRS]):
        np.testing.assert_array_equal(model.predict(pairs), scores)
    assert model.predict(iter(())).shape == (0,)
    for wrong in (PAIRS[0], [3], np.array([["a", "b", "c"]])):
        with pytest.raises(ValueError, match="pair 0"):
            model.predict(wrong)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_a_classifier_of_three_labels_gives_its_encoder_and_a_fresh_head(problem_type, tmp_path):
    config = tiny_config("bert", num_labels=3, problem_type=problem_type)
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = CoSENTCrossEncoder.from_pretrained(tmp_path)
    assert model.encoder.classifier.weight.shape == (1, 32) and model.predict(PAIRS).shape == (len(PAIRS),)
    words = model.get_input_embeddings().weight
    assert torch.equal(words, classifier.get_input_embeddings().weight)
    assert CoSENTCrossEncoder.from_pretrained(tmp_path, config=config).config.num_labels == 1
    assert config.num_labels == 3
    with pytest.raises(ValueError, match="one label"):
        CoSENTCrossEncoder.from_pretrained(tmp_path, num_labels=3)
    small = tiny_config("bert", intermediate_size=16)
    for wrapper in (CoSENTCrossEncoder, CoSENTModel):
        with pytest.raises(ValueError, match="another size"):
            wrapper.from_pretrained(tmp_path, config=small, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("wrapper", [CoSENTModel, CoSENTCrossEncoder])
def test_tuples_where_no_dictionary_is_wanted(wrapper):
    model, batch = (
        wrapper(tiny_config("bert")).eval(),
        tiny_tokenizer()(SENTENCES[:2], padding=True, return_tensors="pt"),
    )
    flat = dict(zip(("input_ids", "lengths"), flatten(tiny_tokenizer()(SENTENCES[:2])["input_ids"]), strict=True))
    for inputs in (dict(batch), flat):
        named = model(**inputs)
        for plain in (model(**inputs, return_dict=False), model(**inputs, return_dict=False, output_attentions=True)):
            assert isinstance(plain, tuple) and torch.equal(plain[0], named[0])
    model.config.return_dict = False
    assert isinstance(model(**batch), tuple) and model(**batch, return_dict=True).keys() == named.keys()


def test_rank_orders_by_score_and_keeps_ties_in_order():
    model = tiny_cross_encoder()
    documents = [*SENTENCES, SENTENCES[3]]
    ranked = model.rank(SENTENCES[0], documents)
    scores = [hit["score"] for hit in ranked]
    assert scores == sorted(scores, reverse=True)
    places = [hit["corpus_id"] for hit in ranked]
    assert places.index(3) < places.index(8) and sorted(places) == list(range(9))
    assert [hit["text"] for hit in ranked[:2]] == [hit["text"] for hit in model.rank(SENTENCES[0], documents, top_k=2)]


def test_cross_encoder_starts_from_a_plain_encoder_and_predicts_nothing_for_nothing(saved):
    model = CoSENTCrossEncoder.from_pretrained(saved[1])
    assert model.predict(PAIRS).shape == (6,) and model.predict([]).shape == (0,)
    with pytest.raises(ValueError, match="pair 0 is not"):
        model.predict(["ab"])


@pytest.mark.parametrize("kind", [CoSENTModel, CoSENTCrossEncoder])
@pytest.mark.parametrize("interrupted", [False, True])
def test_every_submodule_keeps_its_mode(kind, interrupted, monkeypatch):
    """A frozen part in eval mode stays in it; also where Ctrl-C ends the call."""
    model = kind(tiny_config()).train()
    model.tokenizer = tiny_tokenizer()
    model.encoder.get_input_embeddings().eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2
    texts = ["a b"] if kind is CoSENTModel else [("a b", "c")]
    call = model.encode if kind is CoSENTModel else model.predict
    if interrupted:

        def interrupt(*arguments, **options):
            assert not model.training
            raise KeyboardInterrupt

        monkeypatch.setattr(model, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call(texts)
    else:
        call(texts)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_an_encoder_that_is_given_keeps_its_weights():
    """Also a module that was put into it by hand, which transformers would draw anew for the model around it."""
    encoder = tiny_model().encoder
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.full((50, 32), 0.25)))
    model = CoSENTModel(encoder.config, encoder)
    assert model.encoder is encoder and (encoder.get_input_embeddings().weight == 0.25).all()
