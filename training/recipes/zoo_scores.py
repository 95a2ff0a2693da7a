"""How the members of the zoo are scored on rows that they have not seen: a function per task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.generation import pseudo_perplexity, title_scores
from recipes.labelled import LabelledLoss, dev_loss, next_token
from recipes.zoo_data import KINDS

import torch
from transformers import AutoModelForSequenceClassification, BertForMaskedLM

from suzoo.data import dialogue_batch, encode_dialogue, load_tokenizer, numbers
from suzoo.evaluation import (
    classification_scores,
    generation_scores,
    masked_log_likelihoods,
    pair_cosines,
    pair_metrics,
)
from suzoo.models import (
    CoSENTCrossEncoder,
    CoSENTModel,
    DialoGPTForCausalLM,
    TTAConfig,
    TTAForMaskedLM,
    UniLMForCausalLM,
)
from suzoo.models._dialogue import DialogueLayout

Scores = dict[str, float]
CLAUSE_ENDS = ",，。！？；：:!?;"


def scores(task: str, folder: Path, tests: Mapping[str, tuple[str, Path]]) -> dict[str, Scores]:
    """Test -> metrics of the model in `folder`.

    Args:
        task: of the member.
        tests: name -> the kind of its rows, as `recipes.zoo_data.KINDS` names it, and its file.
    """
    score = TASKS[task](folder)
    return {name: score(KINDS[kind].read(str(path))) for name, (kind, path) in tests.items()}


def of_encoder(folder: Path) -> Callable[[Any], Scores]:
    model = CoSENTModel.from_pretrained(folder)
    return lambda pairs: pair_metrics(pair_cosines(model.encode, pairs), numbers(pairs, "label"))


def of_reranker(folder: Path) -> Callable[[Any], Scores]:
    model = CoSENTCrossEncoder.from_pretrained(folder)

    def score(pairs: Sequence[Any]) -> Scores:
        return pair_metrics(model.predict([(pair.text1, pair.text2) for pair in pairs]), numbers(pairs, "label"))

    return score


def of_classifier(folder: Path) -> Callable[[Any], Scores]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = load_tokenizer(str(folder))

    @torch.no_grad()
    def score(rows: Sequence[Any]) -> Scores:
        predicted = []
        for start in range(0, len(rows), 64):
            texts = [row.text for row in rows[start : start + 64]]
            inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
            predicted += model(**inputs).logits.argmax(1).tolist()
        numbers_of = model.config.label2id  # a class that it has not learnt is one that it does not find
        true = [numbers_of.get(row.labels[0], len(numbers_of)) for row in rows]
        found = classification_scores(torch.tensor(predicted), torch.tensor(true))
        return {name: found[name] for name in ("accuracy", "macro_f1")}

    return score


def of_masked(folder: Path) -> Callable[[Any], Scores]:
    """Pseudo-perplexity of texts, and of minimal pairs the share in which the good sentence is the likelier one."""
    tokenizer = load_tokenizer(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_tta = config["model_type"] == TTAConfig.model_type
    model: Any = (TTAForMaskedLM if is_tta else BertForMaskedLM).from_pretrained(folder).eval()

    def likelihood(text: str) -> float:
        if is_tta:
            return float(model.score([text], tokenizer=tokenizer))
        inputs = tokenizer(text, truncation=True, return_special_tokens_mask=True, return_tensors="pt")
        scored = inputs.pop("special_tokens_mask") == 0
        return float(masked_log_likelihoods(model, inputs, scored, mask_token_id=tokenizer.mask_token_id).sum())

    def score(rows: Sequence[Any]) -> Scores:
        if isinstance(rows[0], str):
            return {"pseudo_perplexity": pseudo_perplexity(model, tokenizer, rows, tokenizer.model_max_length)}
        return {"accuracy": sum(likelihood(row.target) > likelihood(row.source) for row in rows) / len(rows)}

    return score


def of_titles(folder: Path) -> Callable[[Any], Scores]:
    """ROUGE of the titles, and of the first clause of each text in place of a title."""
    model, tokenizer = UniLMForCausalLM.from_pretrained(folder).eval(), load_tokenizer(str(folder))

    def score(rows: Sequence[Any]) -> Scores:
        written = title_scores(model, tokenizer, rows)
        clauses = [first_clause(row.source) for row in rows]
        baseline = generation_scores(clauses, [row.target for row in rows])
        return {name: written[name] for name in ("rouge_1", "rouge_2", "rouge_l")} | {
            "rouge_l of the first clause": baseline["rouge_l"]
        }

    return score


def first_clause(text: str) -> str:
    return next((text[:place] for place, c in enumerate(text) if place and c in CLAUSE_ENDS), text)


def of_dialogues(folder: Path) -> Callable[[Any], Scores]:
    """Perplexity per token of the last turn, behind its own history and behind that of another dialogue."""
    model, tokenizer = DialoGPTForCausalLM.from_pretrained(folder).eval(), load_tokenizer(str(folder))
    rules = DialogueLayout.of_tokenizer(model.config.layout, tokenizer)

    module = LabelledLoss(model).eval()

    def found(dialogues: Sequence[tuple[str, ...]]) -> float:
        length = tokenizer.model_max_length
        examples = [encode_dialogue(tokenizer, rules, turns, learn="last", max_tokens=length) for turns in dialogues]
        examples.sort(key=lambda example: len(example["input_ids"]))
        batches = []
        for start in range(0, len(examples), 32):
            batch = dialogue_batch(examples[start : start + 32], pad_token_id=tokenizer.pad_token_id)
            batches.append(batch | {"labels": next_token(batch["labels"])})
        return dev_loss(module, batches, model.device)["perplexity"]

    def score(dialogues: Sequence[tuple[str, ...]]) -> Scores:
        others = [*dialogues[1:], dialogues[0]]
        swapped = [(*other[:-1], turns[-1]) for turns, other in zip(dialogues, others, strict=True)]
        return {"perplexity": found(dialogues), "perplexity with another history": found(swapped)}

    return score


TASKS = {
    "encoder": of_encoder,
    "reranker": of_reranker,
    "classifier": of_classifier,
    "masked": of_masked,
    "titles": of_titles,
    "dialogues": of_dialogues,
}
