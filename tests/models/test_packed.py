"""Documents packed into one row, as TRL's packing and DataCollatorWithFlattening do, equal each alone."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorWithFlattening

from suzoo.models._positions import document_ids
from tests.models.tiny import FAMILIES, POSITIONS, tiny, tokens

LENGTHS = (7, 2, 11, 1, 9)  # 30 tokens, longest 11
MODES = [(family, positions) for family in FAMILIES for positions in POSITIONS]


def documents() -> list[dict[str, torch.Tensor]]:
    """Documents with token types of source and target; the second is source alone, with [SEP]s (id 2) inside."""
    found = []
    for number, length in enumerate(LENGTHS):
        ids = tokens(length, seed=number)
        ids[length // 3] = 2
        found.append({"input_ids": ids, "token_type_ids": (torch.arange(length) >= (length + 1) // 2).long()})
    return found


def packed(documents) -> dict[str, torch.Tensor]:
    batch = {name: torch.cat([document[name] for document in documents])[None] for name in documents[0]}
    batch["position_ids"] = torch.cat([torch.arange(len(document["input_ids"])) for document in documents])[None]
    return batch


@pytest.mark.parametrize(("family", "positions"), MODES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_equals_each_alone(family, positions, implementation):
    """The row is longer than the model has positions: what counts is their value."""
    if positions == "nezha" and implementation == "sdpa":
        pytest.skip("NEZHA is eager only")
    model = tiny(family, position_embedding_type=positions, max_position_embeddings=12)
    model.set_attn_implementation(implementation)
    alone = torch.cat([model(**{name: value[None] for name, value in d.items()}).logits[0] for d in documents()])
    batch = packed(documents())
    for mask in (None, torch.ones_like(batch["input_ids"])):
        torch.testing.assert_close(model(**batch, attention_mask=mask).logits[0], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", ["blog", "dialogpt"])
def test_speakers_restart_with_each_dialogue(layout):
    model = tiny("dialogpt", layout=layout)
    alone = torch.cat([model(document["input_ids"][None]).logits[0] for document in documents()])
    batch = packed(documents())
    del batch["token_type_ids"]
    torch.testing.assert_close(model(**batch).logits[0], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
def test_loss_and_gradients_of_a_flattened_batch(family):
    """With transformers' own collator and its keywords for flash attention."""
    model = tiny(family)
    rows = [
        {name: value.tolist() for name, value in d.items()}
        | {"labels": d["input_ids"].masked_fill(d["token_type_ids"] == 0, -100).tolist()}
        for d in documents()
    ]
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collate([{k: v for k, v in row.items() if k != "token_type_ids"} for row in rows])
    assert "attention_mask" not in batch
    batch["token_type_ids"] = packed(documents())["token_type_ids"]
    num_items = int((batch["labels"] != -100).sum())
    model(**batch).loss.backward()
    flattened = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for row in rows:
        row["labels"][0] = -100
        inputs = {name: torch.tensor([value]) for name, value in row.items()}
        model(**inputs, num_items_in_batch=num_items).loss.backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for one, other in zip(flattened, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_what_is_a_packed_row():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [5, 6, 7, 8, 9, 10]])
    found = document_ids(positions, None, None)
    assert found is not None and found.tolist() == [[0, 0, 0, 1, 1, 2], [0] * 6]
    assert document_ids(positions[1:], None, None) is None and document_ids(None, None, None) is None
    # generate() gives padded rows positions that stand still; their mask says what they are
    assert document_ids(positions, torch.tensor([[1] * 6, [0] + [1] * 5]), None) is None


@pytest.mark.parametrize(("family", "positions"), MODES)
def test_padding_between_tokens_changes_nothing(family, positions):
    """As in a batch whose rows ended at different times and that goes on."""
    model = tiny(family, position_embedding_type=positions, max_relative_position=16)
    ids, mask = tokens(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, 4:7] = 0
    types, keep = torch.zeros_like(ids), mask[0].bool()
    if family == "unilm":
        types[:, 4:] = 1
    alone = model(ids[:, keep], token_type_ids=types[:, keep]).logits[0]
    whole = model(ids, attention_mask=mask, token_type_ids=types).logits[0, keep]
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-10)
    if family != "tta":
        for cut in (5, 8):
            first = model(ids[:, :cut], attention_mask=mask[:, :cut], token_type_ids=types[:, :cut], use_cache=True)
            second = model(ids[:, cut:], attention_mask=mask, token_type_ids=types[:, cut:], cache=first[-1])
            logits = second.logits[0, keep[cut:]]
            torch.testing.assert_close(logits, whole[-len(logits) :], rtol=0, atol=1e-10)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_second_turn_in_a_batch_on_the_kept_cache(positions):
    """Row 0 ends early, so that padding stands between its turns."""
    model = tiny("dialogpt", position_embedding_type=positions, max_relative_position=16)
    options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "return_dict_in_generate": True}
    num_padded = 0
    for seed in range(6):
        ids = tokens(2, 6, seed=seed)
        end = int(model.generate(ids, eos_token_id=40, **options).sequences[0, 7])
        first = model.generate(ids, eos_token_id=end, **options)
        mask = torch.ones_like(first.sequences)
        for row in range(2):
            new = first.sequences[row, 6:].tolist()
            mask[row, 6 + (new.index(end) + 1 if end in new else len(new)) :] = 0
        num_padded += int(not mask.all())
        whole = torch.cat([first.sequences, tokens(2, 4, seed=seed + 50)], 1)
        mask = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], 1)
        cache = first["cache" if "cache" in first else "past_key_values"]
        second = model.generate(whole, attention_mask=mask, cache=cache, eos_token_id=39, **options).sequences
        for row in range(2):
            prompt = whole[row][mask[row].bool()][None]
            alone = model.generate(prompt, eos_token_id=39, **options).sequences[0, prompt.shape[1] :]
            assert torch.equal(second[row, whole.shape[1] :][: len(alone)], alone)
    assert num_padded
