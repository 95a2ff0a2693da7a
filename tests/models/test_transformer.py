"""What the three models on the house backbone promise alike."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from suzoo.models import DialoGPTForCausalLM, TTAForMaskedLM, UniLMForCausalLM
from tests.models.tiny import FAMILIES, POSITIONS, SIZES, source_target, tiny, tokens
from tests.reference import transformer as reference

FAMILY = pytest.mark.parametrize("family", FAMILIES)


def inputs_of(family: str, ids: torch.Tensor, source: int = 3) -> dict[str, torch.Tensor]:
    types = source_target(len(ids), source, ids.shape[1] - source) if family == "unilm" else torch.zeros_like(ids)
    return {"input_ids": ids, "token_type_ids": types}


@FAMILY
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_logits_and_gradients_equal_the_reference(family, positions, norm_first):
    model = tiny(family, position_embedding_type=positions, norm_first=norm_first)
    ids = tokens(2, 8)
    inputs = inputs_of(family, ids)
    logits = model(**inputs).logits
    state = dict(model.named_parameters())
    expected = torch.stack(
        [
            reference.logits(state, model.config, row.tolist(), types.tolist(), FAMILIES[family][2])
            for row, types in zip(ids, inputs["token_type_ids"], strict=True)
        ]
    )
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    cotangent = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(2))
    names = [name for name, parameter in state.items() if parameter.requires_grad]
    ours = torch.autograd.grad(logits, [state[name] for name in names], cotangent)
    theirs = torch.autograd.grad(expected, [state[name] for name in names], cotangent)
    for name, mine, right in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-9, msg=name)


@FAMILY
@pytest.mark.parametrize(
    ("implementation", "positions"),
    [("sdpa", "absolute"), ("sdpa", "rope"), ("eager", "absolute"), ("eager", "rope"), ("eager", "nezha")],
)
def test_visibility_through_the_whole_model(family, implementation, positions):
    """A token that may not be seen has no gradient at all, whatever path it takes through the layers."""
    model = tiny(family, position_embedding_type=positions, attn_implementation=implementation)
    ids = tokens(1, 7)
    inputs = inputs_of(family, ids)
    word = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=word, token_type_ids=inputs["token_type_ids"]).logits
    rows = [torch.autograd.grad(logits[0, i].square().sum(), word, retain_graph=True)[0][0] for i in range(7)]
    seen = torch.stack(rows).norm(dim=-1)
    allowed = reference.may_see(FAMILIES[family][2], inputs["token_type_ids"][0].tolist())
    assert (seen[~allowed] == 0).all()
    assert (seen[allowed] > 1e-6).all()


@FAMILY
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_changes_nothing(family, implementation):
    model = tiny(family, attn_implementation=implementation)
    ids = tokens(3, 9)
    lengths = [9, 6, 1]
    right, left = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    right_types, left_types = torch.zeros_like(right), torch.zeros_like(left)
    singles = []
    for row, length in enumerate(lengths):
        types = torch.tensor([0] * min(3, length) + [1] * max(0, length - 3)) if family == "unilm" else None
        types = torch.zeros(length, dtype=torch.long) if types is None else types
        right[row, :length], left[row, 9 - length :] = ids[row, :length], ids[row, :length]
        right_types[row, :length], left_types[row, 9 - length :] = types, types
        singles.append(model(ids[row : row + 1, :length], token_type_ids=types[None]).logits[0])
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in lengths])
    on_the_right = model(right, attention_mask=mask, token_type_ids=right_types).logits
    on_the_left = model(left, attention_mask=mask.flip(1), token_type_ids=left_types).logits
    for row, length in enumerate(lengths):
        torch.testing.assert_close(on_the_right[row, :length], singles[row], rtol=0, atol=1e-10)
        torch.testing.assert_close(on_the_left[row, 9 - length :], singles[row], rtol=0, atol=1e-10)


@FAMILY
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("token_type", [0, 1])
def test_a_single_token(family, positions, token_type):
    model = tiny(family, position_embedding_type=positions)
    logits = model(torch.tensor([[7]]), token_type_ids=torch.tensor([[token_type]])).logits[0]
    expected = reference.logits(dict(model.named_parameters()), model.config, [7], [token_type], FAMILIES[family][2])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    if family != "tta":
        options = {"max_new_tokens": 4, "eos_token_id": None}
        cached = model.generate(torch.tensor([[7]]), **options)
        assert torch.equal(cached, model.generate(torch.tensor([[7]]), use_cache=False, **options))


@FAMILY
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_padding_harms_nobody(family, implementation, dtype):
    model = tiny(family, double=False, attn_implementation=implementation).to(dtype)
    ids = tokens(2, 5)
    mask = torch.tensor([[1] * 5, [0] * 5])
    inputs = inputs_of(family, ids)
    alone = model(ids[:1], attention_mask=mask[:1], token_type_ids=inputs["token_type_ids"][:1]).logits
    labels = ids.masked_fill(mask == 0, -100)
    outputs = model(**inputs, attention_mask=mask, labels=labels)
    torch.testing.assert_close(outputs.logits[:1], alone, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.2)
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@FAMILY
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near_and_finite(family, positions, dtype):
    model = tiny(family, double=False, position_embedding_type=positions, initializer_range=0.1)
    ids = tokens(2, 6)
    mask = torch.tensor([[1] * 6, [0] * 5 + [1]])  # the second row is a lone token
    inputs = {**inputs_of(family, ids), "attention_mask": mask}
    exact = model(**inputs).logits
    model.set_attn_implementation("eager")
    with torch.autocast("cpu", dtype):
        outputs = model(**inputs, labels=ids.masked_fill(mask == 0, -100))
    torch.testing.assert_close(outputs.logits.float()[mask.bool()], exact[mask.bool()], rtol=0, atol=0.1)
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@FAMILY
def test_loss_is_the_mean_over_labels_and_zero_without(family):
    model = tiny(family, double=False)
    ids = tokens(2, 8)
    inputs = inputs_of(family, ids)
    labels = ids.clone()
    labels[1, 5:] = -100
    outputs = model(**inputs, labels=labels)
    predicted = [
        (row, place, place if family == "tta" else place - 1)
        for row in range(2)
        for place in range(8)
        if labels[row, place] != -100 and (family == "tta" or place > 0) and (family != "unilm" or place >= 3)
    ]
    log_probs = outputs.logits.log_softmax(-1)
    expected = -torch.stack([log_probs[row, at, labels[row, place]] for row, place, at in predicted]).mean()
    torch.testing.assert_close(outputs.loss, expected)
    summed = model(**inputs, labels=labels, num_items_in_batch=10).loss
    torch.testing.assert_close(summed, expected * len(predicted) / 10)
    nothing = model(**inputs, labels=torch.full_like(ids, -100)).loss
    assert nothing == 0
    nothing.backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


@FAMILY
def test_save_load_save_is_bit_equal(family, tmp_path):
    model = tiny(family, double=False)
    model.save_pretrained(tmp_path / "a")
    again = type(model).from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert (tmp_path / "a/config.json").read_text() == (tmp_path / "b/config.json").read_text()
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), again.parameters(), strict=True))


def bert_config() -> BertConfig:
    return BertConfig(**{key: value for key, value in SIZES.items() if not key.endswith(("relative_position", "_id"))})


@pytest.mark.parametrize("source", [BertForMaskedLM, BertForPreTraining])
def test_bert_folders_load_whole_and_back(source, tmp_path):
    torch.manual_seed(0)
    bert = source(bert_config()).eval()
    bert.save_pretrained(tmp_path / "bert")
    for _, model_class, _ in FAMILIES.values():
        model = model_class.from_pretrained(tmp_path / "bert").eval()
        assert model.config.model_type == model_class.config_class.model_type
        model.save_pretrained(tmp_path / "ours")
        stock = BertForMaskedLM.from_pretrained(tmp_path / "ours", config=bert_config()).eval()
        for name, parameter in stock.named_parameters():
            assert torch.equal(parameter, dict(bert.named_parameters())[name]), name


def test_the_dtype_of_a_stock_folder_is_that_of_its_config(tmp_path):
    """And not that of whatever tensor comes first in the weights."""
    tiny("dialogpt", double=False).to(torch.bfloat16).save_pretrained(tmp_path)
    for config_class, model_class, _ in FAMILIES.values():
        assert config_class.from_pretrained(tmp_path).dtype == torch.bfloat16
        assert model_class.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_loading_is_strict(tmp_path):
    BertModel(bert_config()).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match=r"missing: cls\.predictions"):
        UniLMForCausalLM.from_pretrained(tmp_path / "headless")
    model, info = TTAForMaskedLM.from_pretrained(tmp_path / "headless", output_loading_info=True)
    assert info["missing_keys"] and isinstance(model, TTAForMaskedLM)
    tiny("unilm", double=False, norm_first=True).save_pretrained(tmp_path / "pre")
    with pytest.raises(ValueError, match=r"unexpected: bert\.encoder\.LayerNorm"):
        DialoGPTForCausalLM.from_pretrained(tmp_path / "pre", norm_first=False)


def test_configs_refuse_what_cannot_work():
    for config_class, _, _ in FAMILIES.values():
        config_class()
        with pytest.raises(ValueError, match="position_embedding_type"):
            config_class(position_embedding_type="relative_key")
        with pytest.raises(ValueError, match="multiple"):
            config_class(hidden_size=30, num_attention_heads=4)
        with pytest.raises(ValueError, match="even head size"):
            config_class(hidden_size=12, num_attention_heads=4, position_embedding_type="rope")


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ValueError, match="roberta"):
        UniLMForCausalLM.from_pretrained(tmp_path)


@FAMILY
def test_flags_tell_the_truth(family):
    _, model_class, _ = FAMILIES[family]
    nezha = tiny(family, position_embedding_type="nezha")
    assert nezha.config._attn_implementation == "eager"
    for implementation in ("sdpa", "flex_attention"):
        with pytest.raises(ValueError, match="does not compute"):
            tiny(family, position_embedding_type="nezha", attn_implementation=implementation)
    nezha.config._attn_implementation_internal = "sdpa"
    with pytest.raises(ValueError, match="NEZHA"):
        nezha(tokens(1, 4))
    assert tiny(family).config._attn_implementation == "sdpa"
    if family != "dialogpt":
        with pytest.raises(ValueError, match=r"[Ff]lash"):
            model_class(tiny(family).config.__class__(**SIZES, attn_implementation="flash_attention_2"))


@FAMILY
def test_switching_the_attention_implementation(family):
    model = tiny(family)
    inputs = inputs_of(family, tokens(2, 8))
    sdpa = model(**inputs).logits
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(outputs.logits, sdpa, rtol=0, atol=1e-10)
    assert len(outputs.attentions) == 3 and outputs.attentions[0].shape == (2, 4, 8, 8)
    assert len(outputs.hidden_states) == 4
    assert torch.equal(outputs.hidden_states[-1], model.bert(**inputs).last_hidden_state)
    forbidden = ~reference.may_see(FAMILIES[family][2], inputs["token_type_ids"][0].tolist())
    assert all((weights[..., forbidden] == 0).all() for weights in outputs.attentions)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)


@FAMILY
def test_gradient_checkpointing_changes_no_gradient(family):
    inputs = inputs_of(family, tokens(2, 6))
    inputs["labels"] = inputs["input_ids"]
    gradients = []
    for checkpointing in (False, True):
        model = tiny(family, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in model.bert.encoder.layer)
        model.train()
        model(**inputs).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None) == (checkpointed is None)
        if plain is not None:
            torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-10)


@FAMILY
def test_resizing_keeps_the_tied_decoder_and_its_bias(family):
    model = tiny(family)
    inputs = inputs_of(family, tokens(1, 6))
    before = model(**inputs).logits
    model.resize_token_embeddings(50, mean_resizing=False)
    assert model.config.vocab_size == 50
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias is model.cls.predictions.bias and decoder.bias.shape == (50,)
    torch.testing.assert_close(model(**inputs).logits[..., :41], before, rtol=0, atol=1e-10)


@FAMILY
def test_lora(family):
    model = tiny(family, double=False)
    inputs = inputs_of(family, tokens(2, 6))
    before = model(**inputs).logits
    task = None if family == "tta" else "CAUSAL_LM"
    lora = LoraConfig(task_type=task, target_modules=["query", "value"], init_lora_weights=False)
    tuned = get_peft_model(model, lora)
    outputs = tuned(**inputs, labels=inputs["input_ids"])
    assert not torch.allclose(outputs.logits, before)
    outputs.loss.backward()
    trained = [name for name, p in tuned.named_parameters() if p.grad is not None]
    assert trained and all("lora" in name for name in trained)
    with tuned.disable_adapter():
        torch.testing.assert_close(tuned(**inputs).logits, before)
    if family != "tta":
        options = {"max_new_tokens": 5, "eos_token_id": None}
        by_adapter = tuned.generate(input_ids=inputs["input_ids"], **options)
        assert torch.equal(tuned.merge_and_unload().generate(inputs["input_ids"], **options), by_adapter)


@FAMILY
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_fullgraph(family, backend):
    model = tiny(family, double=False)
    inputs = inputs_of(family, tokens(2, 8))
    inputs["attention_mask"] = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
    options = {} if family == "tta" else {"use_cache": False}
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(
        compiled(**inputs, **options).logits, model(**inputs, **options).logits, rtol=0, atol=1e-4
    )


@FAMILY
@pytest.mark.slow
def test_flex_attention(family):
    model = tiny(family, double=False, attention_probs_dropout_prob=0.0)
    inputs = inputs_of(family, tokens(2, 8))
    sdpa = model(**inputs).logits
    model.set_attn_implementation("flex_attention")
    assert model.config._attn_implementation == "flex_attention"
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, sdpa, rtol=0, atol=1e-4)


def test_too_many_tokens_is_one_sentence():
    with pytest.raises(ValueError, match="absolute positions"):
        tiny("tta")(tokens(1, 65))
    assert tiny("tta", position_embedding_type="rope")(tokens(1, 65)).logits.shape == (1, 65, 41)


class Int8(nn.Module):
    """What a quantizer puts in the place of `nn.Linear`: no subclass of it, and no `weight`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1) / 127
        self.rounded = (linear.weight.detach() / self.scale[:, None]).round().to(torch.int8)
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.rounded.to(input.dtype) * self.scale[:, None], self.bias)


