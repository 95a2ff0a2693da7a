"""Generation: UniLM's `generate()` against stock GPT-2's, and what a turn of a long chat costs, paired in one run.

    python benchmarks/bench_generate.py

Random weights of the same shape and vocabulary. GPT-2 is timed as transformers ships it. A model that has written some
text keeps copies of its weights in another order (`suzoo.models._decoding`), which its first text cannot use. The chat
has replies of equal length, a user turn of a dozen tokens between them, and no turn dropped. Its other column
recomputes the history.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from timing import paired
from transformers import BertTokenizer, GPT2Config, GPT2LMHeadModel

from suzoo.decoding import ChatSession
from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM, UniLMConfig, UniLMForCausalLM
from suzoo.models._decoding import forget_decoding_weights


@dataclass
class Options:
    num_layers: int = 6
    hidden_size: int = 384
    num_heads: int = 12
    vocab_size: int = 30522
    prompt_tokens: int = 64
    new_tokens: int = 64
    batch_sizes: tuple[int, ...] = (1, 8)
    rounds: int = 15
    """Timed rounds of generation."""
    chats: int = 3
    """Timed chats; the median is over the turns of all."""
    reply_tokens: int = 20
    threads: int = 0
    """0 is torch's choice."""


def shape(options: Options) -> dict:
    return {
        "vocab_size": options.vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
        "intermediate_size": 4 * options.hidden_size,
    }


def generation(options: Options) -> None:
    torch.manual_seed(0)
    ours = UniLMForCausalLM(UniLMConfig(**shape(options))).eval()
    sizes = {"n_embd": options.hidden_size, "n_layer": options.num_layers, "n_head": options.num_heads}
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=options.vocab_size, n_positions=512, **sizes)).eval()
    # no end, so that no text stops early: `min_new_tokens` would add two passes over the vocabulary to every step
    for model in (ours, peer):
        model.generation_config.eos_token_id = None
    length = {"max_new_tokens": options.new_tokens}
    for batch_size in options.batch_sizes:
        prompt = torch.randint(1000, options.vocab_size, (batch_size, options.prompt_tokens))
        inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}

        def run(model, inputs=inputs):
            return model.generate(**inputs, **length, do_sample=False, pad_token_id=0)

        cached, uncached = run(ours), ours.generate(**inputs, **length, do_sample=False, use_cache=False)
        assert torch.equal(cached, uncached), "the cache changed a token"
        ratio = paired(lambda _, run=run: run(ours), lambda _, run=run: run(peer), options.rounds)
        tokens = 1000 * ratio.ours / options.new_tokens, 1000 * ratio.peer / options.new_tokens
        print(f"generate, batch {batch_size}: {ratio}; {tokens[0]:.2f} and {tokens[1]:.2f} ms per step", flush=True)

        def first(_, run=run):
            forget_decoding_weights(ours)
            return run(ours)

        assert torch.equal(first(0), cached), "the order of the weights changed a token"
        ratio = paired(first, lambda _, run=run: run(peer), options.rounds // 2 + 1, warmup=1)
        print(f"generate, batch {batch_size}, the first text of a model: {ratio}", flush=True)


def tokenizer_of(size: int) -> BertTokenizer:
    """One token per Chinese character."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + n) for n in range(size - 5))]
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)})


def chat(options: Options) -> None:
    tokenizer = tokenizer_of(min(options.vocab_size, 20000))
    turns = np.random.default_rng(0).integers(0x4E00, 0x4E00 + 15000, (32, 12))
    texts = ["".join(map(chr, row)) for row in turns]
    for positions in ("absolute", "nezha"):
        torch.manual_seed(0)
        config = DialoGPTConfig(
            **shape(options) | {"vocab_size": len(tokenizer)},
            max_position_embeddings=2048,
            position_embedding_type=positions,
            layout="blog",
            eos_token_id=3,
        )
        model = DialoGPTForCausalLM(config).eval()
        times, replies = {}, {}
        for reuse_cache in (True, False):
            times[reuse_cache] = np.zeros((options.chats, len(texts)))
        for number in range(options.chats):
            sessions = {}
            for reuse_cache in (True, False):
                session = ChatSession(
                    model,
                    tokenizer,
                    max_tokens=2048,
                    max_new_tokens=options.reply_tokens,
                    do_sample=False,
                    no_repeat_ngram_size=0,
                    reuse_cache=reuse_cache,
                )
                session.suppress_tokens = [*session.suppress_tokens, session.layout.sep_id]  # replies of equal length
                sessions[reuse_cache] = session
            for turn, text in enumerate(texts):  # the two chats take turns, so that both see the machine's moods
                for reuse_cache, session in sessions.items():
                    start = time.perf_counter()
                    session.reply(text)
                    times[reuse_cache][number, turn] = time.perf_counter() - start
            replies = {reuse_cache: session.turns for reuse_cache, session in sessions.items()}
        assert replies[True] == replies[False], "the cache changed a reply"
        tokens = sessions[True].layout.num_tokens(replies[True])
        for reuse_cache, name in ((True, "cache kept"), (False, "recomputed")):
            early, late = np.median(times[reuse_cache][:, 2:7]), np.median(times[reuse_cache][:, 27:32])
            print(
                f"chat, {positions}, {name}: turns 28-32 take {late / early:.2f} times turns 3-7; "
                f"{1000 * early:.0f} and {1000 * late:.0f} ms; {tokens} tokens at the end",
                flush=True,
            )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {shape(options)}")
    generation(options)
    chat(options)


if __name__ == "__main__":
    main()
