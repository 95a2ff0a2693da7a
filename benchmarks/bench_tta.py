"""Scoring sentences: one pass of T-TA against one pass per token of a masked language model of equal depth and width.

    python benchmarks/bench_tta.py

Random weights; both sides start from text. The peer masks each token once: one after the other (what a loop over
`BertForMaskedLM` does), or all copies of a sentence as one batch. A list of sentences is one batch for T-TA, and
batches of masked copies for the peer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import tyro
from timing import paired
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from suzoo.evaluation import masked_log_likelihoods
from suzoo.models import TTAConfig, TTAForMaskedLM


@dataclass
class Options:
    num_layers: int = 3
    hidden_size: int = 512
    num_heads: int = 8
    vocab_size: int = 21128
    lengths: tuple[int, ...] = (12, 22, 42)
    """Tokens per sentence, [CLS] and [SEP] included."""
    num_sentences: int = 16
    """Of the list."""
    copies: int = 64
    """Masked copies per forward of the peer, for the list."""
    rounds: int = 15
    threads: int = 0
    """0 is torch's choice."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + n) for n in range(options.vocab_size - 5))]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    shape = {
        "vocab_size": options.vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
        "intermediate_size": 4 * options.hidden_size,
    }
    torch.manual_seed(0)
    ours = TTAForMaskedLM(TTAConfig(**shape, mask_token_id=tokenizer.mask_token_id)).eval()
    peer = BertForMaskedLM(BertConfig(**shape)).eval()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {shape}")

    def n_passes(model, texts: list[str], batch_size: int) -> torch.Tensor:
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        special = (inputs["input_ids"] == tokenizer.cls_token_id) | (inputs["input_ids"] == tokenizer.sep_token_id)
        scored = inputs["attention_mask"].bool() & ~special
        return masked_log_likelihoods(
            model, inputs, scored, mask_token_id=tokenizer.mask_token_id, batch_size=batch_size
        ).sum(-1)

    random = np.random.default_rng(0)
    for length in options.lengths:
        rows = random.integers(
            0x4E00, 0x4E00 + options.vocab_size - 5, (options.rounds + options.num_sentences, length - 2)
        )
        texts = ["".join(map(chr, row)) for row in rows]
        singles, many = texts[: options.rounds], texts[options.rounds :]
        # masking a token changes nothing for T-TA, so that its one pass is its n passes
        error = (ours.score(many[:4], tokenizer=tokenizer) - n_passes(ours, many[:4], 64)).abs().max()
        print(f"{length} tokens: one pass and n passes of T-TA differ by {error:.1e} nats")

        def score(number: int, singles=singles) -> torch.Tensor:
            return ours.score([singles[number]], tokenizer=tokenizer)

        for name, batch_size in (("sequential", 1), ("batched", length)):

            def n_pass_score(number: int, singles=singles, batch_size=batch_size) -> torch.Tensor:
                return n_passes(peer, [singles[number]], batch_size)

            print(f"{length} tokens, a sentence, {name}: {paired(score, n_pass_score, options.rounds)}", flush=True)
        ratio = paired(
            lambda _, many=many: ours.score(many, tokenizer=tokenizer),
            lambda _, many=many: n_passes(peer, many, options.copies),
            max(3, options.rounds // 5),
            warmup=1,
        )
        print(f"{length} tokens, {len(many)} sentences, {options.copies} copies per forward: {ratio}", flush=True)


if __name__ == "__main__":
    main()