class ScaledWeight(torch.Tensor):
    """What torchao puts in the place of a weight: a tensor of its own kind that knows one product."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.addmm, torch.mm, torch.matmul):
            raise NotImplementedError(f"no {function.__name__} for this kind of weight")
        return super().__torch_function__(function, types, args, kwargs or {})


@FAMILY
def test_quantizers_may_replace_linear_modules_and_weights(family):
    """As torchao, quanto and bitsandbytes do; single steps take another product where weights are plain."""
    model, replaced, wrapped = (tiny(family, double=False, initializer_range=0.1) for _ in range(3))
    for module in list(replaced.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8(child))
    assert not any(isinstance(module, nn.Linear) for module in replaced.modules())
    for module in wrapped.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().as_subclass(ScaledWeight)
            module.weight = nn.Parameter(weight, requires_grad=False)
    inputs = inputs_of(family, tokens(1, 6))
    with torch.no_grad():
        logits = model(**inputs).logits
        torch.testing.assert_close(replaced(**inputs).logits, logits, rtol=0, atol=0.05 * logits.abs().max().item())
        torch.testing.assert_close(wrapped(**inputs).logits, logits, rtol=0, atol=1e-5)
    if family != "tta":
        options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0}
        expected = model.generate(tokens(1, 6), **options)
        assert torch.equal(wrapped.generate(tokens(1, 6), **options), expected)
        assert replaced.generate(tokens(1, 6), **options).shape == (1, 10)


@FAMILY
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [50, 41, 30])
def test_resized_models_reopen_tied_or_not(family, tied, vocab_size, tmp_path):
    model = tiny(family, double=False, tie_word_embeddings=tied, **({"mask_token_id": 20} if family == "tta" else {}))
    model.resize_token_embeddings(vocab_size)
    model.save_pretrained(tmp_path)
    reopened = type(model).from_pretrained(tmp_path)
    ids = tokens(2, 6) % 30
    assert torch.equal(reopened(ids).logits, model(ids).logits)
    assert reopened(ids).logits.shape[-1] == vocab_size
    assert (reopened.get_output_embeddings().weight is reopened.get_input_embeddings().weight) == tied


@FAMILY
def test_adapters_need_no_target_modules(family):
    """peft knows BERT's modules, and ours have their names."""
    for config in (LoraConfig(), IA3Config()):
        tuned = get_peft_model(tiny(family, double=False), config)
        names = {name.rsplit(".", 2)[-2] for name, _ in tuned.named_modules() if name.endswith((".lora_A", ".ia3_l"))}
        assert {"query", "value"} <= names or {"key", "value"} <= names
        tuned(**inputs_of(family, tokens(1, 6)), labels=tokens(1, 6)).loss.backward()
