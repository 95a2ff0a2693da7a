"""What the flags of every script name: optimizer, tokenizer, LoRA, dropout, the sizes of a model from scratch."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from recipes.base import PairTraining, SentenceEncoding, Training

import torch
import transformers
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, ModernBertConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from suzoo.data import added_ids, fingerprint, load_tokenizer, num_ids, train_wordpiece
from suzoo.engine import check_same_everywhere
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, GRUEncoderConfig
from suzoo.models._stock_encoder import missing_weights, num_positions
from suzoo.models._versions import MODERNBERT_OF_ONE_KIND
from suzoo.optimizers import (
    AccumulatedAdamW,
    AccumulatedSGD,
    AdaFactor,
    AdaX,
    AdaXW,
    Lion,
    Tiger,
    param_groups,
)
from suzoo.reach import model_folder

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "lazy_adamw": functools.partial(AccumulatedAdamW, lazy=True),
    "adafactor": AdaFactor,
    "adax": AdaX,
    "adaxw": AdaXW,
    "lion": Lion,
    "tiger": Tiger,
    "accumulated_sgd": AccumulatedSGD,
    "accumulated_adamw": AccumulatedAdamW,
}


def choose_optimizer(recipe: Training, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of --optimizer and --optimizer-options over the weights of `module`."""
    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"--optimizer {recipe.optimizer} is none of {', '.join(OPTIMIZERS)}")
    optimizer = OPTIMIZERS[recipe.optimizer]
    allowed = set(inspect.signature(optimizer).parameters) - {"params", "lr", "weight_decay"}
    options = {}
    for text in recipe.optimizer_options:
        name, equals, value = text.partition("=")
        if not equals or name not in allowed:
            raise ValueError(
                f"--optimizer-options {text}: {recipe.optimizer} takes name=value with a name of "
                f"{', '.join(sorted(allowed))}; lr and weight decay are flags of their own"
            )
        options[name] = _value(value)
    groups = param_groups(module, weight_decay=recipe.weight_decay)
    try:
        return optimizer(groups, lr=recipe.lr, **options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        given = " ".join([f"--optimizer {recipe.optimizer} --lr {recipe.lr}", *recipe.optimizer_options])
        raise ValueError(f"{given}: {error}") from error


def _value(text: str) -> Any:
    """What the text of an option stands for: a Python literal, a number type of torch, or the word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        named = getattr(torch, text.removeprefix("torch."), None)
        return named if isinstance(named, torch.dtype) else text


def choose_tokenizer(recipe: Training, texts: Iterable[str], *, needs: Sequence[str] = ()) -> Any:
    """The tokenizer of --model or --vocabulary, or a WordPiece one learnt from the texts.

    Args:
        needs: special tokens the script can't do without: cls, sep, mask, pad.
    """
    source = recipe.model or recipe.vocabulary
    if source:
        tokenizer = load_tokenizer(model_folder(source), trust_remote_code=recipe.trust_remote_code)
    else:
        tokenizer = train_wordpiece(texts, vocab_size=recipe.vocab_size)
    missing = [f"[{name.upper()}]" for name in needs if getattr(tokenizer, f"{name}_token") is None]
    check_same_everywhere({"tokenizer": fingerprint([sorted(tokenizer.get_vocab().items())])})
    if missing:
        raise ValueError(f"the tokenizer of {source} has no {' and no '.join(missing)}, which this model needs")
    return tokenizer


def sizes(recipe: Training, tokenizer) -> dict[str, Any]:
    """The fields of the small model from scratch, by BERT's names."""
    if recipe.hidden_size % 32:
        raise ValueError(f"--hidden-size {recipe.hidden_size} is not a multiple of 32, the size of an attention head")
    drawn = getattr(recipe, "random_positions", None)
    return {
        "vocab_size": num_ids(tokenizer),
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": recipe.num_layers,
        "num_attention_heads": recipe.hidden_size // 32,
        "intermediate_size": 4 * recipe.hidden_size,
        "max_position_embeddings": max(64, 2 * recipe.max_length, drawn if isinstance(drawn, int) else 0),
        "pad_token_id": tokenizer.pad_token_id,
    }


def loading_options(recipe: Training) -> dict[str, Any]:
    """How the weights of --model are loaded."""
    return {"dtype": recipe.weights_dtype, "trust_remote_code": recipe.trust_remote_code}


def gru_config(recipe: SentenceEncoding, tokenizer: Any) -> GRUEncoderConfig:
    return GRUEncoderConfig(
        vocab_size=num_ids(tokenizer),
        embedding_size=recipe.hidden_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        bidirectional=recipe.encoder == "bigru",
        pad_token_id=tokenizer.pad_token_id,
    )


def modernbert_config(recipe: SentenceEncoding, tokenizer: Any) -> ModernBertConfig:
    """ModernBERT of about as many weights as BERT of that size; with --window every layer has it."""
    if not MODERNBERT_OF_ONE_KIND:
        raise ValueError(
            f"--encoder modernbert needs transformers 5.17 or newer, and this is {transformers.__version__}, which "
            "cannot read the configuration again: update it, or leave --encoder"
        )
    fields = sizes(recipe, tokenizer)
    fields["intermediate_size"] = fields["intermediate_size"] * 2 // 3  # its layers have three matrices for BERT's two
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    fields |= {"cls_token_id": first, "bos_token_id": first, "sep_token_id": last, "eos_token_id": last}
    kind = "sliding_attention" if recipe.window else "full_attention"
    fields["layer_types"] = [kind] * recipe.num_layers
    if recipe.window:
        fields["local_attention"] = 2 * (recipe.window - 1)  # both directions, without the token itself
    return ModernBertConfig(**fields, attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1)


M = TypeVar("M", CoSENTModel, CoSENTCrossEncoder)


def made_ready(recipe: Training, model: M, tokenizer: Any) -> M:
    """The encoder with its tokenizer, --dropout and what `configure` puts into it."""
    model.tokenizer = tokenizer
    check_belongs_together(recipe, model.encoder, tokenizer)
    set_dropout(recipe, model)
    model.encoder = configure(recipe, model.encoder, tokenizer, ragged=True)
    return model


def make_encoder(recipe: SentenceEncoding, tokenizer: Any) -> CoSENTModel:
    """The sentence encoder of --model or from scratch."""
    options: dict[str, Any] = {"pooling": recipe.pooling} if recipe.pooling else {}
    if recipe.model:
        options |= {"max_seq_length": recipe.max_length, **loading_options(recipe)}
        model = CoSENTModel.from_pretrained(recipe.model_folder, **options)
    else:
        if recipe.encoder == "bert":
            config = BertConfig(**sizes(recipe, tokenizer))
        elif recipe.encoder == "modernbert":
            config = modernbert_config(recipe, tokenizer)
        else:
            config = gru_config(recipe, tokenizer)
            options = {"pooling": "mean" if config.bidirectional else "last"} | options
        model = CoSENTModel(config, **options)
        model.max_seq_length = recipe.max_length
    return made_ready(recipe, model, tokenizer)


def choose_prompt(recipe: PairTraining, accelerator: Accelerator, model: CoSENTModel | CoSENTCrossEncoder) -> str:
    """The text of --prompt or of the model's default prompt. It is the default of the trained model too, so that texts
    are trained on as `encode` and `predict` read them."""
    if recipe.prompt is not None:
        model.default_prompt_name = recipe.prompt or None
    try:
        prompt = model.prompt_text()
    except ValueError as error:
        raise ValueError(f"--prompt {recipe.prompt}: {error}") from error
    if prompt:
        accelerator.print(
            f"texts are trained on behind the prompt {model.default_prompt_name!r}, which is {prompt!r}; "
            "--prompt names another one, --prompt '' none"
        )
    return prompt


def make_cross_encoder(recipe: PairTraining, tokenizer: Any) -> CoSENTCrossEncoder:
    """The cross-encoder of --model or from scratch."""
    if recipe.model:
        options = {"max_seq_length": recipe.max_length, **loading_options(recipe)}
        model = CoSENTCrossEncoder.from_pretrained(recipe.model_folder, **options)
    else:
        model = CoSENTCrossEncoder(BertConfig(**sizes(recipe, tokenizer)))
        model.max_seq_length = recipe.max_length
    return made_ready(recipe, model, tokenizer)


def make_classifier(recipe: Training, tokenizer: Any, names: Sequence[str], *, several: bool) -> PreTrainedModel:
    """A stock classifier of these classes, from --model or from scratch; texts may have several of them or one."""
    head: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }
    if not recipe.model:
        return AutoModelForSequenceClassification.from_config(BertConfig(**sizes(recipe, tokenizer), **head))
    model, info = AutoModelForSequenceClassification.from_pretrained(
        str(recipe.model_folder),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **loading_options(recipe),
        **head,
    )
    missing = missing_weights(info, model.base_model_prefix + ".")
    if missing:
        raise ValueError(f"{recipe.model} lacks weights: {', '.join(missing[:5])} ({len(missing)} in all)")
    return model


