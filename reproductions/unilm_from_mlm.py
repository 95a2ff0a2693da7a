"""UniLM from the weights of a masked language model, against the same model from random weights.

Claim: a masked language model turns into a sequence-to-sequence model by its attention mask alone, so that its
pretrained weights serve (kexue.fm/archives/6933, which shows titles and gives no number).

    python reproductions/unilm_from_mlm.py --model out/zoo/mlm-zh-mini --data lcsts.train.tsv --dev lcsts.val.tsv

Here: titles of LCSTS, 200 steps of 2,048 tokens; dev loss per token, and ROUGE of 200 written titles. The `--model` is
the zoo's, four layers of 256 pretrained for 300 steps, and the model from scratch has its sizes.

Verdict: holds: dev loss 6.255 ± .005 against 6.933 ± .005 from scratch after the same steps (three seeds); neither
writes titles of any use yet (ROUGE-L .024 and .002). Table in training/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import table
from transformers import AutoConfig

COMMON = "--columns source=text target=title --max-length 128 --max-target-length 24 --micro-batch-tokens 2048"
COMMON += " --lr 5e-4 --schedule linear --warmup 0.1 --max-scored 200"


@dataclass
class Options:
    model: Path
    """Folder of a masked language model with its tokenizer."""
    data: str
    """Texts and titles to train on."""
    dev: str
    """Texts and titles to score."""
    steps: int = 200
    out: Path = Path("out/unilm-from-mlm")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    config = AutoConfig.from_pretrained(options.model)
    shape = ["--hidden-size", config.hidden_size, "--num-layers", config.num_hidden_layers]
    variants = {
        "from the masked model": ["--model", options.model],
        "from scratch": ["--vocabulary", options.model, *shape],
    }
    table(
        "train_unilm",
        "scratch",
        options.out,
        variants,
        common=[*COMMON.split(), "--data", options.data, "--dev", options.dev, "--max-steps", options.steps],
        seeds=options.seeds,
        columns=("dev: loss", "rouge_1", "rouge_2", "rouge_l"),
        split="generated",
    )


if __name__ == "__main__":
    main()
