"""ELF as a `Method`: a frozen dataclass without arrays, compiled once for all traced settings."""

import dataclasses
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.checkpoints.trained import TrainedModel
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import sharding
from elf_jax.core.types import Batch
from elf_jax.data.packing import pack_rows
from elf_jax.generation.generate import jit_sampler, scales
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.method import ELFMethod
from elf_jax.methods.elf.writer import Writer
from elf_jax.methods.method import Method
from elf_jax.methods.registry import METHODS, build_method, describe_method
from tests.conftest import GOLDEN
from tests.methods.tracing import traced_samplers
from tests.tiny import tiny_config

V = 32  # tokens


@pytest.fixture(scope="module")
def built():
    """(config, method, frozen)"""
    config = tiny_config(**{"data.vocab_size": V})
    return config, *build_method(config, V, sharding.make_mesh(config.mesh))


def parts(value):
    """A value, and everything in its fields, keys, elements and closures."""
    yield value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif hasattr(value, "items"):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, tuple | list | set | frozenset):
        inner = list(value)
    elif inspect.isfunction(value):
        inner = [cell.cell_contents for cell in value.__closure__ or ()]
    else:
        inner = []
    for one in inner:
        yield from parts(one)


def arrays(value):
    return [one for one in parts(value) if isinstance(one, jax.Array | np.ndarray)]


@pytest.mark.parametrize("kind", ["gaussian", "t5"])
def test_a_frozen_dataclass_without_arrays(built, kind):
    config, method, _ = built
    if kind == "t5":
        config = tiny_config(**{"encoder.kind": "t5", "encoder.path": "google-t5/t5-small"})
        method, _ = describe_method(config, sharding.make_mesh(config.mesh))
    assert dataclasses.is_dataclass(method) and arrays(method) == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.groups = 2
    # The search can find arrays in fields and in closures.
    table = np.zeros(2)
    encoder = dataclasses.replace(method.encoder, raw=lambda params, tokens, groups: table)
    assert arrays(dataclasses.replace(method, encoder=encoder))
    assert arrays(dataclasses.replace(method, law={"t_eps": jnp.zeros(2)}))


def test_it_has_every_member_of_the_protocol(built):
    for name in Method.__annotations__:
        assert hasattr(built[1], name), name
    functions = [name for name, value in vars(Method).items() if inspect.isfunction(value)]
    functions = [name for name in functions if not name.startswith("_")]
    assert {"loss", "sampler", "effective"} <= set(functions)
    for name in functions:
        ours, theirs = (inspect.signature(getattr(one, name)) for one in (ELFMethod, Method))
        assert list(ours.parameters) == list(theirs.parameters), name
    for module in map(pkgutil.resolve_name, METHODS.values()):
        for name in ("build", "describe", "kept_meaning", "resolve_paths"):
            assert callable(getattr(module, name))


def test_what_it_says_of_its_settings(built):
    config, method, _ = built
    assert set(method.settings) <= set(config.sample)
    assert set(method.traced) <= set(method.settings)
    assert set(method.scales) <= set(method.settings)
    assert set(config.sweep) - {"num_samples", "seeds", "temperature"} <= set(method.settings)
    # Settings that need a new compilation come first, so that a sweep compiles little.
    fixed = [name for name in method.settings if name not in method.traced]
    assert list(method.settings)[: len(fixed)] == fixed


def settings_of(**values):
    """A section `sample` with these values."""
    values = {"sampler": "sde", "gamma": 1.0, "cfg_scale": 2.0, "steps": 2, **values}
    return tiny_config(**{f"sample.{name}": value for name, value in values.items()}).sample


@pytest.mark.parametrize("kind", flow.TIME_GRIDS)
def test_without_noise_only_the_grid_may_be_drawn(kind, built):
    _, method, _ = built
    one, two = (flow.time_grid(kind, 4, key=jax.random.key(seed)) for seed in (0, 1))
    settings = {"time_grid": kind, "noise_temperature": 0.0}
    assert method.draws(settings_of(**settings)) == (one != two).any()
    assert method.draws(settings_of(time_grid=kind))


