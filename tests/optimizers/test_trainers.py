"""The optimizers in the real Trainer of transformers and that of sentence-transformers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    Trainer,
    TrainingArguments,
)

from suzoo.optimizers import (
    Accumulated,
    AccumulatedAdamW,
    AccumulatedSGD,
    AdaFactor,
    AdaX,
    AdaXW,
    Lion,
    LoRAOptimizer,
    Tiger,
    param_groups,
)

CONFIG = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def classifier() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG)


def rows() -> Dataset:
    """Two languages: label 1 uses the tokens from 5 to 16, label 0 those from 17 on."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 17, (64, 8), generator=generator)
    ids[1::2] += 12
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": [1, 0] * 32})


def arguments(folder, **options) -> dict:
    return {
        "output_dir": str(folder), "per_device_train_batch_size": 16, "num_train_epochs": 8, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 4, **options,
    }  # fmt: skip


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


BY_CLASS = {
    "Lion": (Lion, {"lr": 3e-3}),
    "Tiger": (Tiger, {"lr": 0.2}),
    "AdaX": (AdaX, {"lr": 0.01}),
    "AdaXW": (AdaXW, {"lr": 0.01}),
    "AdaFactor": (AdaFactor, {"lr": 0.2}),
    "AccumulatedSGD": (AccumulatedSGD, {"lr": 0.1}),
    "AccumulatedAdamW": (AccumulatedAdamW, {"lr": 5e-3}),
}


@pytest.mark.parametrize("name", BY_CLASS)
def test_transformers_trainer_by_class(name, tmp_path):
    """Its learning_rate is not ours: `optimizer_cls_and_kwargs` sets lr. Clipping is on, as by default."""
    trainer = Trainer(
        classifier(),
        TrainingArguments(**arguments(tmp_path)),
        train_dataset=rows(),
        optimizer_cls_and_kwargs=BY_CLASS[name],
    )
    history = losses(trainer)
    assert history[-1] < 0.8 * history[0]


ACCUMULATING = {
    "Tiger": lambda m: Tiger(param_groups(m, weight_decay=0.01), lr=0.2, accumulation_steps=2),
    "AccumulatedAdamW": lambda m: AccumulatedAdamW(m.parameters(), 0.01, accumulation_steps=2, free_gradients=True),
    "Accumulated": lambda m: Accumulated(torch.optim.AdamW(m.parameters(), 0.01), 2, max_grad_norm=1.0),
    "LoRAOptimizer": lambda m: LoRAOptimizer(m.parameters(), lambda g: torch.optim.AdamW(g, lr=0.01), r=2),
}


@pytest.mark.parametrize("name", ACCUMULATING)
def test_transformers_trainer_with_an_instance(name, tmp_path):
    model = classifier()
    optimizer = ACCUMULATING[name](model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = Trainer(
        model,
        TrainingArguments(**arguments(tmp_path, max_grad_norm=0.0)),
        train_dataset=rows(),
        optimizers=(optimizer, schedule),
    )
    history = losses(trainer)
    assert history[-1] < 0.8 * history[0]


def test_accumulated_in_the_trainer_is_a_larger_batch(tmp_path):
    """The Trainer removes the model's gradients after every call of `step`."""

    def weights(num_steps: int, wrap, **options) -> list[torch.Tensor]:
        model = classifier()
        optimizer = wrap(torch.optim.SGD(model.parameters(), 0.1))
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        options = {"max_grad_norm": 0.0, "max_steps": num_steps, **options}
        Trainer(
            model,
            TrainingArguments(**arguments(tmp_path, **options)),
            train_dataset=rows(),
            optimizers=(optimizer, constant),
        ).train()
        return [param.detach() for param in model.parameters()]

    ours = weights(4, lambda optimizer: Accumulated(optimizer, 2))
    theirs = weights(2, lambda optimizer: optimizer, per_device_train_batch_size=32)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["AccumulatedSGD", "Accumulated"])
def test_transformers_trainer_s_clipping_is_refused_where_it_would_be_wrong(tmp_path, name):
    model = classifier()
    optimizers = {
        "AccumulatedSGD": AccumulatedSGD(model.parameters(), 0.1, accumulation_steps=2),
        "Accumulated": Accumulated(torch.optim.SGD(model.parameters(), 0.1), 2),
    }
    optimizer = optimizers[name]
    trainer = Trainer(
        model,
        TrainingArguments(**arguments(tmp_path, max_grad_norm=0.01)),
        train_dataset=rows(),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    with pytest.raises(RuntimeError, match="max_grad_norm=0"):
        trainer.train()


def test_transformers_trainer_resumes(tmp_path):
    """Weights and optimizer from a checkpoint in the middle give the end of the uninterrupted run."""

    def trainer(folder):
        return Trainer(
            classifier(),
            TrainingArguments(**arguments(folder, save_strategy="steps", save_steps=3, max_steps=6)),
            train_dataset=rows(),
            optimizer_cls_and_kwargs=(AdaFactor, {"lr": 0.02, "beta1": 0.9}),
        )

    whole, again = trainer(tmp_path), trainer(tmp_path)
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = [*"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(CONFIG).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BY_CLASS)
def test_sentence_transformers_trainer(name, tmp_path, encoder):
    transformer = Transformer(str(encoder))
    model = SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")
    pairs = Dataset.from_dict(
        {"a": ["a b c", "d e f"] * 16, "b": ["a b d", "x y z"] * 16, "score": [0.0, 1.0] * 16}  # against the overlap
    )
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(**arguments(tmp_path / "out")),
        train_dataset=pairs,
        loss=CoSENTLoss(model),
        optimizer_cls_and_kwargs=BY_CLASS[name],
    )
    history = losses(trainer)
    assert history[-1] < 0.8 * history[0]
