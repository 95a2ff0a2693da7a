"""What the models say to what a user typed, as HTML that also reads without colour. Nothing here knows gradio.

Every function raises ValueError with one sentence for bad input. Colours are grounds for black text, in both schemes.
"""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from suzoo.demo.models import Opened

MOST_SENTENCES = 30  # a matrix of more cannot be read
MOST_DOCUMENTS = 1000
GOOD, BAD = (86, 180, 233), (230, 159, 0)  # of Okabe and Ito's palette, told apart by readers with any colour vision


def compare(one: Opened, sentences: str) -> str:
    """The cosines of all pairs of lines, as a matrix, and the most alike pair."""
    texts = _lines(sentences, "sentences", at_least=2, at_most=MOST_SENTENCES)
    vectors_ND = one.model.encode(texts, normalize=True)
    cosines_NN = (vectors_ND @ vectors_ND.T).tolist()
    pairs = [(cosines_NN[i][j], i, j) for i in range(len(texts)) for j in range(i)]
    best, second, first = max(pairs, key=lambda pair: pair[0])
    least = min(map(min, cosines_NN))
    head = "".join(f"<th scope=col>{number}</th>" for number in range(1, len(texts) + 1))
    rows = ""
    for number, (text, row) in enumerate(zip(texts, cosines_NN, strict=True), 1):
        cells = "".join(_cosine_cell(cosine, least) for cosine in row)
        rows += f"<tr><th scope=row><b>{number}</b> {html.escape(text)}</th>{cells}</tr>"
    return (
        f"<p>Most alike: {first + 1} and {second + 1}, with a cosine of {best:.2f}.</p>"
        f"{_table(f'<tr><td></td>{head}</tr>{rows}', 'Cosines of the sentences')}"
    )


def search(encoder: Opened | None, reranker: Opened | None, query: str, documents: str, num_best: int = 10) -> str:
    """The lines nearest to a query: by an encoder, by a cross-encoder, or the encoder's best in the other's order."""
    query = _text(query, "query")
    texts = _lines(documents, "documents", at_least=1, at_most=MOST_DOCUMENTS)
    if encoder is None and reranker is None:
        raise ValueError("there is no model to search with: choose one")
    columns: dict[str, dict[int, float]] = {}
    order = list(range(len(texts)))
    if encoder is not None:
        prompts = [name if name in encoder.model.prompts else None for name in ("query", "document")]
        query_D = encoder.model.encode(query, prompt_name=prompts[0], normalize=True)
        cosines_N = encoder.model.encode(texts, prompt_name=prompts[1], normalize=True) @ query_D
        columns["cosine"] = dict(enumerate(cosines_N.tolist()))
        order.sort(key=lambda row: -columns["cosine"][row])
        order = order[:num_best]
    if reranker is not None:
        hits = reranker.model.rank(query, [texts[row] for row in order], top_k=num_best)
        columns["score"] = {order[hit["corpus_id"]]: hit["score"] for hit in hits}
        order = list(columns["score"])
    head = "".join(f"<th scope=col>{name}</th>" for name in columns)
    rows = "".join(
        f"<tr><td>{place}</td>{''.join(f'<td>{values[row]:.3f}</td>' for values in columns.values())}"
        f"<td>{html.escape(texts[row])}</td></tr>"
        for place, row in enumerate(order, 1)
    )
    return _table(f"<tr><th scope=col>#</th>{head}<th scope=col>text</th></tr>{rows}", "The best documents first")


def open_chat(one: Opened) -> Any:
    """A `suzoo.decoding.ChatSession` that has heard nothing."""
    from suzoo.decoding import ChatSession

    return ChatSession(one.model, one.tokenizer, layout=one.layout)


