"""Nobody is locked to `fit`: both models train under the stock Trainers of transformers and sentence-transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as EncoderArguments
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import Trainer, TrainingArguments

from suzoo.losses import cosent_loss
from suzoo.losses.adapters import EmbeddingLoss, PairScoreLoss
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from tests.tiny import LABELS, PAIRS, tiny_config, tiny_tokenizer

COMMON = {
    "max_steps": 20,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 6,
    "report_to": "none",
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
ROWS = [{"text1": a, "text2": b, "label": label} for (a, b), label in zip(PAIRS, LABELS, strict=True)]


def assert_learns(trainer) -> None:
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20 and losses[-1] < 0.7 * losses[0]


def encoder_batch(rows):
    texts = [text for row in rows for text in (row["text1"], row["text2"])]
    labels = torch.tensor([row["label"] for row in rows])
    return {**tiny_tokenizer()(texts, padding=True, return_tensors="pt"), "labels": labels}


def pair_batch(rows):
    inputs = tiny_tokenizer()(
        [row["text1"] for row in rows], [row["text2"] for row in rows], padding=True, return_tensors="pt"
    )
    return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}


def encoder_loss(outputs, labels, num_items_in_batch=None):
    vectors = outputs.sentence_embedding
    return cosent_loss(F.cosine_similarity(vectors[0::2], vectors[1::2]), labels)


def pair_loss(outputs, labels, num_items_in_batch=None):
    return cosent_loss(outputs.logits[:, 0], labels, scale=1.0)


@pytest.mark.parametrize(
    ("model_class", "collate", "loss"),
    [(CoSENTModel, encoder_batch, encoder_loss), (CoSENTCrossEncoder, pair_batch, pair_loss)],
)
def test_transformers_trainer(tmp_path, model_class, collate, loss):
    model = model_class(tiny_config())
    arguments = TrainingArguments(output_dir=tmp_path, remove_unused_columns=False, **COMMON)
    trainer = Trainer(
        model, arguments, train_dataset=Dataset.from_list(ROWS), data_collator=collate, compute_loss_func=loss
    )
    assert_learns(trainer)
    trainer.save_model(tmp_path / "saved")
    again = model_class.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_sentence_transformers_trainer(tmp_path):
    CoSENTModel(tiny_config(), pooling="mean").save_pretrained(tmp_path / "start", tokenizer=tiny_tokenizer())
    model = SentenceTransformer(str(tmp_path / "start"), device="cpu")
    loss = EmbeddingLoss(model, lambda a, b, y: cosent_loss(F.cosine_similarity(a, b), y), names=["cosent_loss"])
    arguments = EncoderArguments(output_dir=tmp_path, **COMMON)
    assert_learns(SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_list(ROWS), loss=loss))
    model.save_pretrained(str(tmp_path / "saved"))
    again = CoSENTModel.from_pretrained(tmp_path / "saved")
    texts = [row["text1"] for row in ROWS]
    assert abs(again.encode(texts) - model.encode(texts)).max() < 1e-5


def test_sentence_transformers_cross_encoder_trainer(tmp_path):
    CoSENTCrossEncoder(tiny_config()).save_pretrained(tmp_path / "start", tokenizer=tiny_tokenizer())
    model = CrossEncoder(str(tmp_path / "start"), device="cpu")
    arguments = CrossEncoderTrainingArguments(output_dir=tmp_path, **COMMON)
    loss = PairScoreLoss(model, lambda scores, labels: cosent_loss(scores, labels, scale=1.0), names=["cosent_loss"])
    assert_learns(CrossEncoderTrainer(model, arguments, train_dataset=Dataset.from_list(ROWS), loss=loss))
    model.save_pretrained(str(tmp_path / "saved"))
    again = CoSENTCrossEncoder.from_pretrained(tmp_path / "saved")
    assert abs(again.predict(PAIRS) - model.predict(PAIRS)).max() < 1e-5
