"""The metrics against numbers of the published implementation (eval.npz), and where they differ."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from elf_jax.core import sharding
from elf_jax.evaluation.metrics.perplexity import perplexity, scored_tokens
from elf_jax.evaluation.metrics.text import unigram_entropy
from elf_jax.training.validation import sum_over_held_out


@pytest.fixture(scope="module")
def published(golden):
    return golden("rivals/eval")


def counted_as_published(tokens, eos):
    """[N, L - 1] bool: all but EOS, and the first EOS of a row. Text after an EOS counts."""
    is_eos = tokens == eos
    is_first = is_eos & (np.cumsum(is_eos, axis=1) == 1)
    return (~is_eos | is_first)[:, 1:]


def cross_entropies(tokens, logits):
    """[N, L - 1] float64, of every token but the first, nats."""
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)[:, :-1]
    return -np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]


def test_gen_ppl_is_of_all_tokens_together(published):
    tokens, eos = published["tokens"], int(published["eos_id"])
    nll = cross_entropies(tokens, published["logits"])
    counted = counted_as_published(tokens, eos)
    sums, counts = (nll * counted).sum(axis=1), counted.sum(axis=1)
    assert perplexity(sums, counts) == pytest.approx(float(published["gen_ppl"]), rel=1e-6)
    of_each = [perplexity([one], [count]) for one, count in zip(sums, counts, strict=True)]
    assert np.mean(of_each) != pytest.approx(float(published["gen_ppl"]), rel=0.01)


def test_which_tokens_count(published):
    """Ours end at the first EOS. So rows with text after an EOS count otherwise, on purpose: a
    sample is one text. The other rows count the same.
    """
    tokens, eos = published["tokens"], int(published["eos_id"])
    ours = [max(len(scored_tokens(row, eos, len(row))) - 1, 0) for row in tokens]
    theirs = counted_as_published(tokens, eos).sum(axis=1).tolist()
    ends = [np.flatnonzero(row == eos) for row in tokens]
    assert [at.tolist() for at in ends] == [[7, 8, 9, 10, 11], [0, 5, 9], [4, 8], []]
    assert ours == [7, 0, 4, 11] and theirs == [7, 9, 10, 11]


def test_entropy_is_a_mean_over_samples(published):
    assert unigram_entropy(published["tokens"]) == pytest.approx(float(published["entropy"]), 1e-6)


class TwoBatches:
    """Six rows in two batches, whose fields are the number of the batch."""

    def __len__(self):
        return 6

    def batches(self, size):
        assert size == 3
        return ((index, np.ones(3, bool)) for index in range(2))


def test_held_out_losses_are_means_over_valid_tokens(published):
    nll, valid = published["val/nll_per_token"], published["val/valid_tokens"]
    method = SimpleNamespace(metrics=lambda loss, sums, positions: {"nll": loss, **sums})

    def sums(fields, real, index):
        assert fields == index
        loss, positions = (nll[index] * valid[index]).sum(), valid[index].sum()
        return np.float64(loss), {}, np.float64(positions)

    mesh = sharding.make_mesh(ConfigDict({"data": 1, "fsdp": 1, "tensor": 1}), jax.devices()[:1])
    found = sum_over_held_out(method, sums, TwoBatches(), 3, 2, mesh)["validation_nll"]
    assert found == pytest.approx(float(published["val/nll"]), rel=1e-6)
    assert math.exp(found) == pytest.approx(float(published["val/ppl"]), rel=1e-6)
    assert found / math.log(2) == pytest.approx(float(published["val/bpd"]), rel=1e-6)
