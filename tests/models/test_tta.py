"""T-TA: no token sees itself, scores equal the n-pass form, and what is built on the scores."""

from __future__ import annotations

import pytest
import torch
from transformers import pipeline

from suzoo.data import encode_sentence, tta_batch
from suzoo.models import Suggestion, TTAConfig, TTAForMaskedLM
from tests.models.tiny import POSITIONS, tiny, tiny_tokenizer, tokens


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("query_init", ["mask", "position"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_row_ignores_its_own_token_bit_for_bit(implementation, query_init, dtype):
    model = tiny("tta", query_init=query_init, attn_implementation=implementation, num_hidden_layers=6).to(dtype)
    ids = tokens(1, 7)
    logits = model(ids).logits
    for place in range(7):
        # one row at a time: rows of a batch may be summed in another order
        for other in (0, 4, 11, 40):
            swapped = ids.clone()
            swapped[0, place] = other
            changed = model(swapped).logits
            assert torch.equal(changed[0, place], logits[0, place])
            assert other == ids[0, place] or not torch.equal(changed, logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_lone_token_gets_zero_attention(implementation):
    """No key to read: the output is that of the queries alone, without a leak and without NaN in the gradient."""
    model = tiny("tta", attn_implementation=implementation)
    batch = torch.tensor([[7, 0, 0], [8, 0, 0], [7, 9, 10]])
    mask = (batch != 0).long()
    word = model.get_input_embeddings()(batch).detach().requires_grad_()
    logits = model(inputs_embeds=word, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 0], logits[1, 0], rtol=0, atol=0)
    torch.testing.assert_close(logits[0, 0], model(batch[:1, :1]).logits[0, 0], rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(logits[0, 0].square().sum(), word)
    assert (gradient == 0).all()
    model(batch, attention_mask=mask, labels=batch.masked_fill(mask == 0, -100)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_keys_and_values_of_a_later_layer_from_its_input_would_leak():
    """The visibility tests of test_transformer.py can fail: the classic mistake is caught."""
    model = tiny("tta", num_hidden_layers=2)
    second = model.bert.encoder.layer[1]
    right = second.forward
    second.forward = lambda hidden, mask, memory, **kwargs: right(hidden, mask, None, **kwargs)
    ids = tokens(2, 5)
    ids[1] = ids[0]
    ids[1, 2] = 40
    logits = model(ids).logits
    assert (logits[0, 2] - logits[1, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("positions", POSITIONS)
def test_score_equals_masking_one_token_after_the_other(positions):
    model, tokenizer = tiny("tta", position_embedding_type=positions), tiny_tokenizer()
    texts = ["今天天气很好", "我", "", "你吃饭了吗ab"]
    scores = model.score(texts, tokenizer=tokenizer, batch_size=2)
    for text, score in zip(texts, scores, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        total = 0.0
        for place in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            total += model(masked).logits[0, place].log_softmax(-1)[ids[0, place]].item()
        assert score == pytest.approx(total, abs=1e-4)
    assert scores[2] == 0
    per_token = model.score(texts, tokenizer=tokenizer, per_token=True)
    torch.testing.assert_close(per_token * torch.tensor([6, 1, 1, 7]), scores, rtol=0, atol=1e-4)


def test_score_leaves_the_mode_alone_and_drops_nothing_out():
    model, tokenizer = tiny("tta", double=False), tiny_tokenizer()
    expected = model.score(["今天天气"], tokenizer=tokenizer)
    model.train()
    assert torch.equal(model.score(["今天天气"], tokenizer=tokenizer), expected)
    assert model.training
    with pytest.raises(ValueError, match="list of texts"):
        model.score("今天天气", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no tokenizer"):
        model.score(["今天天气"])


def test_special_tokens_in_a_text_are_text_as_in_training():
    model, tokenizer = tiny("tta"), tiny_tokenizer()
    texts = ["今[SEP]天", "[MASK]今天", "今天[PAD]"]
    alone = []
    for text in texts:
        example = encode_sentence(tokenizer, text, max_tokens=64)
        batch = tta_batch([example], learn_special_tokens=False)
        assert (batch["labels"] != -100).sum() == 5  # [, UNK, ], and two characters
        alone.append(-5 * model(**batch).loss.item())
        hidden = model.bert(batch["input_ids"]).last_hidden_state[0, 1:-1]
        torch.testing.assert_close(model.encode([text], tokenizer=tokenizer)[0], hidden.mean(0).float())
    torch.testing.assert_close(model.score(texts, tokenizer=tokenizer), torch.tensor(alone))
    assert model.rerank(texts, tokenizer=tokenizer) == torch.tensor(alone).argsort(descending=True).tolist()
    found = model.suggest("今[SEP]天", confusion={"天": ["气"], "今": ["气"]}, error_rate=0.99, tokenizer=tokenizer)
    assert found and all("今[SEP]天"[each.start : each.end] == each.original for each in found)
    assert {each.start for each in found} <= {0, 6}


def test_encode_is_the_mean_of_the_real_tokens():
    model, tokenizer = tiny("tta"), tiny_tokenizer()
    texts = ["今天天气很好", "我你他", ""]
    vectors = model.encode(texts, tokenizer=tokenizer)
    for text, vector in zip(texts, vectors, strict=True):
        hidden = model.bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        expected = hidden.mean(0).float() if len(hidden) else torch.zeros(32)
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)


def test_scores_of_tokens_sum_to_the_score():
    model, tokenizer = tiny("tta", double=False).eval(), tiny_tokenizer()
    for text in ("今天天气很好", "a man, 他 plays", "", "a man [SEP]"):
        found = model.score_tokens(text, tokenizer=tokenizer)
        assert [token.text for token in found] == [text[token.start : token.end] for token in found]
        assert len(found) == len(tokenizer(text, split_special_tokens=True)["input_ids"]) - 2
        total = sum(token.log_prob for token in found)
        assert total == pytest.approx(float(model.score([text], tokenizer=tokenizer)[0]), abs=1e-4)


def trained_on(sentence: str) -> TTAForMaskedLM:
    """A model that knows one sentence by heart."""
    model, tokenizer = tiny("tta", double=False, initializer_range=0.1, num_hidden_layers=2), tiny_tokenizer()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    ids = tokenizer([sentence], return_tensors="pt").input_ids
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def test_suggest_corrects_and_rerank_prefers_what_it_knows():
    model, tokenizer = trained_on("今天天气很好"), tiny_tokenizer()
    assert model.suggest("今天天气很好", tokenizer=tokenizer) == []
    (found,) = model.suggest("今天天气很我", tokenizer=tokenizer)
    assert found[:4] == (5, 6, "我", "好") and found.gain > 0
    assert isinstance(found, Suggestion)
    confusion = {"我": "你他", "很": ["好", "不在词表"]}
    assert model.suggest("今天天气很我", confusion=confusion, tokenizer=tokenizer) == []
    (found,) = model.suggest("今天天气很我", confusion={"我": "你好"}, tokenizer=tokenizer)
    assert found.replacement == "好"
    # the noisy channel: gain = log p(new) - log p(old) + log(error_rate / (1 - error_rate) / 2 candidates)
    ids = tokenizer("今天天气很我", return_tensors="pt").input_ids
    log_probs = model(ids).logits[0, 6].detach().log_softmax(-1)
    odds = log_probs[tokenizer.vocab["好"]] - log_probs[tokenizer.vocab["我"]]
    assert found.gain == pytest.approx(float(odds + torch.tensor(0.01 / 0.99 / 2).log()), abs=1e-4)
    assert model.suggest("今天天气很我", tokenizer=tokenizer, error_rate=1e-30) == []
    with pytest.raises(ValueError, match="error_rate"):
        model.suggest("今", tokenizer=tokenizer, error_rate=1.0)

    hypotheses = ["今天天气很我", "今天天气很好", "我天天气很好"]
    assert model.rerank(hypotheses, tokenizer=tokenizer)[0] == 1
    assert model.rerank(hypotheses, scores=[100.0, 0.0, 0.0], weight=0.01, tokenizer=tokenizer)[0] == 0
    with pytest.raises(ValueError, match="3 hypotheses, but 1 scores"):
        model.rerank(hypotheses, scores=[1.0], tokenizer=tokenizer)


def test_latin_stays_latin_and_continuations_stay_continuations():
    model, tokenizer = trained_on("ab"), tiny_tokenizer()  # tokens a and ##b
    (found,) = model.suggest("aa", tokenizer=tokenizer)
    assert found[:4] == (1, 2, "a", "b")


def test_fill_mask_pipeline_and_own_tokenizer(tmp_path):
    model, tokenizer = trained_on("今天天气很好"), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    filled = pipeline("fill-mask", model=str(tmp_path))("今天天气很[MASK]")
    assert filled[0]["token_str"] == "好"
    loaded = TTAForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.score(["今天"]), model.score(["今天"], tokenizer=tokenizer))


def test_config():
    assert TTAConfig().mask_token_id == 103
    assert TTAConfig(vocab_size=50).mask_token_id == 49
    with pytest.raises(ValueError, match="outside the vocabulary"):
        TTAConfig(vocab_size=50, mask_token_id=50)
    model = tiny("tta")
    model.resize_token_embeddings(40)  # [MASK] was the last one
    with pytest.raises(ValueError, match="mask_token_id 40 is outside the 40 tokens to which the embeddings were cut"):
        model(tokens(1, 3) % 40)
    with pytest.raises(ValueError, match="query_init"):
        TTAConfig(query_init="token")
    with pytest.raises(ValueError, match="absolute positions"):
        TTAConfig(query_init="position", position_embedding_type="rope")
