"""How far models are apart on the same pairs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from elf_jax import commands
from elf_jax.evaluation import same_pairs
from elf_jax.evaluation.metrics.references import bleu, rouge
from tests.evaluation.metrics.test_bootstrap import pairs
from tests.tiny import save_random_weights, tiny_config

REAL = pairs(100)[1]


def best_of(*right, seeds=1):
    """`score_best` of a model whose texts have each word right with one of these probabilities at
    each of its points.
    """

    def texts(share, seed):
        draw = np.random.default_rng(seed)  # the same words are hard for all models
        return [
            " ".join(word if draw.random() < share else "x" for word in words.split())
            for words in REAL
        ]

    def score(share, seed):
        made = texts(share, seed)
        numbers = {"bleu": bleu(made, REAL)["bleu"], "rouge_l": rouge(made, REAL)["rouge_l"]}
        return numbers, {}, SimpleNamespace(texts=made)

    metrics = SimpleNamespace(pairs=SimpleNamespace(references=REAL))
    run = SimpleNamespace(score=score, metrics=metrics)
    found = [[score(share, seed)[0] for seed in range(seeds)] for share in right]
    points = [
        {"scores": {name: {"mean": np.mean([each[name] for each in one])} for name in one[0]}}
        for one in found
    ]
    return same_pairs.score_best(run, points, right, range(seeds))


def test_a_model_is_behind_the_best_one():
    found = same_pairs.differences({"weak": best_of(0.6), "good": best_of(0.4, 0.8, 0.7)})
    assert found["best"] == "good" and list(found["behind"]) == ["weak"]
    for name, one in found["behind"]["weak"].items():
        means = (best_of(share)[name]["mean"] for share in (0.8, 0.6))
        assert one["difference"] == pytest.approx(next(means) - next(means))
        assert 0 < one["difference_low"] < one["difference"] < one["difference_high"]


def test_the_same_pairs_make_a_difference_surer():
    """Than its interval would be if the pairs of one model were others."""
    good, weak = best_of(0.8)["bleu"]["resampled"], best_of(0.7)["bleu"]["resampled"]
    assert np.std(good - weak) < 0.8 * np.hypot(np.std(good), np.std(weak))


def test_a_model_is_not_behind_itself():
    found = same_pairs.differences({"one": best_of(0.7), "two": best_of(0.7)})
    assert found["behind"]["two"]["bleu"] == dict.fromkeys(
        ("difference", "difference_low", "difference_high"), 0.0
    )
    assert "| two   |" in same_pairs.text(found) and "0.00 (0.00 to 0.00)" in same_pairs.text(found)


def test_seeds_are_averaged():
    one, two = best_of(0.7), best_of(0.7, seeds=3)
    assert one["bleu"]["mean"] != two["bleu"]["mean"]
    assert np.mean(two["bleu"]["resampled"]) == pytest.approx(two["bleu"]["mean"], rel=0.03)


def test_without_pairs_or_with_one_model_there_is_nothing():
    assert same_pairs.differences({"one": best_of(0.7)}) is None
    assert same_pairs.differences({"one": None, "two": None}) is None


def test_a_comparison_of_models_of_pairs(tmp_path):
    keys = {"data.source_field": "text", "data.source_length": 8, "data.length": 16}
    for method, sampler in (("ar", "greedy"), ("mdlm", "confidence")):
        config = tiny_config(**{**keys, "method": method, "sample.sampler": sampler})
        save_random_weights(config, tmp_path / method)
    workdirs = [str(tmp_path / name) for name in ("ar", "mdlm")]
    settings = {"steps": [1, 2], "num_samples": 4}
    result = commands.compare(workdirs, output=str(tmp_path / "out"), **settings)
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["same_pairs"] == json.loads(json.dumps(result["same_pairs"]))
    assert {found["same_pairs"]["best"], *found["same_pairs"]["behind"]} == {"ar", "mdlm"}
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "## On the same pairs" in text and "BLEU behind" in text and "ROUGE-L behind" in text
