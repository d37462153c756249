"""Weights of all origins: recognising them, refusing those that do not fit, starting from them."""

import json

import jax
import numpy as np
import pytest

from elf_jax.checkpoints.origins import find_origin, starting_point, workdir_origin
from elf_jax.checkpoints.trained import load_trained
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import sharding
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CHECKPOINTS, START
from elf_jax.training import trainer
from elf_jax.training.state import TrainState
from tests.conftest import GOLDEN
from tests.tiny import pairs_config, save_random_weights, save_words, write_pairs

MSGPACK = GOLDEN / "reference_checkpoint.msgpack"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return save_words(tmp_path_factory.mktemp("words"), 64)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def published_config(pairs, words, **keys):
    """The config of the published checkpoint in tests/golden, with pairs as data."""
    return pairs_config(
        pairs,
        **{
            "data.length": 16,
            "data.tokenizer": str(words),
            "encoder.width": 32,
            "model.depth": 4,
            "model.width": 48,
            "model.heads": 4,
            **keys,
        },
    )


def assert_same(one, two):
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_published_checkpoint_loads(pairs, words, golden_params):
    origin = find_origin(MSGPACK)
    assert origin.kind == "published" and origin.home is None
    live = load_trained(origin, published_config(pairs, words, **{"sample.weights": "live"}))
    assert live.step == 123 and live.progress == {"train_seconds": None}
    assert_same(live.params, golden_params)
    ema = load_trained(origin, published_config(pairs, words))
    assert_same(ema.params, jax.tree.map(lambda leaf: leaf / 2, golden_params))


def test_a_published_checkpoint_needs_a_config_and_a_tokenizer(pairs, words):
    with pytest.raises(UserError, match="holds no config: give its config with --config"):
        load_trained(find_origin(MSGPACK))
    config = published_config(pairs, words, **{"data.tokenizer": "auto"})
    with pytest.raises(UserError, match="set config.data.tokenizer"):
        load_trained(find_origin(MSGPACK), config)


@pytest.mark.parametrize(
    "keys, expected",
    [
        (
            {"model.depth": 2},
            "parameter blocks/norm1/scale is (4, 48) there and (2, 48) by the config: "
            "set config.model.depth=4",
        ),
        ({"model.width": 96}, "x_out/kernel is (48, 32) there and (96, 32) by the config"),
        ({"model.width": 96}, "set config.model.width=48"),
        ({"model.heads": 2}, "set config.model.heads=4"),
        ({"model.bottleneck": 4}, "set config.model.bottleneck=8"),
        ({"model.time_tokens": 1}, "set config.model.time_tokens=4"),
        ({"model.guidance_tokens": 1}, "set config.model.guidance_tokens=4"),
        ({"model.mode_tokens": 1}, "set config.model.mode_tokens=4"),
        ({"encoder.width": 16}, "set config.encoder.width=32"),
    ],
)
def test_shapes_that_do_not_fit(keys, expected, pairs, words):
    with pytest.raises(UserError) as error:
        load_trained(find_origin(MSGPACK), published_config(pairs, words, **keys))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_vocabulary_that_does_not_fit(pairs, tmp_path):
    words = save_words(tmp_path / "words", 60)
    with pytest.raises(UserError, match=r"unembed/kernel is \(32, 64\) there .*has 64 tokens"):
        load_trained(find_origin(MSGPACK), published_config(pairs, words))


def test_a_workdir_that_does_not_fit(pairs_workdir):
    config = pairs_config("unread", **{"model.depth": 3})
    with pytest.raises(UserError, match="set config.model.depth=1"):
        load_trained(workdir_origin(pairs_workdir), config)
    config = pairs_config("unread", **{"encoder.std": 0.5})
    with pytest.raises(UserError, match="set config.encoder.std=1.0"):
        load_trained(workdir_origin(pairs_workdir), config)
    with pytest.raises(UserError, match="config.sample.weights is 'best': use one of ema, live"):
        load_trained(workdir_origin(pairs_workdir), pairs_config("", **{"sample.weights": "best"}))


def test_weights_with_and_without_the_time_as_input(pairs, tmp_path):
    keys = {"method": "mdlm", "sample.sampler": "ancestral"}
    config = pairs_config(pairs, **keys, **{"mdlm.time_conditioning": True})
    workdir = workdir_origin(save_random_weights(config, tmp_path / "timed"))
    with pytest.raises(UserError, match="set config.mdlm.time_conditioning=True"):
        load_trained(workdir, pairs_config(pairs, **keys))


@pytest.fixture
def quick_start(monkeypatch):
    """Builds a training without compiling the initialisation of the parameters, which the weights
    of the checkpoint replace.
    """

    def zeros(config, method, optimizer, mesh):
        shapes = params_shapes(method, config.data.length)
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        state = TrainState(np.int32(0), params, params, {})
        return state, sharding.of_tree(state, mesh)

    monkeypatch.setattr(trainer, "new_state", zeros)

    def build(config, workdir, checkpoint=None):
        training = trainer.build_training(config, workdir, checkpoint)
        training.run.checkpoints.close()
        return training

    return build


def test_training_starts_as_published(quick_start, pairs, words, golden_params, tmp_path):
    state = quick_start(published_config(pairs, words), tmp_path, MSGPACK).run.state
    half = jax.tree.map(lambda leaf: leaf / 2, golden_params)
    assert_same(state.params, half)
    assert_same(state.ema, half)
    assert int(state.step) == 0
    assert json.loads((tmp_path / START).read_text()) == {
        "checkpoint": str(MSGPACK),
        "kind": "published",
        "weights": "ema",
        "step": 123,
    }


def test_training_starts_from_a_workdir_with_its_tokenizer(quick_start, pairs_workdir, tmp_path):
    """With other pairs and another seed, vocabulary and embedding are those of the weights."""
    other = tmp_path / "other.jsonl"
    lines = [json.dumps({"source": f"{i} + {i}", "target": f"{2 * i}"}) for i in range(40)]
    other.write_text("\n".join(lines))
    config = pairs_config(other, seed=7)
    training = quick_start(config, tmp_path / "run", pairs_workdir)
    trained = load_trained(pairs_workdir)
    assert_same(training.run.state.params, trained.params)
    assert training.dataset.tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    assert_same(training.frozen, trained.frozen)
    # No checkpoint is saved yet, so the training starts from the same weights again, also without
    # the argument `checkpoint`.
    assert_same(quick_start(config, tmp_path / "run").run.state.params, trained.params)
    with pytest.raises(UserError, match="was started from .*, not from .*msgpack"):
        starting_point(tmp_path / "run", MSGPACK)
    with pytest.raises(UserError, match="was started from scratch"):
        starting_point(pairs_workdir, MSGPACK)


def test_a_start_that_does_not_fit_leaves_no_workdir(pairs, words, tmp_path):
    config = published_config(pairs, words, **{"model.depth": 2})
    with pytest.raises(UserError, match="set config.model.depth=4"):
        trainer.build_training(config, tmp_path / "run", MSGPACK)
    assert not (tmp_path / "run").exists()


def test_origins_are_recognised(pairs_workdir, tmp_path):
    assert find_origin(pairs_workdir).kind == "workdir"
    assert find_origin(GOLDEN / "reference_checkpoint").path.name == "checkpoint_123"
    with pytest.raises(UserError, match="no checkpoint in"):
        find_origin(tmp_path)
    with pytest.raises(UserError, match="is inside a workdir: give the workdir"):
        find_origin(pairs_workdir / CHECKPOINTS / "5")
