"""What the language models write and score at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recipes.base import Training
from recipes.choices import loading_options, sizes
from recipes.dialogpt import DialoGPT
from recipes.unilm import UniLM

import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from suzoo.data import SPEAKER_TOKENS, DialogueLayout, Turn, add_tokens, embedded, num_ids, read_confusions
from suzoo.evaluation import (
    article_scores,
    distinct_n_corpus,
    distinct_n_mean,
    generation_scores,
    masked_log_likelihoods,
    perplexity,
    spelling_scores,
)
from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM, TTAForMaskedLM, UniLMConfig, UniLMForCausalLM
from suzoo.models._configuration import READABLE_MODEL_TYPES
from suzoo.optimizers import ParameterSearch

# texts and references -> score, larger is better
OWN_METRICS = {
    "rouge_l": lambda texts, references: generation_scores(texts, references)["rouge_l"],
    "distinct_2": lambda texts, references: distinct_n_mean(texts, 2),
}


def check_search(recipe: UniLM, accelerator: Accelerator) -> None:
    """Refuse --own-metric where no process has the whole weights."""
    if recipe.own_metric != "none" and accelerator.distributed_type == "FSDP":
        raise ValueError("--own-metric writes texts with disturbed weights, which no process has whole: DDP only")


def in_search(recipe: UniLM, search: list[ParameterSearch], optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, for --own-metric in a search of weights, which then is in `search`, too."""
    if recipe.own_metric == "none":
        return optimizer
    options: Any = {"beta": recipe.search_beta, "noise": recipe.search_noise, "seed": recipe.seed}
    search.append(ParameterSearch(optimizer, num_candidates=recipe.search_candidates, **options))
    return search[0]


def title_scores(model, tokenizer, rows) -> dict[str, float]:
    """Scores of what a UniLM writes for sources, beside their targets; prints the first three."""
    titles = model.generate_texts([row.source for row in rows], tokenizer=tokenizer)
    references = [row.target for row in rows]
    print("\n".join(f"{title}  <- {row.source[:40]}…" for title, row in zip(titles[:3], rows, strict=False)))
    scores = generation_scores(titles, references) | article_scores(titles, references)
    return scores | {"distinct_2": distinct_n_mean(titles, 2)}


