"""T-TA against a masked language model of equal size, data and steps: is one pass as good as n, and what does it save?

Claim (arXiv 2004.08097, kexue.fm/archives/7661): T-TA scores a sentence in one pass, several times faster than the n
passes of a masked model, and at least as well.

    python training/train_tta.py scratch --data train.txt --dev dev.txt --output-dir out/tta ...
    python training/train_tta.py mlm --data train.txt --dev dev.txt --output-dir out/mlm ...the same...
    python reproductions/tta_vs_mlm.py --models out/tta out/mlm --climp climp_zh.jsonl.gz --typos sighan15.tsv \
        --confusion pinyin_sam.json stroke.json --nbest librispeech_dev_clean.30best.jsonl.gz

Every measure is optional. The seconds are CPU time of the process.

Verdict: holds in part: one seed of each: pseudo-perplexity 32.1 against 206.6 at equal steps, ten times as fast;
minimal pairs .587 against .633; the n-best lists gain nothing. Table in training/LOG.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, BertForMaskedLM

import suzoo.models  # noqa: F401 registers tta
from suzoo.data import read_confusions, read_seq2seq
from suzoo.evaluation import masked_log_likelihoods, spelling_scores, word_error_rate
from suzoo.models import TTAForMaskedLM


class LeaveOneOut(nn.Module):
    """A masked language model with T-TA's interface: row i of its logits is from a copy with token i masked."""

    def __init__(self, model: BertForMaskedLM, mask_token_id: int):
        super().__init__()
        self.model, self.mask_token_id = model, mask_token_id
        self.config, self.device = model.config, model.device

    def forward(self, input_ids, **inputs):
        length = input_ids.shape[1]
        copies = input_ids.repeat(length, 1)
        copies.fill_diagonal_(self.mask_token_id)
        output = self.model(copies, **{name: tensor.expand(length, -1) for name, tensor in inputs.items()})
        output.logits = output.logits[torch.arange(length), torch.arange(length)][None]
        return output

    def suggest(self, text: str, **options):
        return TTAForMaskedLM.suggest(self, text, **options)


def load(folder: str):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if json.loads((Path(folder) / "config.json").read_text())["model_type"] == "tta":
        return TTAForMaskedLM.from_pretrained(folder).eval(), tokenizer
    return LeaveOneOut(BertForMaskedLM.from_pretrained(folder), tokenizer.mask_token_id).eval(), tokenizer


def score(model, tokenizer, texts: list[str]) -> list[float]:
    """Pseudo-log-likelihoods."""
    if isinstance(model, TTAForMaskedLM):
        return model.score(texts, tokenizer=tokenizer).tolist()
    scores = []
    for text in texts:
        length = {"truncation": True, "max_length": model.config.max_position_embeddings}
        inputs = tokenizer(text, return_special_tokens_mask=True, return_tensors="pt", **length)
        scored = inputs.pop("special_tokens_mask") == 0
        scores.append(
            float(masked_log_likelihoods(model.model, inputs, scored, mask_token_id=model.mask_token_id).sum())
        )
    return scores


def minimal_pairs(model, tokenizer, path: str, limit: int) -> dict[str, float]:
    """Share of CLiMP's pairs of which the good sentence has the higher score."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = rows[:: max(1, len(rows) // limit)]
    good = score(model, tokenizer, [row["good"] for row in rows])
    bad = score(model, tokenizer, [row["bad"] for row in rows])
    hits = [g > b for g, b in zip(good, bad, strict=True)]
    return {"minimal pairs": sum(hits) / len(hits)}


def spelling(model, tokenizer, path: str, confusion: list[str], limit: int) -> dict[str, float]:
    """SIGHAN correction without any training on it; the error rate of the channel is the data's own, about 2 %."""
    rows = [row for row in read_seq2seq(path) if len(row.source) == len(row.target)][:limit]
    sets = read_confusions(*confusion) if confusion else None
    corrected = []
    for row in rows:
        text = row.source
        for found in reversed(model.suggest(text, confusion=sets, error_rate=0.02, tokenizer=tokenizer)):
            text = text[: found.start] + found.replacement + text[found.end :]
        corrected.append(text)
    found = spelling_scores([row.source for row in rows], corrected, [row.target for row in rows])
    return {name: found[name] for name in ("detection_f1", "correction_f1", "false_alarm")}


def reranking(model, tokenizer, path: str, limit: int) -> dict[str, float]:
    """Word error rate of 30-best lists; the weight of the score is tuned on the first half, reported on the second."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = rows[:: max(1, len(rows) // limit)]
    first = [[hyp["decoder"] + hyp["ctc"] for hyp in row["hyps"]] for row in rows]
    texts = [hyp["text"].lower() for row in rows for hyp in row["hyps"]]
    scores = iter(score(model, tokenizer, texts))
    second = [[next(scores) for _ in row["hyps"]] for row in rows]
    half = len(rows) // 2

    def rate(weight: float, part: slice) -> float:
        chosen = [
            row["hyps"][max(range(len(a)), key=lambda i: a[i] + weight * b[i])]["text"]
            for row, a, b in zip(rows[part], first[part], second[part], strict=True)
        ]
        return word_error_rate(chosen, [row["ref"] for row in rows[part]])

    weight = min((w / 20 for w in range(41)), key=lambda w: rate(w, slice(0, half)))
    tested = slice(half, None)
    oracle = [min(row["hyps"], key=lambda hyp: hyp["errs"])["text"] for row in rows[tested]]
    return {
        "WER": rate(weight, tested),
        "WER before": rate(0.0, tested),
        "WER oracle": word_error_rate(oracle, [row["ref"] for row in rows[tested]]),
        "weight": weight,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="folders of train_tta.py")
    parser.add_argument("--climp", help="CLiMP: jsonl.gz of good and bad")
    parser.add_argument("--typos", help="tsv of source and target")
    parser.add_argument("--confusion", nargs="*", default=[], help="confusion sets for --typos")
    parser.add_argument("--nbest", help="30-best lists: jsonl.gz")
    parser.add_argument("--limit", type=int, default=500, help="pairs, sentences and lists, evenly over the file")
    options = parser.parse_args()
    for folder in options.models:
        model, tokenizer = load(folder)
        tasks = {
            "climp": (minimal_pairs, options.climp, 2 * options.limit),
            "typos": (spelling, options.typos, options.confusion, options.limit),
            "nbest": (reranking, options.nbest, options.limit // 2),
        }
        for name, (task, *arguments) in tasks.items():
            if getattr(options, name):
                started = time.process_time()
                with torch.no_grad():
                    numbers = task(model, tokenizer, *arguments)
                seconds = time.process_time() - started
                print(folder, name, " ".join(f"{k} {v:.4f}" for k, v in numbers.items()), f"({seconds:.0f} s)")


if __name__ == "__main__":
    main()
