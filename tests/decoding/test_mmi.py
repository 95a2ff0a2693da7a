"""MMI scores against one forward per candidate, and the order they give."""

from __future__ import annotations

import pytest
import torch

from suzoo.decoding import mmi_rerank, mmi_scores
from suzoo.models._dialogue import SPEAKER_TOKENS, DialogueLayout, Turn
from tests.models.tiny import tiny, tiny_tokenizer

HISTORY = [Turn(0, (5, 6, 7)), Turn(1, (8, 9))]
CANDIDATES = [Turn(0, (10,)), Turn(0, (11, 12, 13, 14)), Turn(0, (15, 16))]


@pytest.mark.parametrize("name", ["blog", "cdial", "dialogpt"])
@pytest.mark.parametrize("mean", [True, False])
def test_scores_are_the_log_probability_of_the_reversed_history(name, mean):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPEAKER_TOKENS)})
    model = tiny("dialogpt", layout=name, vocab_size=len(tokenizer))
    layout = DialogueLayout.of_tokenizer(name, tokenizer)
    scores = mmi_scores(model, layout, HISTORY, CANDIDATES, mean=mean)
    one, two = layout.speaker_ids
    for candidate, score in zip(CANDIDATES, scores, strict=True):
        said, last, first = candidate.ids, HISTORY[1].ids, HISTORY[0].ids
        if name == "cdial":
            ids = [1, one, *said, two, *last, one, *first, 2]
            scored = [*range(3 + len(said), 5 + len(said)), *range(6 + len(said), 10 + len(said))]
            types = [0] * len(ids)
        else:
            ids = [*said, 2, *last, 2, *first, 2]
            types = [0] * (len(said) + 1) + [1] * 3 + [0] * 4
            ids, types = ([1, *ids], [0, *types]) if name == "blog" else (ids, [0] * len(ids))
            scored = range(len(ids) - 7, len(ids))
        log_probs = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0].log_softmax(-1)
        values = torch.stack([log_probs[place - 1, ids[place]] for place in scored])
        assert score.item() == pytest.approx((values.mean() if mean else values.sum()).item(), abs=1e-4)


def test_reranking_prefers_the_reply_that_tells_the_history():
    tokenizer = tiny_tokenizer()
    model = tiny("dialogpt", double=False, initializer_range=0.1, num_hidden_layers=2)
    # reversed dialogues: "好" follows a question about the weather, "是" anything
    dialogues = ["好[SEP]天气[SEP]", "是[SEP]天气[SEP]", "是[SEP]吃饭[SEP]", "是[SEP]你他[SEP]"]
    batch = tokenizer(dialogues, add_special_tokens=False, return_tensors="pt").input_ids
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    model.eval()
    assert mmi_rerank(model, tokenizer, ["天气"], ["是", "好"]) == [1, 0]
    assert mmi_rerank(model, tokenizer, ["吃饭"], ["是", "好"]) == [0, 1]
    with pytest.raises(ValueError, match="MMI needs"):
        mmi_rerank(model, tokenizer, [], ["是"])
    with pytest.raises(ValueError, match="pass layout"):
        mmi_rerank(tiny("unilm"), tokenizer, ["是"], ["是"])
