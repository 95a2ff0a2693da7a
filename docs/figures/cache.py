"""How many tokens a dialogue model reads in each turn of a `ChatSession`, with keys and values kept and without."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, QUIET, Axes, Picture, save

from suzoo.data.embedded import load
from suzoo.data.tokenizer import train_wordpiece
from suzoo.data.vocabulary import chat_tokenizer
from suzoo.decoding import ChatSession
from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM
from suzoo.models._dialogue import DialogueLayout

NUM_TURNS, MAX_TOKENS, MAX_NEW_TOKENS = 14, 160, 8


def tokens_read(reuse_cache: bool) -> list[int]:
    """Tokens of the prompt that the model reads before it replies, turn by turn."""
    words = train_wordpiece((text for row in load("dialogues_zh")[:300] for text in row["turns"]), vocab_size=400)
    chat = chat_tokenizer(words, DialogueLayout.of_tokenizer("dialogpt", words))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = DialoGPTConfig(vocab_size=len(chat), max_position_embeddings=MAX_TOKENS, layout="dialogpt", **sizes)
    model, lengths = DialoGPTForCausalLM(config).eval(), []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, ids: lengths.append(ids[0].shape[1]))
    session = ChatSession(
        model, chat, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, no_repeat_ngram_size=0, reuse_cache=reuse_cache
    )
    said = [text for row in load("dialogues_zh")[:NUM_TURNS] for text in row["turns"][::2]][:NUM_TURNS]
    read = []
    for text in said:
        lengths.clear()
        session.reply(text)
        read.append(lengths[0])
    return read


def draw() -> Picture:
    kept, anew = tokens_read(True), tokens_read(False)
    picture = Picture(640, 320, "Tokens that a chat reads in each turn, with a cache and without")
    picture.heading(
        "A turn costs its own tokens",
        f"Read before each reply: {sum(kept)} tokens in all with keys and values kept, {sum(anew)} without.",
    )
    top = 20 * (max(anew) // 20 + 1)
    axes = Axes(
        picture,
        (60, 84, 550, 150),
        x=(0.4, NUM_TURNS + 0.6),
        y=(0, top),
        labels=("turn", "tokens"),
        ticks=({turn: str(turn) for turn in range(1, NUM_TURNS + 1)}, {n: str(n) for n in range(0, top + 1, 40)}),
    )
    _, ground = axes.place(0, 0)
    for turn, (few, many) in enumerate(zip(kept, anew, strict=True), 1):
        for share, count, colour in ((-0.32, many, GREY), (0.02, few, BLUE)):
            x, y = axes.place(turn + share, count)
            picture.rect(x, y, 12, ground - y, colour)
    for x, colour, name in ((60, BLUE, "cache kept"), (170, GREY, "read anew in every turn")):
        picture.rect(x, 296, 12, 12, colour)
        picture.text(x + 18, 306, name, size=12)
    picture.text(370, 306, "A high blue bar: old turns were dropped.", size=12, colour=QUIET)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
