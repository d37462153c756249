"""Metrics that compare texts with references: BLEU and ROUGE by their standard implementations.

BLEU is sacreBLEU (Post 2018, arXiv 1804.08771); each number has a signature that says how it was
computed. ROUGE is Google's rouge_score (Lin 2004). It reads only a-z and 0-9, so it is for English.
ROUGE-Lsum is left out: it needs newlines between sentences, but T5's tokenizer removes them, so
ROUGE-Lsum would equal ROUGE-L.
"""

import importlib.metadata

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from elf_jax.core.errors import UserError
from elf_jax.evaluation.metrics import bootstrap

ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
ROUGE_L = {"rougeL": ROUGE_TYPES["rougeL"]}


def bleu(texts, references):
    """Corpus BLEU, 0 to 100, in the two settings that papers use.

    Args:
      texts: list of N strings. references: list of N strings, one for each.

    Returns:
      Dict of bleu (sacreBLEU's standard: cased) with its `interval`, bleu_lowercase (lower-cased,
      effective order: the setting of the reference implementation, 1.2 to 1.4 higher), and their
      signatures, bleu_signature and bleu_lowercase_signature.

    Raises:
      UserError: the numbers of texts and references differ, or are 0.
    """
    _check(texts, references)
    settings = {"bleu": {}, "bleu_lowercase": {"lowercase": True, "effective_order": True}}
    numbers = {}
    for name, arguments in settings.items():
        metric = sacrebleu.BLEU(**arguments)
        numbers[name] = metric.corpus_score(list(texts), [list(references)]).score
        numbers[f"{name}_signature"] = str(metric.get_signature())
    drawn = bootstrap.resampled(_matches(texts, references), _bleu_of)
    return numbers | bootstrap.interval("bleu", drawn)


def _matches(texts, references):
    """[N, 10] integers, what BLEU adds up of each text: n-grams that match, for n from 1 to 4, all
    n-grams, and the lengths of text and reference.
    """
    metric = sacrebleu.BLEU(effective_order=True)  # which changes the score of a text, not these
    scores = (
        metric.sentence_score(text, [reference])
        for text, reference in zip(texts, references, strict=True)
    )
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scores])


def _bleu_of(sums):
    """BLEU of a sum of `_matches`."""
    *both, length, real = (int(number) for number in sums)
    return sacrebleu.BLEU.compute_bleu(both[:4], both[4:], length, real, smooth_method="exp").score


def rouge(texts, references, types=ROUGE_TYPES):
    """ROUGE-1, ROUGE-2 and ROUGE-L: F1 with stemming, 0 to 100, mean over the texts.

    Args:
      texts: list of N strings. references: list of N strings, one for each.
      types: {name in rouge_score: our name} of those that are wanted.

    Returns:
      Dict of rouge1, rouge2, rouge_l (those of `types`), the `interval` of rouge_l, and
      rouge_signature.

    Raises:
      UserError: the numbers of texts and references differ, or are 0.
    """
    _check(texts, references)
    scores = _rouge_of_each(texts, references, types)
    numbers = {name: float(np.mean(each)) for name, each in scores.items()}
    numbers |= bootstrap.interval("rouge_l", _resampled_mean(scores["rouge_l"]))
    version = importlib.metadata.version("rouge_score")
    return {**numbers, "rouge_signature": f"rouge_score:{version}|f1|stem:yes|mean"}


def _rouge_of_each(texts, references, types):
    """{our name: [N], F1 of each text times 100}."""
    scorer = rouge_scorer.RougeScorer(list(types), use_stemmer=True)
    found = [scorer.score(*pair) for pair in zip(references, texts, strict=True)]
    return {
        ours: np.array([100 * scores[name].fmeasure for scores in found])
        for name, ours in types.items()
    }


def _resampled_mean(scores):
    return bootstrap.resampled(scores[:, None], lambda sums: sums[0] / len(scores))


def resampled(texts, references, names):
    """The scores of pairs that are drawn anew, see `bootstrap.resampled`.

    Args:
      texts, references: as for `bleu`. names: "bleu", "rouge_l" or both.

    Returns:
      {name: [RESAMPLES]}.
    """
    found = {}
    if "bleu" in names:
        found["bleu"] = bootstrap.resampled(_matches(texts, references), _bleu_of)
    if "rouge_l" in names:
        scores = _rouge_of_each(texts, references, ROUGE_L)
        found["rouge_l"] = _resampled_mean(scores["rouge_l"])
    return found


def _check(texts, references):
    if len(texts) != len(references) or not len(texts):
        raise UserError(
            f"{len(texts)} texts but {len(references)} references: give one reference for each "
            "text, and at least one"
        )
