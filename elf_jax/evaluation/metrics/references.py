"""Metrics that compare texts with references: BLEU and ROUGE by their standard implementations.

BLEU is sacreBLEU (Post 2018, arXiv 1804.08771); each number has a signature that says how it was
computed. ROUGE is Google's rouge_score (Lin 2004). It reads only a-z and 0-9, so it is for English.
ROUGE-Lsum is left out: it needs newlines between sentences, but T5's tokenizer removes them, so
ROUGE-Lsum would equal ROUGE-L.
"""

import importlib.metadata

import sacrebleu
from rouge_score import rouge_scorer

from elf_jax.core.errors import UserError

ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
ROUGE_L = {"rougeL": ROUGE_TYPES["rougeL"]}


def bleu(texts, references):
    """Corpus BLEU, 0 to 100, in the two settings that papers use.

    Args:
      texts: list of N strings. references: list of N strings, one for each.

    Returns:
      Dict of bleu (sacreBLEU's standard: cased), bleu_lowercase (lower-cased, effective order: the
      setting of the reference implementation, 1.2 to 1.4 higher), and their signatures,
      bleu_signature and bleu_lowercase_signature.

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
    return numbers


def rouge(texts, references, types=ROUGE_TYPES):
    """ROUGE-1, ROUGE-2 and ROUGE-L: F1 with stemming, 0 to 100, mean over the texts.

    Args:
      texts: list of N strings. references: list of N strings, one for each.
      types: {name in rouge_score: our name} of those that are wanted.

    Returns:
      Dict of rouge1, rouge2, rouge_l (those of `types`) and rouge_signature.

    Raises:
      UserError: the numbers of texts and references differ, or are 0.
    """
    _check(texts, references)
    scorer = rouge_scorer.RougeScorer(list(types), use_stemmer=True)
    sums = dict.fromkeys(types, 0.0)
    for text, reference in zip(texts, references, strict=True):
        scores = scorer.score(reference, text)
        for name in sums:
            sums[name] += scores[name].fmeasure
    numbers = {ours: 100 * sums[name] / len(texts) for name, ours in types.items()}
    version = importlib.metadata.version("rouge_score")
    return {**numbers, "rouge_signature": f"rouge_score:{version}|f1|stem:yes|mean"}


def _check(texts, references):
    if len(texts) != len(references) or not len(texts):
        raise UserError(
            f"{len(texts)} texts but {len(references)} references: give one reference for each "
            "text, and at least one"
        )
