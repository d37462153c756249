"""The aligned embedding: IBM Model 1 finds translations, and sources get their vectors."""

import numpy as np
import pytest

from elf_jax.core import checks
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import EMBEDDING
from elf_jax.data.packing import pack_rows
from elf_jax.latents import alignment
from elf_jax.latents.build import build_encoder, describe_encoder, save_encoder
from tests.latents.test_encoder import settings
from tests.tiny import tiny_config

EOS, WORDS, V = 1, 20, 44
ALIGNED = settings(kind="aligned", width=8)


@pytest.fixture(scope="module")
def rows():
    """Word w of the one language is word w + WORDS of the other. The order is free, so only the
    counts tell what belongs together.
    """
    generator = np.random.default_rng(0)
    sources = [3 + generator.choice(WORDS, 5, replace=False) for _ in range(400)]
    targets = [generator.permutation(source) + WORDS for source in sources]
    return pack_rows(targets, sources, 12, 6, EOS, EOS)[0]


def test_translations_are_found(rows):
    table = alignment.translations(rows, V).toarray()
    words = 3 + np.arange(WORDS)
    assert (table[words, words + WORDS] > 0.9).all() and table[EOS, EOS] > 0.9
    np.testing.assert_allclose(table[[EOS, *words]].sum(axis=1), 1, atol=1e-9)
    assert not table[3 + WORDS :].any()  # in no source


def test_one_step_by_hand(monkeypatch):
    """Two pairs, a b -> x y and a -> x, and one step of expectation maximisation."""
    monkeypatch.setattr(alignment, "ITERATIONS", 1)
    a, b, x, y = 2, 3, 4, 5
    rows = pack_rows([[x, y], [x]], [[a, b], [a]], 6, 3, EOS, EOS)[0]
    table = alignment.translations(rows, 6).toarray()
    # Each token of the first target belongs to each of three source tokens by a third, each of the
    # second to each of two by a half.
    counts = {x: 1 / 3 + 1 / 2, y: 1 / 3, EOS: 1 / 3 + 1 / 2}
    for target, count in counts.items():
        np.testing.assert_allclose(table[a, target], count / sum(counts.values()))
        np.testing.assert_allclose(table[b, target], 1 / 3)


def test_large_corpora_are_counted_in_part(rows, monkeypatch):
    monkeypatch.setattr(alignment, "MAX_LINKS", 36 * 100)  # 6 x 6 tokens in 100 rows
    assert len(alignment._links(rows.subset(alignment._rows_that_fit(rows)))[0]) == 36 * 100
    table = alignment.translations(rows, V).toarray()
    assert (table[3 + np.arange(WORDS), 3 + WORDS + np.arange(WORDS)] > 0.7).all()


def test_a_source_token_is_encoded_as_its_translation(rows, tmp_path):
    encoder, params = build_encoder(ALIGNED, V, rows=rows)
    fields = rows.take(slice(0, 50))
    kept = np.zeros(50, bool)
    latents = np.asarray(encoder.encode(params, *fields.values(), kept))
    is_source = fields["is_cond"] & (fields["tokens"] != EOS)
    translated = np.asarray(params["table"])[fields["tokens"] + WORDS * is_source]
    length = np.linalg.norm(latents, axis=-1) * np.linalg.norm(translated, axis=-1)
    cosine = (latents * translated).sum(axis=-1) / length
    assert cosine.min() > 0.9
    own = np.linalg.norm(np.asarray(params["table"])[fields["tokens"]], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=-1), own, rtol=1e-5)
    dropped = np.asarray(encoder.encode(params, *fields.values(), ~kept))
    assert not dropped[fields["is_cond"]].any()
    np.testing.assert_array_equal(dropped[~fields["is_cond"]], latents[~fields["is_cond"]])

    save_encoder(encoder, params, tmp_path)
    _, again = build_encoder(ALIGNED, V, directory=tmp_path)
    assert again.keys() == {"table", "sources"}
    for name, table in params.items():
        np.testing.assert_array_equal(again[name], table)
    with pytest.raises(UserError, match="is an embedding of shape"):
        build_encoder(ALIGNED, V + 1, directory=tmp_path)
    (tmp_path / "one").mkdir()
    one = {"table": params["table"]}
    save_encoder(encoder, one, tmp_path / "one")
    with pytest.raises(UserError, match=f"{EMBEDDING} is damaged .*sources"):
        build_encoder(ALIGNED, V, directory=tmp_path / "one")


def test_a_description_has_the_shapes(rows):
    config = tiny_config(**{"encoder.kind": "aligned", "data.vocab_size": V})
    _, encoder, shapes = describe_encoder(config)
    _, params = build_encoder(config.encoder, V, rows=rows)
    assert encoder.kind == "aligned"
    described = {name: (one.shape, one.dtype) for name, one in shapes.items()}
    assert described == {name: (one.shape, one.dtype) for name, one in params.items()}


def test_given_targets_cannot_be_aligned():
    """A given token of the target is no token of a source, but the encoder could not tell."""
    values = {
        "encoder.kind": "aligned",
        "data.source_field": "source",
        "data.source_length": 3,
        "data.given.slack": 1,
    }
    checks.check(tiny_config(**values))
    with pytest.raises(UserError, match="would get the vectors of source tokens"):
        checks.check(tiny_config(**values, **{"data.given.prefix": 0.5}))


def test_text_without_sources_cannot_be_aligned():
    with pytest.raises(UserError, match="no sources to align: set config.encoder.kind=cooccurr"):
        checks.check(tiny_config(**{"encoder.kind": "aligned"}))
