"""Scores of generated text: ROUGE, BLEU, word error rate, distinct-n, perplexity. Fractions; tables show them ×100.

`article_scores` computes what the seq2seq tables of kexue.fm report (7867, 8209), `generation_scores` the standard
definitions. The two are not comparable: the articles take ROUGE from the PyPI package rouge==1.0.0, whose ROUGE-L is
over the *set* of common characters, and the mean of sentence BLEUs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

Tokenize = Callable[[str], list[str]]


def characters(text: str) -> list[str]:
    """Every character a token, white space left out; the tokens of Chinese when nothing else is said."""
    return [character for character in text if not character.isspace()]


def article_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`rouge_1`, `rouge_2`, `rouge_l_set`, `bleu_mean` over lower-cased characters, as bert4keras' examples have them.

    Means over all samples, in which an empty prediction counts 0. ROUGE-1 and -2 are F1 of clipped counts; ASCII full
    stops end a sentence and are no tokens, nor are blanks. `rouge_l_set` is F1 of the set of characters of the longest
    common subsequence. `bleu_mean` is BLEU-4 of each sentence with zero counts raised to 0.1 (nltk's method1).

    Args:
        predictions: (n,) texts.
        references: (n,) one per prediction, none of them blank.

    Raises:
        ValueError: unequal numbers, none at all, or a blank reference.
    """
    _check(predictions, references)
    rouge = _rouge_scorer(["rouge1", "rouge2"], _article_tokens)
    totals = dict.fromkeys(("rouge_1", "rouge_2", "rouge_l_set", "bleu_mean"), 0.0)
    for prediction, reference in zip(predictions, references, strict=True):
        if not prediction.strip():
            continue
        score = rouge(reference, prediction)
        totals["rouge_1"] += score["rouge1"].fmeasure
        totals["rouge_2"] += score["rouge2"].fmeasure
        totals["rouge_l_set"] += _rouge_l_set(prediction, reference)
        # a blank between characters joined by blanks leaves empty tokens, which count
        totals["bleu_mean"] += _sentence_bleu(*(" ".join(text).lower().split(" ") for text in (prediction, reference)))
    return {name: total / len(references) for name, total in totals.items()}


def generation_scores(
    predictions: Sequence[str], references: Sequence[str], *, tokenize: Tokenize = characters, bleu_tokenize: str = "zh"
) -> dict[str, float]:
    """`rouge_1`, `rouge_2`, `rouge_l` (rouge-score, mean of F1) and `bleu` (sacrebleu, over the whole corpus).

    Args:
        predictions: (n,) texts; an empty one counts 0 in ROUGE.
        references: (n,) one per prediction, none of them blank.
        tokenize: text -> tokens for ROUGE; `str.split` or a better one for languages with blanks.
        bleu_tokenize: sacrebleu's tokenizer: zh, or 13a for languages with blanks. A corpus BLEU is only comparable to
            one of the same tokenizer.

    Raises:
        ValueError: unequal numbers, none at all, a blank reference, or a tokenizer that drops a whole reference, as
            rouge-score's own does with Chinese (it keeps a-z and 0-9, and the score is 0 without a word).
    """
    _check(predictions, references)
    for reference in references:
        if not tokenize(reference):
            raise ValueError(f"the tokenizer leaves nothing of {reference!r:.60}: take one for its language")
    import sacrebleu

    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    rouge = _rouge_scorer(list(names.values()), tokenize)
    scores = [rouge(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)]
    means = {ours: sum(score[theirs].fmeasure for score in scores) / len(scores) for ours, theirs in names.items()}
    bleu = sacrebleu.corpus_bleu(list(predictions), [list(references)], tokenize=bleu_tokenize)
    return {**means, "bleu": bleu.score / 100}