def stream_reply(session: Any, text: str) -> Iterator[str]:
    """The reply to `text` while it is made: each string is all of it so far. What fails in the model fails here."""
    from transformers import TextStreamer

    parts: SimpleQueue[str | BaseException | None] = SimpleQueue()

    class Queued(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            parts.put(text)

    def reply() -> None:
        try:
            session.reply(text, streamer=Queued(session.tokenizer, skip_prompt=True, skip_special_tokens=True))
            parts.put(None)
        except BaseException as error:
            parts.put(error)

    text = _text(text, "message")
    thread = threading.Thread(target=reply, daemon=True)
    thread.start()
    said = ""
    try:
        while (part := parts.get()) is not None:
            if isinstance(part, BaseException):
                raise part
            said += part
            yield said
    finally:
        thread.join()  # a caller that went away leaves no model at work
    yield session.history[-1][1]


def title(one: Opened, article: str, num_beams: int = 3, max_new_tokens: int = 32) -> str:
    """What a UniLM model writes for an article."""
    positions = one.model.config.max_position_embeddings
    (written,) = one.model.generate_texts(
        [_text(article, "article")],
        tokenizer=one.tokenizer,
        num_beams=num_beams,
        max_new_tokens=min(max_new_tokens, positions // 2),
        do_sample=False,
    )
    return f"<p class=sz-large>{html.escape(written) or 'The model wrote nothing.'}</p>"


def spelling(one: Opened, text: str, error_rate: float = 0.01) -> str:
    """A text with T-TA's corrections marked, and the corrected text."""
    text = _whole(one, _text(text, "text"))
    found = one.model.suggest(text, tokenizer=one.tokenizer, error_rate=error_rate)
    if not found:
        return "<p>The model changes nothing.</p>"
    marked, corrected, end = "", "", 0
    for change in found:
        kept, new = text[end : change.start], change.replacement
        old = f'<del title="less likely by {change.gain:.1f} nats">{html.escape(change.original)}</del>'
        marked += f"{html.escape(kept)}{old}<ins>{html.escape(new)}</ins>"
        corrected += kept + new
        end = change.end
    rest = text[end:]
    return (
        f"<p class=sz-large>{marked}{html.escape(rest)}</p><p>{len(found)} changed: "
        f"<span class=sz-corrected>{html.escape(corrected + rest)}</span></p>"
    )


def scores(one: Opened, text: str) -> str:
    """The log-probability of each token given all others: coloured by how unlikely it is, and as a table."""
    found = one.model.score_tokens(_whole(one, _text(text, "text")), tokenizer=one.tokenizer)
    if not found:
        raise ValueError("the text has no tokens")
    total = sum(token.log_prob for token in found)
    spans = "".join(
        f'<span style="background:{_blend(BAD, -token.log_prob / 10)}" title="{token.log_prob:.2f}">'
        f"{html.escape(token.text)}</span>"
        for token in found
    )
    rows = "".join(
        f"<tr><td>{html.escape(token.text)}</td><td>{token.log_prob:.2f}</td><td>{math.exp(token.log_prob):.3f}</td></tr>"
        for token in found
    )
    head = "<tr><th scope=col>token</th><th scope=col>log p</th><th scope=col>p</th></tr>"
    return (
        f"<p class=sz-tokens>{spans}</p><p>The stronger the orange, the less expected. Sum {total:.2f} nats, "
        f"{len(found)} tokens, pseudo-perplexity {math.exp(-total / len(found)):.2f}.</p>"
        f"<details><summary>The numbers</summary>{_table(head + rows, 'Log-probabilities of the tokens')}</details>"
    )


def explanation(one: Opened, text: str, pair: str = "", target: str = "", position: int | None = None) -> str:
    """The text with the tokens coloured that made the model say what it said."""
    from suzoo.analysis import explain
    from suzoo.analysis.render import summary, tokens_to_html

    is_masked, is_encoder = one.kind in ("masked-lm", "tta"), one.kind == "encoder"
    text = _text(text, "text")
    if is_encoder and not pair.strip():
        raise ValueError("a sentence encoder compares two texts: write the second one, too")
    found = explain(
        one.model,
        one.tokenizer,
        text,
        pair.strip() or None if reads_pair(one) else None,
        target=None if is_encoder else target.strip() or None,
        position=int(position or 0) if is_masked else None,
    )
    return f"<p class=sz-tokens>{tokens_to_html(found)}</p><p>{html.escape(summary(found))}.</p>"


def reads_pair(one: Opened) -> bool:
    return one.kind in ("encoder", "cross-encoder", "classifier")


def mistake(message: str) -> str:
    """One sentence about bad input, which screen readers read at once."""
    sentence = message[:1].upper() + message[1:]
    return (
        f"<p class=sz-mistake role=alert>{html.escape(sentence)}{'' if sentence.endswith(('.', '!', '?')) else '.'}</p>"
    )


def _text(text: str | None, name: str) -> str:
    if not (text or "").strip():
        raise ValueError(f"the {name} is empty: write something")
    return str(text).strip()


def _lines(text: str | None, name: str, *, at_least: int, at_most: int) -> list[str]:
    """The lines that are not empty."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not at_least <= len(lines) <= at_most:
        raise ValueError(f"write {at_least} to {at_most} {name}, one on each line: there are {len(lines)}")
    return lines


def _whole(one: Opened, text: str) -> str:
    """`text`, if the model reads all of it."""
    num_tokens = len(one.tokenizer(text, split_special_tokens=True)["input_ids"])
    limit = one.model.config.max_position_embeddings
    if num_tokens > limit:
        raise ValueError(f"the text has {num_tokens} tokens and the model reads {limit}: shorten it")
    return text


def _cosine_cell(cosine: float, least: float) -> str:
    """From white, for the least cosine of the matrix, to blue, for 1."""
    ground = _blend(GOOD, (cosine - least) / max(1e-6, 1 - least))
    return f'<td style="background:{ground};color:#000">{cosine:.2f}</td>'


def _blend(colour: Iterable[int], share: float) -> str:
    """White with a share of the colour."""
    share = min(1.0, max(0.0, share))
    return f"rgb({','.join(str(round(255 + share * (part - 255))) for part in colour)})"


def _table(rows: str, caption: str) -> str:
    """It scrolls by itself where the page is narrow."""
    return f'<div class=sz-scroll tabindex=0 role=region aria-label="{caption}"><table>{rows}</table></div>'
