"""Mean and standard deviation of an encoder's output: measured, kept and used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core.errors import UserError
from elf_jax.core.workdir import STATISTICS
from elf_jax.latents.build import build_encoder, kept_statistics, save_encoder
from elf_jax.latents.statistics import measure
from tests.conftest import GOLDEN
from tests.latents.test_encoder import pair_rows, settings, t5_encoder


def test_measured_latents_have_mean_0_and_deviation_1(tmp_path):
    rows, made = pair_rows(), settings(kind="t5", path=str(GOLDEN / "t5_tiny"), std=0.0)
    encoder, params = build_encoder(made, 60, rows=rows)
    fields = rows.take(np.arange(len(rows)))
    drop = np.zeros(len(rows), bool)
    latents = jax.jit(encoder.encode)(params, **fields, drop=drop)
    latents = np.asarray(latents)[fields["is_valid"]]
    assert abs(latents.mean()) < 1e-4 and abs(latents.std() - 1) < 1e-4
    # Saved statistics are used; the rows are not measured again.
    save_encoder(encoder, params, tmp_path)
    assert kept_statistics(made, tmp_path) == (encoder.mean, encoder.std)
    for other in (None, pair_rows(seed=1)):
        again, _ = build_encoder(made, 60, directory=tmp_path, rows=other)
        assert (again.mean, again.std) == (encoder.mean, encoder.std)
    assert build_encoder(made, 60, rows=pair_rows(seed=1))[0].std != encoder.std
    # Statistics that are already in a directory are not changed.
    save_encoder(dataclasses.replace(encoder, mean=5.0), params, tmp_path)
    assert kept_statistics(made, tmp_path) == (encoder.mean, encoder.std)
    (tmp_path / STATISTICS).write_text("{}")
    with pytest.raises(UserError, match="encoder_stats.json is damaged"):
        build_encoder(made, 60, directory=tmp_path, rows=rows)
    with pytest.raises(UserError, match="encoder_stats.json is missing"):
        build_encoder(made, 60, directory=tmp_path / "other")


def test_a_part_of_the_rows_is_measured():
    args = *t5_encoder(), pair_rows()
    whole, part = (measure(*args, positions) for positions in (10**6, 17 * 12))
    assert whole != part and abs(whole[1] / part[1] - 1) < 0.1


def test_only_a_t5_is_measured(tmp_path):
    made = settings(std=0.0)
    encoder, params = build_encoder(made, 10)
    save_encoder(encoder, params, tmp_path)
    assert (encoder.mean, encoder.std) == (0.0, 1.0) and not (tmp_path / STATISTICS).exists()
    assert kept_statistics(made, tmp_path) == (0.0, 1.0)


def test_an_output_that_is_the_same_everywhere_is_refused():
    encoder, params = t5_encoder()
    flat = dataclasses.replace(encoder, raw=lambda *args: jnp.zeros((*args[1].shape, 32)))
    with pytest.raises(UserError, match="cannot be normalised"):
        measure(flat, params, pair_rows())