def distinct_n_corpus(texts: Sequence[str], n: int, *, tokenize: Tokenize = characters) -> float:
    """Distinct n-grams of all texts together, divided by their number (Li et al., 2016). It falls as texts are added.

    Returns 0.0 when no text has n tokens. Report it with n, the tokenizer and the number of texts.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(tokenize(text), n)]
    return len(set(ngrams)) / max(1, len(ngrams))


def distinct_n_mean(texts: Sequence[str], n: int, *, tokenize: Tokenize = characters) -> float:
    """Distinct n-grams of a text divided by their number, mean over the texts; a text of fewer tokens than n counts 0.

    Raises:
        ValueError: no texts.
    """
    if not texts:
        raise ValueError("there is no text to score")
    ngrams = [_ngrams(tokenize(text), n) for text in texts]
    return sum(len(set(found)) / max(1, len(found)) for found in ngrams) / len(ngrams)


def perplexity(nlls: Sequence[float], num_tokens: Sequence[int]) -> float:
    """exp of the mean negative log-likelihood per token of all texts together.

    Comparable only between models of one tokenizer; `bits_per_character` is for the others.

    Args:
        nlls: (n,) the *sum* of negative log-likelihoods over a text's tokens, natural logarithm.
        num_tokens: (n,) how many tokens that sum is over.

    Raises:
        ValueError: unequal numbers, or no token.
    """
    return _exp(_ratio(nlls, num_tokens, "tokens"))


def mean_perplexity(nlls: Sequence[float], num_tokens: Sequence[int]) -> float:
    """Mean of the perplexities of single texts: another quantity than `perplexity`, ruled by the worst texts."""
    return sum(perplexity([nll], [count]) for nll, count in zip(nlls, num_tokens, strict=True)) / len(nlls)


def bits_per_character(nlls: Sequence[float], num_characters: Sequence[int]) -> float:
    """Bits to encode one character, whatever the tokenizer; `nlls` as for `perplexity`."""
    return _ratio(nlls, num_characters, "characters") / math.log(2)


def word_error_rate(predictions: Sequence[str], references: Sequence[str], *, tokenize: Tokenize = str.split) -> float:
    """Insertions, deletions and substitutions over the number of reference words, of the whole corpus.

    With `tokenize=characters` it is the character error rate. It can be above 1. Errors as for `article_scores`.
    """
    _check(predictions, references)
    pairs = [
        (tokenize(prediction), tokenize(reference))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return sum(_edits(*pair) for pair in pairs) / sum(len(reference) for _, reference in pairs)


def _edits(first: list[str], second: list[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _rouge_scorer(kinds: list[str], tokenize: Tokenize) -> Callable:
    """(reference, prediction) -> {kind: precision, recall, fmeasure}."""
    from rouge_score import rouge_scorer, tokenizers  # imports nltk, more than a second

    class Tokenizer(tokenizers.Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return tokenize(text)

    return rouge_scorer.RougeScorer(kinds, tokenizer=Tokenizer()).score


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(predictions, str) or isinstance(references, str):
        raise ValueError("predictions and references are lists of texts, not one text")
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"there must be one reference per prediction and one at least, not {len(references)} for {len(predictions)}"
        )
    for index, reference in enumerate(references):
        if not reference.strip():
            raise ValueError(f"reference {index} is blank")


def _article_sentences(text: str) -> list[list[str]]:
    """Sentences and words as rouge==1.0.0 sees characters joined by blanks: it splits at '.', then at blanks."""
    return [" ".join(sentence.split()).split(" ") for sentence in " ".join(text).lower().split(".") if sentence]


def _article_tokens(text: str) -> list[str]:
    return [word for sentence in _article_sentences(text) for word in sentence]


def _rouge_l_set(prediction: str, reference: str) -> float:
    """ROUGE-L of rouge==1.0.0: F1 of the *set* of words in the longest common subsequences of any two sentences."""
    predicted, wanted = _article_sentences(prediction), _article_sentences(reference)
    common: set[str] = set()
    for sentence in wanted:
        for other in predicted:
            common |= set(_longest_common_subsequence(sentence, other))
    if not common:
        return 0.0
    precision, recall = (len(common) / len(set().union(*sentences)) for sentences in (predicted, wanted))
    return 2 * precision * recall / (precision + recall)


def _longest_common_subsequence(first: list[str], second: list[str]) -> list[str]:
    """One of them: where both ways are as long, the last element of `second` is dropped, as in rouge==1.0.0."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if a == b else max(lengths[i - 1][j], lengths[i][j - 1])
    i, j, common = len(first), len(second), []
    while i and j:
        if first[i - 1] == second[j - 1]:
            common.append(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common


def _sentence_bleu(prediction: list[str], reference: list[str]) -> float:
    """BLEU-4 with one reference; a precision without a hit counts as 0.1 hits, except that of single tokens: then 0."""
    log_precision = 0.0
    for n in range(1, 5):
        predicted, wanted = (Counter(_ngrams(tokens, n)) for tokens in (prediction, reference))
        hits = sum((predicted & wanted).values())
        if n == 1 and not hits:
            return 0.0
        log_precision += math.log((hits or 0.1) / max(1, sum(predicted.values()))) / 4
    brevity = min(0.0, 1 - len(reference) / len(prediction))
    return math.exp(brevity + log_precision)


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _ratio(nlls: Sequence[float], counts: Sequence[int], unit: str) -> float:
    if len(nlls) != len(counts):
        raise ValueError(f"there are {len(nlls)} negative log-likelihoods and {len(counts)} numbers of {unit}")
    if sum(counts) < 1 or min(counts) < 0:
        raise ValueError(f"the numbers of {unit} must be 0 or more with a sum above 0")
    return float(sum(nlls) / sum(counts))


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
