"""Decoding that does not end: plain, consistent and self-terminating, on dialogues, titles and continuations.

Claims (kexue.fm/archives/7500; arXiv 2002.02492, 2210.00660): greedy search, top-k and nucleus sampling may go on for
ever and repeat themselves; consistent sampling ends; self-terminating models end also under greedy search, for a little
perplexity, the non-monotonic form for less; neither does much about the repetition itself.

    python reproductions/nontermination.py --texts texts.txt.gz --kinds continuations
    python reproductions/nontermination.py --dialogues train.jsonl --dialogues-dev dev.jsonl \
        --titles train.tsv --titles-dev dev.tsv --kinds dialogues titles

Small models from scratch, so young that they do not always end. A continuation without an end within 150 tokens counts
as not ending. Repetition is the share of 4-grams that the text has said before.

Verdict: holds in part: continuations of 120 characters, three seeds: one of the plain models ends none of 40 with
top-k 2 and all with consistent top-k 2; the other decodings ended by themselves. Self-terminating models always end;
epsilon 1e-3 costs no perplexity (673 ± 3 against 681 ± 3), 1e-2 costs 9 %, the non-monotonic form as much; none
repeats itself less. Dialogues and titles all end, so that nothing is to repair there. Table in training/LOG.md.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from _runs import spread, train, write_jsonl
from _small_lm import read_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from suzoo.data import read_dialogues, read_seq2seq
from suzoo.decoding import ConsistentTopKLogitsWarper, ConsistentTopPLogitsWarper, nontermination_report
from suzoo.models._dialogue import DialogueLayout, Turn

COMMON = "--lr 1e-3 --hidden-size 128 --num-layers 3 --positions rope --micro-batch-tokens 2048 --max-scored 0"
MODELS = {
    "plain": "",
    "self-terminating, 1e-3": "--self-terminating monotonic --epsilon 1e-3",
    "self-terminating, 1e-2": "--self-terminating monotonic --epsilon 1e-2",
    "non-monotonic, 1e-3": "--self-terminating non_monotonic --epsilon 1e-3",
    "non-monotonic, 1e-2": "--self-terminating non_monotonic --epsilon 1e-2",
}
SCRIPTS = {
    "dialogues": ("train_dialogpt", "--layout dialogpt --max-length 64 --learn all"),
    "titles": ("train_unilm", "--max-length 126 --max-target-length 24"),
    "continuations": ("train_dialogpt", "--layout dialogpt --max-length 192 --learn all"),
}


@dataclass
class Options:
    dialogues: str = "embedded:dialogues_zh"
    """Dialogues to train on."""
    dialogues_dev: str | None = None
    """Dialogues to reply to; default is the dev split of --dialogues."""
    titles: str = "embedded:titles_zh"
    """Articles and titles to train on."""
    titles_dev: str | None = None
    """Articles to write titles for; default is the dev split of --titles."""
    texts: str | None = None
    """Texts, one per line; their first 16 characters are continued by the next 120."""
    kinds: tuple[Literal["dialogues", "titles", "continuations"], ...] = ("dialogues", "titles")
    max_train_samples: int = 4000
    epochs: float = 1
    num_prompts: int = 100
    out: Path = Path("out/nontermination")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def write_continuations(texts: str, folder: Path, num_dev: int) -> tuple[Path, Path]:
    """(train, dev): dialogues of two turns, a beginning and what follows; no text is in both."""
    rows = [{"turns": [line[:16], line[16:136]]} for line in dict.fromkeys(read_lines(texts)) if len(line) >= 48]
    random.Random(0).shuffle(rows)
    dev, train = rows[:num_dev], rows[num_dev:]
    return write_jsonl(folder / "continuations.train.jsonl", train), write_jsonl(
        folder / "continuations.dev.jsonl", dev
    )


def decodings(name: str, end: int) -> dict[str, dict]:
    ways = {"greedy": {}, "beam 2": {"num_beams": 2}}
    sampled = {"do_sample": True, "top_k": 0}
    ways |= {"top-k 2": {**sampled, "top_k": 2}, "top-p .4": {**sampled, "top_p": 0.4}}
    if name == "plain":
        ways["consistent top-k 2"] = {**sampled, "logits_processor": [ConsistentTopKLogitsWarper(2, end)]}
        ways["consistent top-p .4"] = {**sampled, "logits_processor": [ConsistentTopPLogitsWarper(0.4, end)]}
    return ways


def prompts(kind: str, data: str | Path, split: str, tokenizer, number: int) -> list[list[int]]:
    if kind == "titles":
        rows = read_seq2seq(data, split=split, max_rows=number)
        return [tokenizer(row.source, truncation=True, max_length=102)["input_ids"] for row in rows]
    layout = DialogueLayout.of_tokenizer("dialogpt", tokenizer)
    dialogues = read_dialogues(data, split=split, max_rows=number)
    turns = [[Turn.of_text(tokenizer, text, place % 2) for place, text in enumerate(texts[:-1])] for texts in dialogues]
    return [layout.render_prompt(layout.newest(heard, 64), 1).input_ids for heard in turns]


def measure(
    folder: Path, kind: str, name: str, data: str | Path, split: str, options: Options
) -> dict[str, dict[str, float]]:
    path = folder / "nontermination.json"
    if not path.exists():
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        given = prompts(kind, data, split, tokenizer, options.num_prompts)
        found = {}
        for way, generation in decodings(name, tokenizer.sep_token_id).items():
            shared = {"eos_token_id": tokenizer.sep_token_id, "suppress_tokens": None, "max_new_tokens": 150}
            report = nontermination_report(model, given, batch_size=50, **shared, **generation)
            found[way] = {"rate": report.rate, "repetition": report.repetition, "length": report.mean_length}
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    for kind in options.kinds:
        script, flags = SCRIPTS[kind]
        if kind == "continuations":
            if options.texts is None:
                raise SystemExit("--kinds continuations needs --texts")
            data, dev = write_continuations(options.texts, options.out, options.num_prompts)
        else:
            data, dev = getattr(options, kind), getattr(options, f"{kind}_dev")
        given = ["--data", data, "--epochs", options.epochs, "--max-train-samples", options.max_train_samples]
        given += ["--dev", dev] if dev else []
        print(f"\n{kind}\n\n| model | perplexity | decoding | not ending | repetition | length |")
        print("|---|---|---|---|---|---|")
        for name, variant in MODELS.items():
            runs, scores = [], []
            for seed in options.seeds:
                folder = options.out / f"{kind}-{name.replace(', ', '-')}-{seed}"
                own = [*COMMON.split(), *flags.split(), *given, *variant.split(), "--seed", seed]
                scores.append(train(script, "scratch", folder, own)["dev"]["perplexity"])
                runs.append(measure(folder, kind, name, dev or data, "train" if dev else "dev", options))
            for way in runs[0]:
                cells = [spread([run[way][column] for run in runs]) for column in ("rate", "repetition", "length")]
                print(f"| {name} | {spread(scores)} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