def check_belongs_together(recipe: Training, model: Any, tokenizer: Any) -> None:
    """Refuse texts longer than the model has absolute positions for, and tokens that it has no embedding for."""
    num_rows = len(model.get_input_embeddings().weight)
    if num_ids(tokenizer) > num_rows:
        raise ValueError(
            f"the tokenizer of {recipe.model} has ids up to {num_ids(tokenizer) - 1} and the model {num_rows} rows: "
            "they do not belong together, or the model was cut without it (`suzoo slim-vocab` cuts both)"
        )
    positions = num_positions(model.config)
    absolute = getattr(model.config, "position_embedding_type", "absolute") == "absolute"
    if absolute and positions is not None and recipe.max_length > positions:
        raise ValueError(f"--max-length {recipe.max_length}, but {recipe.model} has positions for {positions} tokens")


def set_dropout(recipe: Training, model: nn.Module) -> None:
    """Put --dropout into every dropout layer of the model."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
    for layer in layers:
        if recipe.dropout is not None:
            layer.p = recipe.dropout
    if getattr(recipe, "rdrop", 0) and not any(layer.p for layer in layers):
        raise ValueError("--rdrop compares two passes with dropout, and this model has none: give a --dropout")


def configure(
    recipe: Training, encoder: Any, tokenizer: Any, head: nn.Module | None = None, *, ragged: bool = False
) -> PreTrainedModel | PeftModel:
    """LoRA, gradient checkpointing and torch.compile, as the flags say.

    Args:
        tokenizer: with LoRA, the rows of tokens that were added behind its table learn, too.
        head: the model's output embeddings, which may share the weight of the encoder's input embeddings.
        ragged: the encoder would lay texts of several lengths end to end, which compiled code meets anew in every step.
    """
    if recipe.compile and ragged:
        encoder.set_attn_implementation("sdpa")  # padded groups
    if recipe.gradient_checkpointing:
        encoder.gradient_checkpointing_enable()
    if recipe.lora_r:
        embeddings: Any = encoder.get_input_embeddings()
        rows = [row for row in added_ids(tokenizer) if row < len(embeddings.weight)]
        name = next(name for name, module in encoder.named_modules() if module is embeddings)
        lora = LoraConfig(
            r=recipe.lora_r,
            lora_alpha=2 * recipe.lora_r,
            target_modules="all-linear",
            # GPT-2's layers keep their weights transposed
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in encoder.modules()),
            trainable_token_indices={name: rows} if rows else None,
        )
        encoder = get_peft_model(encoder, lora)
        if rows and head is not None and head.weight is embeddings.weight:
            head.register_forward_hook(TiedRows(encoder.get_input_embeddings()))
    if recipe.compile:
        encoder.compile(dynamic=True)
    return encoder


class TiedRows:
    """Hook of a head that shares its weight with the embeddings: the rows that LoRA's `trainable_token_indices` trains
    there count here, too. peft ties such heads itself, but drops their bias, which BERT's has.

    Args:
        embeddings: what peft made of the input embeddings.
    """

    def __init__(self, embeddings: Any) -> None:
        self.adapter = embeddings.token_adapter

    def __call__(self, head: Any, inputs: tuple[Tensor], logits: Tensor) -> Tensor | None:
        if self.adapter.merged:  # the shared weight has the rows
            return None
        ids = torch.tensor(self.adapter.token_indices["default"], device=logits.device)
        weight = self.adapter.trainable_tokens_delta["default"]
        bias = None if head.bias is None else head.bias[ids]
        new = nn.functional.linear(inputs[0].to(weight.dtype), weight, bias)
        return logits.index_copy(-1, ids, new.to(logits.dtype))