def texts_of(micro_batches, tokenizer, token_type: int) -> list[str]:
    """The sources (0) or targets (1) in batches of `unilm_batch`."""
    rows = []
    for batch in micro_batches:
        wanted = (batch["token_type_ids"] == token_type) & batch["attention_mask"].bool()
        rows += [ids[mask] for ids, mask in zip(batch["input_ids"], wanted, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def reply_scores(model, tokenizer, rules: DialogueLayout, dialogues, recipe: DialoGPT) -> dict[str, float]:
    """Share of greedy replies that are the dialogue's last turn, and how different sampled ones are."""
    greedy = replies(model, tokenizer, rules, dialogues, recipe, do_sample=False)
    sampled = replies(model, tokenizer, rules, dialogues, recipe)
    matches = [reply == turns[-1] for reply, turns in zip(greedy, dialogues, strict=True)]
    return {"exact_match": sum(matches) / len(matches)} | {
        f"distinct_{n}": distinct_n_corpus(sampled, n) for n in (1, 2)
    }


def make_chat_model(recipe: DialoGPT, tokenizer: Any) -> tuple[Any, Any, DialogueLayout]:
    """The model of --model or from scratch, ready to generate; the tokenizer with the speaker tokens of the layout and
    a padding token; and how they lay out dialogues.
    """
    trust = {"trust_remote_code": recipe.trust_remote_code}
    config = AutoConfig.from_pretrained(str(recipe.model_folder), **trust) if recipe.model else None
    is_ours = config is None or config.model_type in READABLE_MODEL_TYPES
    layout = recipe.layout or getattr(config, "layout", None) or ("cdial" if tokenizer.cls_token else "dialogpt")
    if layout == "blog" and not is_ours:
        raise ValueError(f"--layout blog keeps speakers in token types, which {recipe.model} does not read: use cdial")
    if layout == "cdial" and not set(SPEAKER_TOKENS) <= tokenizer.get_vocab().keys():
        tokenizer = add_tokens(tokenizer, SPEAKER_TOKENS, special=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    rules = DialogueLayout.of_tokenizer(layout, tokenizer)
    model: Any
    if config is None:
        ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        fields: dict[str, Any] = {**sizes(recipe, tokenizer), **ids, **recipe.scratch_fields}
        model = DialoGPTForCausalLM(DialoGPTConfig(**fields, layout=layout))
    elif is_ours:
        model = DialoGPTForCausalLM.from_pretrained(recipe.model_folder, layout=layout, dtype=recipe.weights_dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(recipe.model_folder), **loading_options(recipe))
        model.config.layout = layout
    if num_ids(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(num_ids(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=rules.sep_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=recipe.max_new_tokens,
        do_sample=True,
        top_k=5,  # the article's
        suppress_tokens=sorted({*tokenizer.all_special_ids, *rules.speaker_ids} - {rules.sep_id}),
    )
    return model, tokenizer, rules


def make_seq2seq_model(recipe: Training, tokenizer: Any, fields: dict[str, Any], **generation: Any) -> UniLMForCausalLM:
    """The UniLM of --model or from scratch, ready to generate.

    Args:
        fields: of the configuration of a model from scratch. generation: of the generation config.
    """
    ids: dict[str, Any] = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    if recipe.model:
        model = UniLMForCausalLM.from_pretrained(recipe.model_folder, dtype=recipe.weights_dtype)
    else:
        model = UniLMForCausalLM(UniLMConfig(**sizes(recipe, tokenizer), **ids, **fields))
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.pad_token_id, **generation)
    return model


def prompt_budget(model, recipe) -> int:
    """Tokens of a dialogue that leave room for a reply."""
    positions = getattr(model.config, "max_position_embeddings", None) or recipe.max_length + recipe.max_new_tokens
    return min(recipe.max_length, positions - recipe.max_new_tokens)


def replies(
    model, tokenizer, rules: DialogueLayout, dialogues, recipe, batch_size: int = 16, **generation: Any
) -> list[str]:
    """What the model says in place of each dialogue's last turn; `batch_size` of similar length are read at once."""
    budget, prompts = prompt_budget(model, recipe), []
    for turns in dialogues:
        heard = [Turn.of_text(tokenizer, text, place % 2) for place, text in enumerate(turns[:-1])]
        prompts.append(rules.render_prompt(rules.newest(heard, budget), (len(turns) - 1) % 2))
    names = ("input_ids", "token_type_ids") if rules.name == "blog" else ("input_ids",)
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].input_ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts = {name: [list(getattr(prompts[row], name)) for row in rows] for name in names}
        batch = tokenizer.pad(parts, padding_side="left", return_attention_mask=True, return_tensors="pt")
        output = model.generate(**batch.to(model.device), **generation)
        new_tokens = output[:, batch["input_ids"].shape[1] :]
        for row, text in zip(rows, tokenizer.batch_decode(new_tokens, skip_special_tokens=True), strict=True):
            found[row] = text
    return found


@torch.no_grad()
def pseudo_perplexity(model, tokenizer, texts: Sequence[str], max_length: int) -> float:
    """exp of the mean of -log p(token | all other tokens): one pass of T-TA, one pass per token of a masked model."""
    nlls, counts = [], []
    for text in texts:
        inputs = tokenizer(
            text, truncation=True, max_length=max_length, return_special_tokens_mask=True, return_tensors="pt"
        ).to(model.device)
        scored = inputs.pop("special_tokens_mask") == 0
        if isinstance(model, TTAForMaskedLM):
            log_probs = (
                model(**inputs).logits.float().log_softmax(-1).gather(-1, inputs["input_ids"][..., None])[..., 0]
            )
        else:
            log_probs = masked_log_likelihoods(model, inputs, scored, mask_token_id=tokenizer.mask_token_id)
        nlls.append(-float((log_probs * scored).sum()))
        counts.append(int(scored.sum()))
    return perplexity(nlls, counts)


def correct(model, tokenizer, text: str, confusion) -> str:
    """The text with all suggestions taken."""
    for suggestion in reversed(model.suggest(text, confusion=confusion or None, tokenizer=tokenizer)):
        text = text[: suggestion.start] + suggestion.replacement + text[suggestion.end :]
    return text


def typo_scores(model, tokenizer, rows, confusion) -> dict[str, float]:
    """Scores of the corrections of rows whose source has typos and whose target has none."""
    sources, targets = zip(*((row.source, row.target) for row in rows), strict=True)
    return spelling_scores(sources, [correct(model, tokenizer, source, confusion) for source in sources], targets)


def read_confusion_sets(sources: tuple[str, ...]) -> dict:
    """The confusion sets of --confusion: files, and `embedded`."""
    files = [path for path in sources if path != "embedded"]
    confusion = read_confusions(*files) if files else {}
    return confusion | embedded.confusions() if "embedded" in sources else confusion