@pytest.mark.parametrize(
    "same", [{"gamma": 0.5}, {"guidance_scale": 2.0}, {"cfg_scale": 3.0}, {"seed": 9}]
)
def test_settings_that_share_a_compilation(same, built):
    _, method, _ = built
    assert method.compiled_for(settings_of(**same)) == method.compiled_for(settings_of())


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 3},
        {"time_grid": "uniform"},
        {"sampler": "ode"},
        {"cfg_scale": 1.0},
        {"token_temperature": 0.5},
        {"gamma_schedule": "linear"},
    ],
)
def test_settings_that_are_compiled_anew(other, built):
    _, method, _ = built
    assert method.compiled_for(settings_of(**other)) != method.compiled_for(settings_of())


def test_settings_that_make_no_difference(built):
    _, method, _ = built
    one, two = (method.effective(settings_of(gamma=gamma)) for gamma in (1.0, 2.0))
    assert one != two and one["gamma"] == 1.0
    # A constant gamma is not named, so that records of earlier versions are found.
    assert one.keys() == set(method.settings) - {
        "gamma_schedule",
        "noise_temperature",
        "token_temperature",
    }
    cold = method.effective(settings_of(noise_temperature=0.5))
    assert cold == one | {"noise_temperature": 0.5}
    sure = method.effective(settings_of(token_temperature=0.5))
    assert sure == one | {"token_temperature": 0.5}
    linear = method.effective(settings_of(gamma_schedule="linear"))
    assert linear == one | {"gamma_schedule": "linear"}
    one, two = (method.effective(settings_of(sampler="ode", gamma=g)) for g in (1.0, 2.0))
    assert one == method.effective(settings_of(sampler="ode", gamma_schedule="linear"))
    assert one == two and one["gamma"] == 0.0


def test_other_traced_values_compile_nothing_and_change_the_samples(built):
    config, method, frozen = built
    config = config.copy_and_resolve_references()
    config.sample = settings_of()
    length, draw = config.data.length, np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32),
        params_shapes(method, length),
    )
    trained = TrainedModel(
        config, None, method, frozen, params, {}, 0, sharding.make_mesh(config.mesh)
    )
    tokens = jnp.tile(jnp.arange(length) % V, (16, 1))
    is_cond = jnp.tile(jnp.arange(length) < 4, (16, 1))
    given = Batch(tokens, is_cond, tokens >= 0)
    with traced_samplers() as traced:
        run = jit_sampler(trained)

        def sampled(**values):
            how = scales(method, settings_of(**values))
            ids = np.arange(16, dtype=np.int32)
            return np.asarray(run(params, frozen, ids, given, jax.random.key(0), how))

        first = sampled()
        np.testing.assert_array_equal(sampled(), first)
        others = {"gamma": 9.0}, {"guidance_scale": 1.0}, {"cfg_scale": 60.0}
        for other in (*others, {"noise_temperature": 0.1}):
            assert np.any(sampled(**other) != first), other
    assert len(traced) == 1 and set(scales(method, config.sample)) == set(method.traced)


def test_a_padded_source_is_the_same_condition_in_training_and_sampling():
    """A T5 does not attend to the padding of a source, in neither."""
    sources, targets = [[5, 6, 7, 8], [9]], [[10, 11], [12, 13]]
    rows, _ = pack_rows(targets, sources, 10, 6, 1, 1, pad_source=True)
    batch = Batch(**rows.take(slice(None)))
    keys = {"encoder.kind": "t5", "encoder.path": str(GOLDEN / "t5_tiny"), "encoder.std": 1.0}
    pairs = {"data.source_field": "source", "data.source_length": 6, "data.pad_source": True}
    config = tiny_config(**keys, **pairs)
    method, frozen = build_method(config, V, sharding.make_mesh(config.mesh))
    assert method.first == 6
    fields = batch.tokens, batch.is_cond, batch.is_valid, np.zeros(2, bool)
    x = np.asarray(method.encoder.encode(frozen["encoder"], *fields))
    writer = Writer(method.predictor, method.encoder, method.law, config.sample)
    sampled = writer.condition(frozen["encoder"], batch).latents
    np.testing.assert_allclose(sampled, np.where(batch.is_cond[..., None], x, 0), atol=1e-6)
