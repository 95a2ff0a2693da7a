"""The documented adapters in the real trainers: a few steps of tiny random models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, BertModel, Trainer, TrainingArguments

from suzoo.losses import (
    CosineLinear,
    am_softmax_loss,
    contrastive_loss,
    cosent_loss,
    focal_loss,
    multilabel_cross_entropy,
)
from suzoo.losses.adapters import EmbeddingLoss, PairScoreLoss

TINY = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def arguments(kind, folder, **options):
    return kind(
        str(folder),
        per_device_train_batch_size=8,
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )


def test_compute_loss_func_of_transformers_sees_the_whole_step(tmp_path):
    """Three micro-batches of one step must give the gradient of one batch: num_items does it."""
    torch.manual_seed(0)
    data = Dataset.from_dict({"input_ids": torch.randint(0, 40, (24, 6)).tolist(), "labels": [0, 1, 2] * 8})
    counts = []

    def loss(outputs, labels, num_items_in_batch=None):
        counts.append(int(num_items_in_batch))
        return focal_loss(outputs.logits, labels, num_items=num_items_in_batch)

    trained = []
    for batch_size, accumulation in ((24, 1), (8, 3)):
        torch.manual_seed(0)
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = BertForSequenceClassification(BertConfig(num_labels=3, **TINY, **dropout))
        args = arguments(TrainingArguments, tmp_path, gradient_accumulation_steps=accumulation, learning_rate=1e-2)
        args.per_device_train_batch_size = batch_size
        args.max_steps = 2
        Trainer(model, args, train_dataset=data, compute_loss_func=loss).train()
        trained.append(model.classifier.weight.detach().clone())
    assert set(counts) == {24}
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-3, atol=1e-5)


def test_num_items_of_the_trainer_counts_elements(tmp_path):
    """docs/losses.md divides it by C for a loss of rows, and never by the accumulation steps."""
    counts = []

    def loss(outputs, labels, num_items_in_batch=None):
        counts.append(int(num_items_in_batch))
        return multilabel_cross_entropy(outputs.logits, labels, num_items=num_items_in_batch / 3)

    data = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 16, "labels": [[1.0, 0.0, 1.0]] * 16})
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(BertConfig(num_labels=3, **TINY, **dropout))
    args = arguments(TrainingArguments, tmp_path, gradient_accumulation_steps=2, learning_rate=0.0)
    trainer = Trainer(model, args, train_dataset=data, compute_loss_func=loss)
    trainer.train()
    assert set(counts) == {16 * 3}
    batch = {key: torch.tensor(data[key]) for key in ("input_ids", "labels")}
    expected = multilabel_cross_entropy(model(batch["input_ids"]).logits, batch["labels"]).item()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A SentenceTransformer around a tiny random BERT with a character vocabulary."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(**TINY)).save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(TINY["hidden_size"])], device="cpu")


@pytest.mark.parametrize("name", ["cosent_loss", "contrastive_loss"])
def test_embedding_loss_trains_under_sentence_transformers(encoder, tmp_path, name):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    columns = {"a": ["a b", "c d", "e f", "g h"] * 4, "b": ["a b", "c d", "x y", "u v"] * 4}
    if name == "cosent_loss":
        data = Dataset.from_dict({**columns, "score": [1.0, 1.0, 0.0, 0.0] * 4})
        function = lambda a, b, y: cosent_loss(F.cosine_similarity(a, b), y)  # noqa: E731
    else:
        data = Dataset.from_dict(columns)
        function = lambda a, b, _: contrastive_loss(a, b)  # noqa: E731
    loss = EmbeddingLoss(encoder, function, names=[name])
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    args = arguments(SentenceTransformerTrainingArguments, tmp_path, learning_rate=1e-2)
    trainer = SentenceTransformerTrainer(encoder, args, train_dataset=data, loss=loss)
    trainer.train()
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in trainer.state.log_history if "loss" in row)
    assert any(not torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    encoder.save_pretrained(str(tmp_path / "saved"))
    card = (tmp_path / "saved/README.md").read_text()
    assert "kexue.fm/archives" in card and f'"losses": "{name}"' in card


GLOBAL_HEAD = CosineLinear(TINY["hidden_size"], 3)


def test_a_head_of_the_loss_is_trained_or_refused(encoder, tmp_path):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    head = CosineLinear(TINY["hidden_size"], 3)
    function = lambda e, y: am_softmax_loss(head(e), y)  # noqa: E731
    for kind, unseen in (
        (EmbeddingLoss, function),
        (PairScoreLoss, function),
        (EmbeddingLoss, lambda e, y: am_softmax_loss(GLOBAL_HEAD(e), y)),
    ):
        with pytest.raises(ValueError, match=r"would not train; pass modules=\[(head|GLOBAL_HEAD)\]"):
            kind(encoder, unseen)
    loss = EmbeddingLoss(encoder, function, names=["am_softmax_loss"], modules=[head])
    before = head.weight.detach().clone()
    data = Dataset.from_dict({"text": ["a b", "c d", "e f"] * 4, "label": [0, 1, 2] * 4})
    args = arguments(SentenceTransformerTrainingArguments, tmp_path, learning_rate=1e-2)
    SentenceTransformerTrainer(encoder, args, train_dataset=data, loss=loss).train()
    assert (head.weight - before).norm() > 1e-2
    frozen = head.requires_grad_(False)
    EmbeddingLoss(encoder, lambda e, y: am_softmax_loss(frozen(e), y))  # a teacher, say
    EmbeddingLoss(encoder, lambda e, y: e.sum() + sum(p.sum() for p in encoder.parameters()))  # the model itself
