"""Our models under the stock Trainer, and what transformers expects of any model."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments

from suzoo.data.dialogpt import dialogue_batch, encode_dialogue
from suzoo.data.tta import encode_sentence, tta_batch
from suzoo.data.unilm import encode_source_target, unilm_batch
from suzoo.models._dialogue import DialogueLayout
from tests.models.tiny import FAMILIES, SIZES, tiny, tiny_tokenizer, tokens

TEXTS = ["今天天气很好", "我你他", "在这上大来和国去", "吃饭了吗", "是的不在", "今天吃饭", "你是我的", "大国"]


def examples_of(family: str):
    """Eight examples of different lengths, and the collate function."""
    tokenizer = tiny_tokenizer()
    if family == "unilm":
        budgets = {"max_source_tokens": 16, "max_target_tokens": 8}
        return [encode_source_target(tokenizer, text, text[:3], **budgets) for text in TEXTS], unilm_batch
    if family == "dialogpt":
        layout = DialogueLayout.of_tokenizer("dialogpt", tokenizer)
        return [encode_dialogue(tokenizer, layout, [t, t[:2]], max_tokens=32) for t in TEXTS], dialogue_batch
    return [encode_sentence(tokenizer, text, max_tokens=16) for text in TEXTS], tta_batch


def train(family: str, folder, *, accumulate: int, steps: int, dropout: float):
    model = tiny(family, double=False, initializer_range=0.1, hidden_dropout_prob=dropout,
                 attention_probs_dropout_prob=dropout)  # fmt: skip
    examples, collate = examples_of(family)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        data_seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_of_the_stock_trainer_learn(family, tmp_path):
    _, losses = train(family, tmp_path, accumulate=1, steps=20, dropout=0.1)
    assert len(losses) == 20 and losses[-1] < losses[0] / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_under_the_trainer_is_the_whole_batch(family, tmp_path):
    """Rows have different numbers of labels: a mean of means would give other weights."""
    whole, losses = train(family, tmp_path, accumulate=1, steps=2, dropout=0.0)
    parts, partial = train(family, tmp_path, accumulate=4, steps=2, dropout=0.0)
    assert partial == pytest.approx(losses, abs=1e-3)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=3e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_expects_of_a_model(family, tmp_path):
    config_class, model_class, _ = FAMILIES[family]
    auto = AutoModelForMaskedLM if family == "tta" else AutoModelForCausalLM
    config = AutoConfig.for_model(family, **SIZES)
    assert type(config) is config_class
    model = auto.from_config(config)
    assert type(model) is model_class
    assert type(AutoModel.from_config(config)) is type(model.bert)
    # fresh weights: normal with the range of the config, LayerNorms one, biases and padding zero
    weight = model.get_input_embeddings().weight
    assert weight[1:].std().item() == pytest.approx(0.4, rel=0.1) and (weight[0] == 0).all()
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
    with torch.device("meta"):
        empty = model_class(config)
    assert all(p.is_meta for p in empty.parameters())

    model = tiny(family, double=False)
    ids = tokens(1, 5)
    expected = model(ids).logits
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(clone(ids).logits, expected)
        assert clone.get_output_embeddings().weight is clone.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half(ids).logits.float(), expected, rtol=0.1, atol=0.5)
    types = {"token_type_ids": torch.ones_like(ids)} if family == "unilm" else {}  # UniLM wants to be told
    from_embeddings = model(inputs_embeds=model.get_input_embeddings()(ids), **types).logits
    torch.testing.assert_close(from_embeddings, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=model.get_input_embeddings()(ids))
    exported = torch.export.export(
        model, (), {"input_ids": ids, **({} if family == "tta" else {"use_cache": False})}, strict=False
    )
    again = exported.module()(input_ids=ids, **({} if family == "tta" else {"use_cache": False}))
    torch.testing.assert_close(again.logits, expected, rtol=0, atol=1e-5)


def test_importing_the_models_is_light_and_overrides_nothing():
    code = """
import sys
from transformers import PreTrainedModel, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig
import transformers.models.auto.configuration_auto as auto
known, loaded = dict(auto.CONFIG_MAPPING._mapping), set(sys.modules)
import suzoo.models
new = {name.split(".")[0] for name in set(sys.modules) - loaded}
heavy = new & {"accelerate", "datasets", "matplotlib", "pandas", "peft", "scipy", "sentence_transformers", "sklearn"}
assert not heavy, heavy
assert auto.CONFIG_MAPPING._mapping == known
ours = set(auto.CONFIG_MAPPING._extra_content)
assert ours >= {"unilm", "dialogpt", "tta"} and not ours & set(known)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
