"""BLEU and ROUGE, on texts small enough to count by hand."""

import pytest
import sacrebleu

from elf_jax.core.errors import UserError
from elf_jax.evaluation.metrics.references import bleu, rouge

TEXTS = ["The cat sat on the mat", "a dog"]
REFERENCES = ["the cat sat on a mat", "A dog barks"]


def test_bleu_by_hand():
    # Matches: 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams; no brevity penalty.
    numbers = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert numbers["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # A text without 4-grams has BLEU 0. With effective order, only its shorter n-grams count.
    short = bleu(["a b c"], ["a b c"])
    assert short["bleu"] == 0 and short["bleu_lowercase"] == pytest.approx(100)


def test_bleu_tells_its_settings():
    numbers = bleu(TEXTS, REFERENCES)
    assert numbers["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    lower = [text.lower() for text in TEXTS], [[text.lower() for text in REFERENCES]]
    assert numbers["bleu_lowercase"] == pytest.approx(sacrebleu.corpus_bleu(*lower).score)
    assert numbers["bleu_lowercase"] > numbers["bleu"] + 1
    assert "case:mixed|eff:no|tok:13a" in numbers["bleu_signature"]
    assert "case:lc|eff:yes|tok:13a" in numbers["bleu_lowercase_signature"]
    assert f"version:{sacrebleu.__version__}" in numbers["bleu_signature"]


def test_rouge_by_hand():
    # After stemming: "the cat sat" and "the cat sit". The second pair matches. The score is the
    # mean over both pairs.
    numbers = rouge(["The cats sat", "yes"], ["the cat sits", "Yes."])
    assert numbers["rouge1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert numbers["rouge2"] == pytest.approx(100 * (1 / 2 + 0) / 2)  # one word has no bigrams
    assert numbers["rouge_l"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    # Precision 1 and recall 1/2 give F1 2/3. The order of words matters only for ROUGE-L.
    assert rouge(["a"], ["a b"])["rouge1"] == pytest.approx(100 * 2 / 3)
    turned = rouge(["one two"], ["two one"])
    assert turned["rouge1"] == pytest.approx(100) and turned["rouge_l"] == pytest.approx(50)
    assert "stem:yes" in turned["rouge_signature"]


@pytest.mark.parametrize("metric", [bleu, rouge])
def test_one_reference_for_each_text(metric):
    with pytest.raises(UserError, match="2 texts but 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(UserError, match="0 texts"):
        metric([], [])
