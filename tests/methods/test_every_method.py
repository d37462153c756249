"""What holds for all methods: sizes, devices, given positions, resuming, exporting, compiling."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs import owt
from elf_jax import commands
from elf_jax.checkpoints.origins import find_origin
from elf_jax.checkpoints.trained import load_trained
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import checks, sharding
from elf_jax.core import config as config_module
from elf_jax.core.allowed import SAMPLERS
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, counted_positions
from elf_jax.generation.generate import generate, jit_sampler, scales
from elf_jax.hardware.compile_report import lower_sample, lower_train
from elf_jax.methods.method import Context, Method
from elf_jax.methods.registry import METHODS, build_method, describe_method
from elf_jax.training import trainer
from tests.tiny import pairs_config, save_random_weights, tiny_config, write_pairs

pytestmark = pytest.mark.usefixtures("share_programs")

ALL = sorted(METHODS)
BLOCKS = "elf in blocks"
EVERY = [*ALL, BLOCKS]
SIZES = {"cdcd.embedding_width": 8, "cdcd.bins": 10, "tokens.condition_dropout": 0.5}
V = 20


def samplers_of(name):
    return SAMPLERS["elf" if name == BLOCKS else name]


def settings(name, **keys):
    own = {"model.block_length": 2, "method": "elf"} if name == BLOCKS else {"method": name}
    return {**own, "sample.sampler": samplers_of(name)[0], **SIZES, **keys}


def mesh_of(count):
    return sharding.make_mesh(tiny_config(**{"mesh.data": count}).mesh, jax.devices()[:count])


def random_params(method, length):
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), jnp.float32),
        params_shapes(method, length),
    )


def some_given(rows=8, length=8):
    """A `Batch` of random rows. Even ones are pairs; the lengths of source and target differ. In
    odd ones tokens are given anywhere, and one that is not is padding of a gap.
    """
    draw = np.random.default_rng(1)
    place, source = np.arange(length), draw.integers(1, 4, (rows, 1))
    end = source + draw.integers(2, 5, (rows, 1))
    tokens = draw.integers(0, V, (rows, length)).astype(np.int32)
    is_pair = np.arange(rows)[:, None] % 2 == 0
    is_cond = np.where(is_pair, place < source, draw.random((rows, length)) < 0.5) & (place < end)
    is_filler = ~is_pair & ~is_cond & (place == 1)
    return Batch(tokens, is_cond, (place < end) & ~is_filler, is_filler)


@pytest.mark.parametrize("name", EVERY)
def test_it_has_every_member_of_the_protocol(name):
    method, _ = build_method(tiny_config(**settings(name)), V, mesh_of(1))
    assert dataclasses.is_dataclass(method) and method.name == settings(name)["method"]
    for member in Method.__annotations__:
        assert hasattr(method, member), member
    functions = [n for n, value in vars(Method).items() if inspect.isfunction(value)]
    for member in (n for n in functions if not n.startswith("_")):
        ours, theirs = (inspect.signature(getattr(one, member)) for one in (type(method), Method))
        assert list(ours.parameters) == list(theirs.parameters), member
    config = tiny_config()
    assert set(method.traced) <= set(method.settings) <= set(config.sample)
    assert set(method.scales) <= set(method.settings)
    fixed = [n for n in method.settings if n not in method.traced]
    assert list(method.settings)[: len(fixed)] == fixed
    assert method.evaluations(config.sample, 8) >= 1


@pytest.mark.parametrize("name", ALL)
def test_the_published_size(name):
    """Parameters outside embeddings and heads are those of ELF-B, within 2%."""

    def size(variant):
        config = owt.get_config(variant)
        method, _ = describe_method(config, mesh_of(1))
        flat = traverse_util.flatten_dict(params_shapes(method, config.data.length), sep="/")
        inside = [path.startswith(("blocks/", "time_", "guidance_", "mode_")) for path in flat]
        return sum(s.size for s, keep in zip(flat.values(), inside, strict=True) if keep)

    assert size(name) == pytest.approx(size("elf"), rel=0.02)


@pytest.mark.parametrize("name", EVERY)
def test_eight_devices_equal_one(name):
    """The loss, all its parts and the gradient; with given positions, some of them dropped."""

    def found(devices):
        mesh = mesh_of(devices)
        config = tiny_config(**settings(name, **{"objective.condition_dropout": 0.5}))
        method, frozen = build_method(config, V, mesh)
        batch = sharding.share_rows(some_given(16), mesh)
        params = random_params(method, 8)
        context = Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)

        def loss(params):
            counted = counted_positions(batch, False)
            return method.loss(params, frozen, batch, counted, jnp.arange(16), context)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    one, eight = (jax.tree.leaves(found(devices)) for devices in (1, 8))
    for a, b in zip(one, eight, strict=True):
        scale = float(np.max(np.abs(a))) + 1e-6
        np.testing.assert_allclose(np.asarray(b) / scale, np.asarray(a) / scale, atol=2e-4)


CASES = [(name, sampler) for name in EVERY for sampler in samplers_of(name)]


@pytest.mark.parametrize("name, sampler", CASES)
def test_given_positions_stay_and_samples_depend_on_their_id_alone(name, sampler):
    keys = {"sample.sampler": sampler, "sample.steps": 3, "sample.cfg_scale": 1.5}
    config = tiny_config(**{**settings(name), **keys})
    mesh = mesh_of(1)
    method, frozen = build_method(config, V, mesh, eos_id=1)
    params, given = random_params(method, 8), some_given()
    run = jax.jit(method.sampler(config.sample, 8))

    def samples(rows, key=0):
        part = jax.tree.map(lambda array: jnp.asarray(array)[rows], given)
        values = scales(method, config.sample)
        return np.asarray(run(params, frozen, jnp.asarray(rows), part, jax.random.key(key), values))

    every = samples(np.arange(8))
    assert every.dtype == np.int32 and (0 <= every).all() and (every < V).all()
    assert (every[given.is_cond] == given.tokens[given.is_cond]).all()
    np.testing.assert_array_equal(samples(np.array([6, 3, 1, 2, 0, 5, 7, 4]))[2], every[1])
    assert method.draws(config.sample) == (sampler not in ("greedy", "beam"))
    config.sample.update({"temperature": 0.0, "noise_temperature": 0.0})
    is_random = sampler in ("ancestral", "greedy_tail") or name in ("cdcd", "flm")
    assert method.draws(config.sample) == is_random
    if not is_random:
        np.testing.assert_array_equal(samples(np.arange(8), key=1), samples(np.arange(8)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.mark.parametrize(
    "name", ["elf", BLOCKS, "ar", "cdcd", "duo"]
)  # those with a state of their own
def test_resuming_is_the_same_to_the_last_bit(name, source, tmp_path):
    def train(workdir, *stops):
        keys = settings(name, **{"train.batch_size": 8, "optimizer.name": "adamw"})
        config = pairs_config(source, **keys)
        for stop in stops:
            training, _ = trainer.train(config, tmp_path / workdir, until=stop)
            training.run.checkpoints.close()
        return training.run.state

    whole, parts = train("whole", 4), train("parts", 3, 4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(whole.step) == 4


@pytest.mark.parametrize("name", EVERY)
def test_exported_and_loaded_it_gives_the_same_samples(name, source, tmp_path):
    config = pairs_config(source, **settings(name))
    workdir = save_random_weights(config, tmp_path / name)
    exported = commands.export(workdir, output=tmp_path / "export")
    made = []
    for home in (workdir, exported):
        trained = load_trained(find_origin(home))
        made.append(generate(trained, 4, seed=1, run=jit_sampler(trained)))
    for a, b in zip(*made, strict=True):
        np.testing.assert_array_equal(a, b)
    other = "mdlm" if name in ("elf", BLOCKS) else "elf"
    with pytest.raises(UserError, match="was trained with method .*set config.method="):
        wrong = pairs_config(source, **settings(other))
        load_trained(workdir, wrong)


@pytest.mark.parametrize("name", EVERY)
def test_both_programs_lower_on_a_mesh(name, source):
    """What `--mode=compile` compiles, with rows over two axes and heads split."""
    config = pairs_config(source, **settings(name, **{"data.vocab_size": 32}))
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 2, 2, 2
    config.sample.batch_size = 8
    mesh = sharding.make_mesh(config.mesh)
    for lower in (lower_train, lower_sample):
        assert lower(config, mesh)[0].as_text()


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_of_another_method_is_refused(name):
    wrong = "ancestral" if name in ("elf", "ar", "cdcd", "flm") else "sde"
    config = tiny_config(**{**settings(name), "sample.sampler": wrong})
    with pytest.raises(UserError, match=f"config.sample.sampler is '{wrong}', which {name} does"):
        checks.check(config)


@pytest.mark.parametrize("name", ALL)
def test_every_config_has_every_method(name):
    for file in ("quickstart", "text", "seq2seq", "owt", "wmt14_de_en", "xsum", "base"):
        config = config_module.run_config_file(f"configs/{file}.py:{name}")
        assert config.method == name and config.sample.sampler in SAMPLERS[name]
