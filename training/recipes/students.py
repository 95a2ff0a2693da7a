"""What train_distill.py learns from and starts with: the teacher's vectors, and a student cut out of the teacher.

Shapes: N texts, D hidden size of the teacher, K of the student, E of a vector.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.choices import made_ready, make_encoder
from recipes.distill import Distillation

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from suzoo.data import load_tokenizer, slim_vocabulary, tokenizer_key, tokens_to_keep
from suzoo.data.stored import made_once
from suzoo.data.vocabulary import named_ids, token_counts
from suzoo.models import CoSENTModel
from suzoo.models._pooling import POOLINGS
from suzoo.models._projection import Projection
from suzoo.reach import model_folder

# their layers have BERT's parts by BERT's names
BERT_LIKE = ("bert", "camembert", "ernie", "roberta", "xlm-roberta")
CHUNK = 4096  # texts whose vectors are written at once
SAMPLE = 1024  # texts by which a narrower student is chosen


def load_teacher(recipe: Distillation, accelerator: Accelerator) -> CoSENTModel:
    """The encoder of --teacher, which learns nothing."""
    assert recipe.teacher is not None  # `check_names`
    folder = model_folder(recipe.teacher)
    teacher = CoSENTModel.from_pretrained(folder, trust_remote_code=recipe.trust_remote_code)
    teacher.tokenizer = load_tokenizer(folder, trust_remote_code=recipe.trust_remote_code)
    return teacher.to(accelerator.device).eval().requires_grad_(False)


def teacher_vectors(teacher: CoSENTModel, texts: Sequence[str], sha256: str, progress: bool = False) -> np.ndarray:
    """Unit vectors (N, E), float32, of a mapped file in the cache: computed where teacher or texts are new.

    Args:
        sha256: of the texts.
    """
    digest = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    settings = [teacher.pooling, teacher.include_prompt, teacher.max_seq_length, teacher.do_lower_case]
    about = [sha256, len(texts), digest.hexdigest(), tokenizer_key(teacher.tokenizer), settings, teacher.prompt_text()]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]

    def make(path: Path) -> None:
        shape = (len(texts), teacher.embedding_size)
        file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for begin in range(0, len(texts), CHUNK):
            part = texts[begin : begin + CHUNK]
            file[begin : begin + len(part)] = teacher.encode(part, normalize=True, progress=progress)
        file.flush()

    return np.load(made_once(f"vectors/{name}.npy", make), mmap_mode="r")


def cut_vocabulary(model: CoSENTModel, texts: Sequence[str], size: int) -> Any:
    """The tokenizer with the `size` tokens that the texts use most, and the model cut to them, in place."""
    tokenizer, also = model.tokenizer, named_ids(model)
    counts, needed = token_counts(tokenizer, texts), len(tokens_to_keep(tokenizer, counts=Counter(), also=also))
    if size < needed:
        raise ValueError(f"--vocab-size {size} is less than the {needed} tokens that the tokenizer needs")
    wanted, keep = size, tokens_to_keep(tokenizer, counts=counts, also=also)
    while len(keep) > size:  # some tokens are kept in any case
        keep = tokens_to_keep(tokenizer, counts=Counter(dict(counts.most_common(wanted))), also=also)
        wanted -= max(1, len(keep) - size)
    model.tokenizer = slim_vocabulary(model, tokenizer, keep)
    return model.tokenizer


def spread_layers(number: int, of: int) -> tuple[int, ...]:
    """`number` layers of `of`, evenly spread, first and last among them; of one alone, the last.

    Raises:
        ValueError: there are fewer.
    """
    if number > of:
        raise ValueError(f"--num-layers {number}: the teacher has {of}; give --num-layers {of} or fewer")
    if number == 1:
        return (of - 1,)
    return tuple(round(place * (of - 1) / (number - 1)) for place in range(number))


def make_student(recipe: Distillation, teacher: CoSENTModel, texts: Sequence[str]) -> tuple[CoSENTModel, Any]:
    """The student and its tokenizer: of --model, or cut out of the teacher."""
    if recipe.model:
        tokenizer = load_tokenizer(str(recipe.model_folder), trust_remote_code=recipe.trust_remote_code)
        return make_encoder(recipe, tokenizer), tokenizer
    whole = copy.deepcopy(teacher).requires_grad_(True)
    if (pooler := getattr(whole.encoder, "pooler", None)) is not None:
        pooler.requires_grad_(False)  # as in `CoSENTModel`: no vector depends on it, which stops DDP
    whole.tokenizer = teacher.tokenizer
    tokenizer = cut_vocabulary(whole, texts, recipe.vocab_size) if recipe.vocab_size else whole.tokenizer
    size = recipe.hidden_size or teacher.config.hidden_size
    sample = list(texts[:: max(1, len(texts) // SAMPLE)])[:SAMPLE]
    if recipe.encoder != "bert":
        student = make_encoder(replace(recipe, hidden_size=size), tokenizer)
        take_words(student.encoder, whole.encoder)
        student.projection = _projection(size, teacher.embedding_size)
        _fit(student, sample, teacher)
        return student, tokenizer
    layers = recipe.layers or spread_layers(recipe.num_layers, teacher.config.num_hidden_layers)
    keep_layers(whole.encoder, layers)
    if size == teacher.config.hidden_size:
        student = whole
        student.prompts, student.default_prompt_name, student.include_prompt = {}, None, True
        student.pooling = recipe.pooling or teacher.pooling
    else:
        encoder = narrow(whole.encoder, size, _batch(whole, sample, recipe.max_length))
        pooling = recipe.pooling or teacher.pooling
        back = _projection(size, teacher.embedding_size)
        student = CoSENTModel(encoder.config, encoder, pooling, normalize=teacher.normalize, projection=back)
        student.tokenizer, student.do_lower_case = tokenizer, teacher.do_lower_case
        _fit(student, sample, teacher)
    student.max_seq_length = recipe.max_length
    return made_ready(recipe, student, tokenizer), tokenizer


def _projection(size: int, vector: int) -> Projection | None:
    return None if size == vector else Projection(size, vector)


@torch.no_grad()
def take_words(student: Any, teacher: Any) -> None:
    """Set the student's word embeddings (V, K) to the K main directions of the teacher's, of unit variance; the padding
    stays at zero."""
    embeddings, words_VD = student.get_input_embeddings(), teacher.get_input_embeddings().weight
    words_VD = words_VD[: embeddings.num_embeddings].cpu().double()  # a model may have more rows than tokens
    centered_VD = words_VD - words_VD.mean(0)
    directions_DD = torch.linalg.eigh(centered_VD.T @ centered_VD).eigenvectors.flip(1)  # the largest first
    found_VK = centered_VD @ directions_DD[:, : embeddings.embedding_dim]
    embeddings.weight[:, : found_VK.shape[1]] = (found_VK / found_VK.std()).to(embeddings.weight)
    if embeddings.padding_idx is not None:
        embeddings.weight[embeddings.padding_idx] = 0


def keep_layers(encoder: Any, layers: Sequence[int]) -> Any:
    """The encoder with these of its layers, in the order given; changes it in place."""
    stack = getattr(getattr(encoder, "encoder", None), "layer", None)
    if not isinstance(stack, nn.ModuleList):
        raise ValueError(f"layers of {type(encoder).__name__} cannot be picked: give a student by --model")
    if bad := [layer for layer in layers if not 0 <= layer < len(stack)]:
        raise ValueError(f"--layers {bad[0]}: the teacher has layers 0 to {len(stack) - 1}")
    if len(set(layers)) != len(layers):
        raise ValueError(f"--layers {' '.join(map(str, layers))} names a layer twice")
    encoder.encoder.layer = nn.ModuleList(stack[layer] for layer in layers)
    encoder.config.num_hidden_layers = len(layers)
    return encoder


def narrow(encoder: Any, size: int, sample: dict[str, Tensor]) -> Any:
    """A new encoder of hidden size K: of the old one's coordinates, heads and inner units those that weigh most.

    Args:
        encoder: one with BERT's parts. size: K, a multiple of the size of a head.
        sample: inputs on whose hidden states the coordinates are weighed.
    """
    config = encoder.config
    width = config.hidden_size // config.num_attention_heads
    if config.model_type not in BERT_LIKE:
        raise ValueError(f"--hidden-size: {config.model_type} is none of {', '.join(BERT_LIKE)}; give a --model")
    if size >= config.hidden_size or size % width:
        raise ValueError(f"--hidden-size {size}: a student narrower than {config.hidden_size} is a multiple of {width}")
    with torch.no_grad():
        states = encoder.eval()(**sample, output_hidden_states=True).hidden_states
        real = sample["attention_mask"].bool()
        energy_D = torch.stack([state[real].float().var(0) for state in states]).mean(0)
    kept_K = _largest(energy_D, size)
    smaller = copy.deepcopy(config)
    smaller.hidden_size, smaller.num_attention_heads = size, size // width
    smaller.intermediate_size = config.intermediate_size * size // config.hidden_size
    made = type(encoder)(smaller)
    # the rows and columns of a layer's weights that stay, by the beginning of their names
    places = []
    for layer in encoder.encoder.layer:
        heads_K, inner = _heads(layer, size // width, width), _inner(layer, smaller.intermediate_size)
        places.append(
            {
                "attention.self": (heads_K, kept_K),
                "attention.output.dense": (kept_K, heads_K),
                "intermediate.dense": (inner, kept_K),
                "output.dense": (kept_K, inner),
            }
        )
    for name, parameter in made.named_parameters():
        old = encoder.get_parameter(name).detach()
        if found := re.match(r"encoder\.layer\.(\d+)\.(.*)", name):
            of_layer = places[int(found[1])].items()
            rows, columns = next((both for key, both in of_layer if found[2].startswith(key)), (kept_K, None))
        else:  # tables of embeddings keep all rows; a pooler is square
            is_table = name.endswith("embeddings.weight")
            rows, columns = (None, kept_K) if is_table else (kept_K, kept_K if old.dim() == 2 else None)
        value = old if rows is None else old[rows]
        with torch.no_grad():
            parameter.copy_(value if columns is None or value.dim() == 1 else value[:, columns])
    return made


def _largest(weights: Tensor, number: int) -> Tensor:
    """Places of the largest, in ascending order."""
    return weights.topk(number).indices.sort().values


def _heads(layer: Any, number: int, width: int) -> Tensor:
    """Rows of the heads that add most to what they write."""
    value, output = layer.attention.self.value.weight.detach(), layer.attention.output.dense.weight.detach()
    strength = value.view(-1, width, value.shape[1]).norm(dim=(1, 2)) * output.view(output.shape[0], -1, width).norm(
        dim=(0, 2)
    )
    heads = _largest(strength, number)
    return (heads[:, None] * width + torch.arange(width, device=heads.device)).flatten()


def _inner(layer: Any, number: int) -> Tensor:
    """The inner units with the largest weights in and out."""
    into, out = layer.intermediate.dense.weight.detach(), layer.output.dense.weight.detach()
    return _largest(into.norm(dim=1) * out.norm(dim=0), number)


def _batch(model: CoSENTModel, texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
    """Padded inputs of a tenth of the texts."""
    tokens = model.tokenizer(
        list(texts[::10]), truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    return {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}


def _fit(student: CoSENTModel, texts: Sequence[str], teacher: CoSENTModel) -> None:
    """Set the projection, if there is one, to the least squares from the student's pooled states to the teacher's
    vectors."""
    if (projection := student.projection) is None:
        return
    vectors_NE = teacher.encode(texts, normalize=True, output="torch")
    student.projection = None
    assert student.pooling in POOLINGS
    pooled_NK = student.encode(texts, output="torch", normalize=False).double().cpu()
    student.projection = projection
    ones_NK = torch.cat([pooled_NK, torch.ones(len(texts), 1, dtype=torch.float64)], 1)
    square = ones_NK.T @ ones_NK
    ridge = 1e-3 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    solution = torch.linalg.solve(square + ridge, ones_NK.T @ vectors_NE.double().cpu())
    with torch.no_grad():
        projection.linear.weight.copy_(solution[:-1].T)
        projection.linear.bias.copy_(solution[-1])
