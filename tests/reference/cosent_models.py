"""CoSENT written the slow, obvious way."""

from __future__ import annotations

import numpy as np
import torch


def encode_one_by_one(encoder, tokenizer, texts: list[str], pooling: str) -> np.ndarray:
    """(N, D): every text alone through the stock encoder, nothing padded."""
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = encoder(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        states = out.hidden_states
        if pooling == "cls":
            vectors.append(out.last_hidden_state[0, 0])
        elif pooling == "mean":
            vectors.append(out.last_hidden_state[0].mean(0))
        else:
            vectors.append(((states[1] + states[-1]) / 2)[0].mean(0))
    return torch.stack(vectors).numpy()


def predict_one_by_one(encoder, tokenizer, pairs: list[tuple[str, str]]) -> np.ndarray:
    """(N,): every pair alone through the stock classifier."""
    scores = []
    for first, second in pairs:
        inputs = tokenizer(first, second, return_tensors="pt")
        with torch.no_grad():
            scores.append(encoder(**inputs).logits[0, 0])
    return torch.stack(scores).numpy()
