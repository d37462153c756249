"""Log-likelihoods and Gen. PPL of texts, with a random scorer; errors for bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError
from elf_jax.core.sharding import make_mesh
from elf_jax.data.examples import Example
from elf_jax.data.tokenizer import train_tokenizer
from elf_jax.evaluation import scorer as scoring
from elf_jax.evaluation.metrics import text as text_metrics
from elf_jax.networks.gpt2 import GPT2, GPT2Config
from elf_jax.pretrained.gpt2 import load_gpt2, save_gpt2

WORDS = "the sea was calm and nobody spoke of what had been seen at dawn in harbour".split()
TEXTS = [
    "the sea was calm",
    "",
    "nobody had been seen",
    " ".join(WORDS * 2),
    "calm what the sea",
    "at dawn in harbour",
]
LENGTH = 16


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random GPT-2 and a tokenizer of words, as a Hugging Face directory."""
    path = tmp_path_factory.mktemp("scorer")
    settings = defaults.get_config().data
    settings.tokenizer = "words"
    tokenizer = train_tokenizer(settings, [Example(word) for word in WORDS])
    tokenizer.save_pretrained(path)
    config = GPT2Config(len(tokenizer), n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
    shapes = jax.eval_shape(GPT2(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda leaf: draw(leaf.shape, np.float32), shapes["params"])
    save_gpt2(path, config, params, tokenizer.eos_token_id)
    return path


def load(directory, **mesh):
    config = defaults.get_config()
    config.scorer.path, config.scorer.score_batch_size = str(directory), 3
    config.mesh.update({"data": 1, **mesh})
    return scoring.load_scorer(config.scorer, make_mesh(config.mesh))


@pytest.fixture(scope="module")
def scorer(directory):
    return load(directory, data=2, fsdp=2)


@pytest.fixture(scope="module")
def expected(scorer, directory):
    """The negative log-likelihood of each text, computed separately and without padding."""
    config, params = load_gpt2(directory)

    @jax.jit
    def likely(row):
        network, variables = GPT2(config), {"params": params}
        hidden = network.apply(variables, row)
        return jax.nn.log_softmax(network.apply(variables, hidden, method=GPT2.logit_head))

    def alone(row):
        table = np.asarray(likely(row[None]))[0]
        return -sum(table[i, token] for i, token in enumerate(row[1:]))

    return np.array([alone(row) if len(row) else 0 for row in scoring.tokenise(scorer, TEXTS)])


def test_scores_are_those_of_each_text_alone(scorer, expected):
    assert scorer.batch_size == 4  # at least one whole row on each of the four devices
    rows = scoring.tokenise(scorer, TEXTS)
    assert [len(row) for row in rows] == [5, 0, 5, LENGTH, 5, 5]
    seen = []
    nll, tokens = scoring.score(scorer, rows, seen.append)
    np.testing.assert_array_equal(tokens, [4, 0, 4, LENGTH - 1, 4, 4])
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    assert seen == [4, 2]
    # Other texts in the batch do not change a score, and another number of texts compiles nothing.
    np.testing.assert_allclose(scoring.score(scorer, rows[3:4])[0], nll[3:4], rtol=1e-6)
    assert scorer.nll._cache_size() == 1


def test_generative_perplexity(scorer, expected):
    numbers = scoring.generative_perplexity(scorer, TEXTS + [" \n"])
    assert numbers["gen_ppl"] == pytest.approx(np.exp(expected.sum() / 31), rel=1e-4)
    counts = {"scored_texts": 5, "scored_tokens": 31, "empty_texts": 2, "cut_texts": 1}
    assert counts.items() <= numbers.items()
    words = [one.split()[:LENGTH] for one in TEXTS]
    numbered = [[hash(word) for word in row] for row in words]
    assert text_metrics.diversity(numbered).items() <= numbers.items()
    assert scoring.generative_perplexity(scorer, [""])["gen_ppl"] is None


def test_a_spelled_out_eos_ends_the_text(scorer):
    whole, cut = scoring.tokenise(scorer, ["the sea", "the sea</s> was calm"])
    np.testing.assert_array_equal(whole, cut)


def test_provenance_names_the_weights(scorer, directory, tmp_path):
    before = scorer.provenance()
    assert before["scorer"] == str(directory) and before["scorer_length"] == LENGTH
    config, params = load_gpt2(directory)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    scorer.tokenizer.save_pretrained(tmp_path)
    save_gpt2(tmp_path, config, other, 1)
    assert load(tmp_path).provenance()["scorer_revision"] != before["scorer_revision"]


def fails(path):
    with pytest.raises(UserError) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_score(scorer, directory, tmp_path, monkeypatch):
    config, params = load_gpt2(directory)
    save_gpt2(tmp_path, config, params, 1)
    assert "no tokenizer" in fails(tmp_path)
    scorer.tokenizer.save_pretrained(tmp_path)
    load(tmp_path)
    smaller = GPT2Config(**{**vars(config), "vocab_size": config.vocab_size - 1})
    params["token_embedding"]["embedding"] = params["token_embedding"]["embedding"][:-1]
    save_gpt2(tmp_path, smaller, params, 1)
    assert f"vocabulary of {config.vocab_size - 1}" in fails(tmp_path)
    assert "config.scorer.path" in fails("/nowhere/at/all")

    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert "local copy" in fails("gpt2-large")
