"""The encoders that are tables: Gaussian channels and co-occurrence channels."""

import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core.errors import UserError
from elf_jax.core.workdir import EMBEDDING
from elf_jax.data.packing import Rows
from elf_jax.latents.build import build_encoder, save_encoder
from tests.latents.test_encoder import settings


def test_gaussian_latents_are_standard_and_frozen():
    encoder, params = build_encoder(settings(width=64), 500, seed=3)
    tokens = jnp.arange(500)[None]
    ones = tokens >= 0
    args = tokens, ~ones, ones, jnp.zeros(1, bool)
    latents = encoder.encode(params, *args)
    assert latents.shape == (1, 500, 64)
    assert abs(np.mean(latents)) < 0.02 and abs(np.std(latents) - 1) < 0.02
    again, same = build_encoder(settings(width=64), 500, seed=3)
    np.testing.assert_array_equal(latents, again.encode(same, *args))
    shifted, same = build_encoder(settings(width=64, mean=1.0, std=2.0), 500, seed=3)
    np.testing.assert_allclose(shifted.encode(same, *args), (latents - 1) / 2, atol=1e-6)


def test_tokens_of_like_use_lie_together(tmp_path):
    """Tokens of two groups, each after its own marker token, are separated by the embedding."""
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 2, 400)
    word = generator.integers(0, 20, 400)
    tokens = np.stack([3 + kind, 5 + 20 * kind + word, np.ones(400, int)], axis=1).astype(np.int32)
    rows = Rows(tokens, np.zeros(400, np.int32), np.full(400, 3, np.int32))
    made = settings(kind="cooccurrence", width=16)
    encoder, params = build_encoder(made, 45, rows=rows)
    table = np.asarray(params["table"])[:, :12]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosine = table[5:45] @ table[5:45].T
    alike = np.equal.outer(np.arange(40) // 20, np.arange(40) // 20)
    assert cosine[alike & ~np.eye(40, dtype=bool)].mean() > cosine[~alike].mean() + 0.5
    # The embedding is saved in a directory. Without the directory and without rows, it cannot be
    # made.
    save_encoder(encoder, params, tmp_path)
    _, again = build_encoder(made, 45, directory=tmp_path)
    np.testing.assert_array_equal(again["table"], params["table"])
    with pytest.raises(UserError, match="is an embedding of shape"):
        build_encoder(made, 46, directory=tmp_path)
    with pytest.raises(UserError, match="encoder.safetensors is missing"):
        build_encoder(made, 45, directory=tmp_path / "other")
    with pytest.raises(UserError, match="name the workdir"):
        build_encoder(made, 45)
    (tmp_path / EMBEDDING).write_bytes(b"x")
    with pytest.raises(UserError, match="encoder.safetensors is damaged"):
        build_encoder(made, 45, directory=tmp_path)
    with pytest.raises(UserError, match="has no 48 co-occurrence channels"):
        build_encoder(settings(kind="cooccurrence", width=64), 45, rows=rows)
