"""Maximum mutual information: choose the reply from which the history can be guessed best.

Source: DialoGPT (arXiv 1911.00536, section 3.2), after Li et al. (arXiv 1510.03055). Bland replies fit every history
and tell little about it, so a backward model, trained on dialogues with their turns reversed, scores them low.

Shapes: N candidates, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suzoo.models._dialogue import DialogueLayout, Turn


@torch.no_grad()
def mmi_scores(
    backward_model: PreTrainedModel,
    layout: DialogueLayout,
    history: Sequence[Turn],
    candidates: Sequence[Turn],
    *,
    mean: bool = True,
) -> Tensor:
    """log P(history | candidate) under a model that was trained on reversed dialogues.

    A row is the candidate, then the history from its last turn to its first; the tokens of the history are scored, with
    what ends their turns.

    Args:
        backward_model: a dialogue model in evaluation mode; reads N rows at once.
        layout: its layout, see `DialogueLayout.of_tokenizer`.
        history: turns, oldest first.
        candidates: N replies.
        mean: per token, as in DialoGPT; False sums.

    Returns:
        (N,) float32 on the CPU.

    Raises:
        ValueError: no history or no candidate.
    """
    if not history or not candidates:
        raise ValueError(f"MMI needs candidates and a history, not {len(candidates)} and {len(history)} turns")
    rows = [layout.render([candidate, *reversed(history)]) for candidate in candidates]
    longest = max(len(row.input_ids) for row in rows)

    def padded(part: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in part], device=backward_model.device)

    ids_NL = padded([row.input_ids for row in rows], 0)
    outputs = backward_model(
        input_ids=ids_NL,
        attention_mask=padded([[1] * len(row.input_ids) for row in rows], 0),
        token_type_ids=padded([row.token_type_ids for row in rows], 0),
    )
    log_probs_NLV = outputs.logits[:, :-1].float().log_softmax(-1)
    log_probs_NL = log_probs_NLV.gather(-1, ids_NL[:, 1:, None])[..., 0]
    scored_NL = padded([row.turn_index for row in rows], -1)[:, 1:] > 0  # turn 0 is the candidate
    total_N = (log_probs_NL * scored_NL).sum(-1)
    return (total_N / scored_NL.sum(-1).clamp_min(1) if mean else total_N).cpu()


class MMIReranker:
    """Chooses among candidate replies by `mmi_scores`. What does not fit the backward model is left out of the history,
    the oldest turns first.

    Args:
        backward_model: trained on reversed dialogues (`train_dialogpt.py --reverse`), in evaluation mode.
        tokenizer: of that model.
        layout: default what the model's configuration says.
        mean: see `mmi_scores`.

    Raises:
        ValueError: the layout is unknown.
    """

    def __init__(
        self,
        backward_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layout: str | None = None,
        mean: bool = True,
    ) -> None:
        layout = layout or getattr(backward_model.config, "layout", None)
        if layout is None:
            raise ValueError("the backward model does not say how it was trained: pass layout=")
        self.model, self.tokenizer, self.mean = backward_model, tokenizer, mean
        self.layout = DialogueLayout.of_tokenizer(layout, tokenizer)
        positions = getattr(backward_model.config, "position_embedding_type", "absolute") == "absolute"
        self.max_tokens = getattr(backward_model.config, "max_position_embeddings", None) if positions else None

    def order(self, history: Sequence[tuple[int, str]], candidates: Sequence[str]) -> list[int]:
        """Indices of the candidates, best first. `history` has speakers (0 or 1) and texts, oldest first."""
        turns = [Turn.of_text(self.tokenizer, text, speaker) for speaker, text in history]
        replier = 1 - turns[-1].speaker if turns else 0
        replies = [Turn.of_text(self.tokenizer, text, replier) for text in candidates]
        if self.max_tokens is not None and turns and replies:
            longest = max(len(reply.ids) for reply in replies) + 1  # with what ends the turn
            turns = self.layout.newest(turns, self.max_tokens - longest)
        scores_N = mmi_scores(self.model, self.layout, turns, replies, mean=self.mean)
        return scores_N.argsort(descending=True, stable=True).tolist()


def mmi_rerank(
    backward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    history: Sequence[str],
    candidates: Sequence[str],
    *,
    layout: str | None = None,
    mean: bool = True,
) -> list[int]:
    """Order of candidate replies by `mmi_scores`, best first, as indices.

    Args:
        backward_model: trained on reversed dialogues (`train_dialogpt.py --reverse`).
        tokenizer: of the model.
        history: turns oldest first, the speakers taking turns; a candidate replies to the last one.
        candidates: N replies, for example sampled by `generate(num_return_sequences=N)`.
        layout: default what the model's configuration says.
        mean: see `mmi_scores`.
    """
    reranker = MMIReranker(backward_model, tokenizer, layout=layout, mean=mean)
    return reranker.order([(place % 2, text) for place, text in enumerate(history)], candidates)
