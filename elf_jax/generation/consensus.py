"""Of several samples of one source, the one that the others agree with most.

    choice = the candidate a with the largest sum of BLEU(a; b) over the other candidates b

This is minimum Bayes risk decoding, with the BLEU of a sentence as gain (Kumar and Byrne 2004,
"Minimum Bayes-Risk Decoding for Statistical Machine Translation"). The candidates themselves stand
for the distribution of the model. Diffusion models of pairs are often reported with it (DiffuSeq,
arXiv 2210.08933).
"""

import numpy as np


def how_many(method, sample):
    """The number of candidates that are made with a section `sample`: one if all would be equal.

    Args:
      method: a `Method`.
    """
    return sample.candidates if method.draws(sample) else 1


def choose(candidates):
    """The index of the candidate that the others agree with most; of equals the first.

    Args:
      candidates: list of integer arrays, token ids. BLEU counts tokens, not words, so it does not
        depend on how a language writes words.
    """
    from sacrebleu.metrics import BLEU  # here, because most programs do without it

    bleu = BLEU(effective_order=True, tokenize="none")
    texts = [" ".join(map(str, candidate.tolist())) for candidate in candidates]
    kept = {}

    def gain(text, other):
        if (text, other) not in kept:
            kept[text, other] = bleu.sentence_score(text, [other]).score
        return kept[text, other]

    gains = [
        sum(gain(text, other) for place, other in enumerate(texts) if place != own)
        for own, text in enumerate(texts)
    ]
    return int(np.argmax(gains))
