"""A scorer from the corpus itself: it learns, and what it says of held-out text is its Gen. PPL."""

import json
import math

import numpy as np
import pytest

from elf_jax import sharding
from elf_jax.data.dataset import load_dataset
from elf_jax.errors import UserError
from elf_jax.scorer import generative_perplexity, load_scorer
from elf_jax.train_scorer import left_aligned, train_scorer
from tests.tiny import tiny_config

TINY = {
    "mesh__data": 2,
    "train__validation_batches": 1000,
    "scorer__depth": 1,
    "scorer__width": 32,
    "scorer__heads": 2,
    "scorer__steps": 60,
    "scorer__batch_size": 64,
    "scorer__warmup_steps": 5,
    "scorer__learning_rate": 0.01,
}


def config_with(**keys):
    return tiny_config(**{name.replace("__", "."): value for name, value in keys.items()})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("names")
    config = config_with(**TINY)
    return config, workdir, train_scorer(config, workdir)


def test_it_learns_and_scores_as_it_was_validated(trained):
    config, workdir, report = trained
    dataset = load_dataset(config.data, workdir / "tokenizer")
    assert report["validation_nll"] < 0.7 * math.log(len(dataset.tokenizer))
    config.scorer.path = str(workdir / "scorer")
    scorer = load_scorer(config.scorer, sharding.make_mesh(config.mesh))
    assert len(dataset.tokenizer) == len(scorer.tokenizer)
    real = [example.text for example in dataset.validation_examples]
    numbers = generative_perplexity(scorer, real)
    assert numbers["scored_tokens"] == report["validation_tokens"]
    assert numbers["gen_ppl"] == pytest.approx(report["validation_perplexity"], rel=1e-4)
    mixed = [" ".join(reversed(text.split())) for text in real]
    assert generative_perplexity(scorer, mixed)["gen_ppl"] > 2 * numbers["gen_ppl"]
    assert json.loads((workdir / "scorer" / "training.json").read_text()) == report


def test_it_replaces_nothing_and_leaves_nothing_half_done(trained, tmp_path):
    config, workdir, _ = trained
    with pytest.raises(UserError, match="is there already"):
        train_scorer(config, workdir)
    wild = config_with(**TINY, scorer__learning_rate=1e30)
    with pytest.raises(UserError, match="not finite at step"):
        train_scorer(wild, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key, value", [("length", 9), ("length", 1), ("heads", 3), ("steps", 0), ("batch_size", 3)]
)
def test_bad_settings(key, value, tmp_path):
    with pytest.raises(UserError, match=f"config.scorer.*{key}.*{value}"):
        train_scorer(config_with(**{**TINY, f"scorer__{key}": value}), tmp_path)


def test_targets_begin_at_position_zero():
    tokens = np.array([[1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]])
    cond = np.array([2, 0, 0])[:, None] > np.arange(6)
    valid = np.array([5, 6, 2])[:, None] > np.arange(6)
    fields = {"tokens": tokens, "is_cond": cond, "is_valid": valid}
    rows, lengths = left_aligned(fields, 4)
    np.testing.assert_array_equal(lengths, [3, 4, 2])
    found = [list(row[:length]) for row, length in zip(rows, lengths, strict=True)]
    assert found == [[3, 4, 5], [1, 2, 3, 4], [7, 8]]
