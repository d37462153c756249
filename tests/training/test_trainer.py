"""The loop: resuming bit for bit, stopping, what it refuses, and what it leaves in the workdir."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.checkpoints.weights import starting_point
from elf_jax.core import config, rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch
from elf_jax.data.tokenizer import vocab_size
from elf_jax.generation.generate import generate, load_trained
from elf_jax.methods.elf.build import build_model
from elf_jax.training import trainer
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.step import StepSettings, make_train_step
from tests.tiny import tiny_config, write_book, write_pairs


def assert_same(one, two):
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def trained_workdir(tmp_path_factory):
    """A workdir with six finished steps; tests that change it copy it first."""
    workdir = tmp_path_factory.mktemp("trained")
    trainer.train(tiny_config(), workdir)
    return workdir


@pytest.fixture
def workdir_copy(trained_workdir, tmp_path):
    return shutil.copytree(trained_workdir, tmp_path / "copy")


def test_stopping_and_resuming_changes_nothing(trained_workdir, tmp_path):
    config = tiny_config()
    half = trainer.train(config, tmp_path, until=3)
    assert int(half.step) == 3
    resumed = trainer.train(config, tmp_path)
    straight = trainer.prepare(config, trained_workdir, announce=False)
    assert int(resumed.step) == 6
    assert_same(resumed, straight.state)
    # The data goes on where it was, too: both have the same next batch.
    again = trainer.prepare(config, tmp_path, announce=False)
    assert_same(next(again.iterator), next(straight.iterator))
    logs = [
        [json.loads(line) for line in (workdir / trainer.METRICS).read_text().splitlines()]
        for workdir in (tmp_path, trained_workdir)
    ]
    steps = [[record["step"] for record in log] for log in logs]
    assert steps == [[2, 3, 4, 6]] * 2
    assert logs[0][-1]["validation_loss"] == logs[1][-1]["validation_loss"]


def test_workdir_holds_everything(trained_workdir):
    names = {path.name for path in trained_workdir.iterdir()}
    expected = {"config.json", "dataset.json", "metrics.jsonl", "loss.png", "tokenizer"}
    assert expected | {"tensorboard", "checkpoints"} <= names
    assert config.load(trained_workdir).to_dict() == tiny_config().to_dict()
    assert (trained_workdir / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_left_alone(workdir_copy):
    before = (workdir_copy / trainer.METRICS).read_bytes()
    state = trainer.train(tiny_config(), workdir_copy)
    assert int(state.step) == 6
    assert (workdir_copy / trainer.METRICS).read_bytes() == before


def test_another_config_is_refused_by_name(workdir_copy):
    files = {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()}
    other = tiny_config(**{"model.depth": 2, "optimizer.learning_rate": 0.5})
    with pytest.raises(UserError, match="model.depth .1 there, 2 now.*optimizer.learning_rate"):
        trainer.train(other, workdir_copy)
    assert {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()} == files


def test_checkpoints_without_their_config_are_refused(workdir_copy):
    (workdir_copy / config.FILE).unlink()
    files = {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="has checkpoints and no config.json"):
        trainer.train(tiny_config(**{"optimizer.learning_rate": 0.5}), workdir_copy)
    assert {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()} == files


def test_changed_data_is_refused(tmp_path):
    book = write_book(tmp_path / "book.txt")
    config = tiny_config(
        **{"data.kind": "text", "data.path": str(book), "data.validation_fraction": 0.3}
    )
    trainer.train(config, tmp_path / "run", until=1)
    write_book(book, seed=1)
    with pytest.raises(UserError, match="data has changed"):
        trainer.train(config, tmp_path / "run")


def test_bad_data_leaves_an_empty_workdir(tmp_path):
    config = tiny_config(**{"data.kind": "text", "data.path": str(tmp_path / "no.txt")})
    with pytest.raises(UserError, match="no file matches"):
        trainer.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"train.batch_size": 15, "mesh.data": 2, "mesh.fsdp": 4}, "not divisible by 8 devices"),
        ({"train.batch_size": 16, "train.accumulate": 3}, "3 micro-batches: use a multiple of 24"),
        ({"mesh.data": 9}, "9 x 1 x 1 but there are 8 devices"),
        ({"mesh.data": -1, "mesh.fsdp": 3}, "-1 x 3 x 1 but there are 8 devices"),
        ({"train.duration.epochs": 1.0}, "set one of steps, epochs, examples"),
        ({"train.duration.steps": 0}, "train.duration is 0"),
        ({"optimizer.name": "sgd"}, "use one of muon, adamw"),
        ({"optimizer.schedule": "step"}, "use one of constant, linear, cosine"),
        ({"model.heads": 5}, "width of a head"),
        ({"model.dtype": "float8"}, "use auto, float32 or bfloat16"),
        ({"data.kind": "jsonI"}, "did you mean 'jsonl'"),
        ({"sample.sampler": "heun"}, "use one of ode, sde"),
    ],
)
def test_settings_that_cannot_be(keys, message, tmp_path):
    devices = {} if any(key.startswith("mesh") for key in keys) else {"mesh.data": -1}
    with pytest.raises(UserError, match=message) as error:
        trainer.train(tiny_config(**{**devices, **keys}), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(workdir_copy, monkeypatch):
    config = tiny_config()
    shutil.rmtree(workdir_copy / "checkpoints" / "6")  # goes on from step 3
    prepare = trainer.prepare

    def poisoned(*args):
        run = prepare(*args)
        step = run.train_step

        def train_step(state, *rest):
            with jax.transfer_guard("allow"):
                if int(state.step) == 3:
                    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
                    state = state.replace(params=bad)
            return step(state, *rest)

        run.train_step = train_step
        return run

    monkeypatch.setattr(trainer, "prepare", poisoned)
    with pytest.raises(UserError, match="not finite at step 4; the last good checkpoint is kept"):
        trainer.train(config, workdir_copy)
    monkeypatch.undo()
    assert int(prepare(config, workdir_copy, False).state.step) == 3


def test_the_time_limit_ends_the_training(tmp_path):
    config = tiny_config(**{"train.max_minutes": 1e-6})
    assert int(trainer.train(config, tmp_path).step) == 2  # the first step that is looked at
    assert int(trainer.train(config, tmp_path).step) == 2  # and it stays ended


def test_a_damaged_checkpoint_is_named(workdir_copy):
    for path in (workdir_copy / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="checkpoints/6 is damaged.*the one before"):
        trainer.train(tiny_config(), workdir_copy)
    with pytest.raises(UserError, match="checkpoints/6 is damaged"):
        load_trained(workdir_copy)
    # The remedy works.
    shutil.rmtree(workdir_copy / "checkpoints" / "6")
    assert int(trainer.train(tiny_config(), workdir_copy).step) == 6


def test_sampling_needs_a_checkpoint(tmp_path, workdir_copy):
    with pytest.raises(UserError, match="no trained model.*--config"):
        load_trained(tmp_path)
    shutil.rmtree(workdir_copy / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint in"):
        load_trained(workdir_copy)


def test_samples_depend_on_the_seed_and_not_on_the_batch(trained_workdir):
    trained = load_trained(trained_workdir)
    five = generate(trained, 5, seed=1)
    trained.config.sample.batch_size = 2
    for one, two in zip(five, generate(trained, 5, seed=1), strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(list(a) != list(b) for a, b in zip(five, generate(trained, 5, seed=2), strict=True))


def test_training_that_starts_from_a_checkpoint_goes_on_by_itself(trained_workdir, tmp_path):
    state = trainer.train(tiny_config(seed=1), tmp_path, 1, trained_workdir)
    assert int(state.step) == 1
    start = load_trained(trained_workdir).params["blocks"]["mlp"]["in"]["kernel"]
    distance = np.abs(state.ema["blocks"]["mlp"]["in"]["kernel"] - start)
    assert 0 < np.max(distance) < 0.05
    # With a checkpoint of its own it goes on from that, whether it is told again or not.
    assert starting_point(tmp_path, None) is None
    assert starting_point(tmp_path, trained_workdir) is None


def test_weights_are_ema_or_live(trained_workdir):
    config = config.load(trained_workdir)
    ema = load_trained(trained_workdir, config)
    config.sample.weights = "live"
    live = load_trained(trained_workdir, config)
    run = trainer.prepare(tiny_config(), trained_workdir, announce=False)
    assert_same(ema.params, run.state.ema)
    assert_same(live.params, run.state.params)
    assert np.any(ema.params["x_out"]["kernel"] != live.params["x_out"]["kernel"])


def step_on_mesh(mesh, groups, accumulate, rows=16, steps=2):
    """The state after two steps on made-up rows with the deal of `groups` parts times
    micro-batches.
    """
    config = tiny_config(**{"data.length": 6, "optimizer.clip": 1e9})
    model = build_model(config, 32, mesh)
    schedule = make_schedule(config.optimizer, rows, 0, 10)
    optimizer = make_optimizer(config.optimizer, schedule, jnp.float32, mesh)
    state, shardings = trainer.init_state(config, model, optimizer, mesh)
    step = StepSettings(groups, accumulate, True, 0.9, 0.0, config.objective)
    step = make_train_step(model.predictor, model.encoder, optimizer, schedule, step)
    step = jax.jit(step, out_shardings=(shardings, None))
    tokens = jax.random.randint(jax.random.key(0), (rows, 6), 0, 32)
    is_cond = jnp.zeros((rows, 6), bool)
    batch = sharding.put_rows(Batch(tokens, is_cond, ~is_cond), mesh)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, model.encoder.params, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def mesh_of(data, fsdp=1, tensor=1):
    devices = jax.devices()[: data * fsdp * tensor]
    return sharding.make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}, devices)


def assert_close(one, two, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(two[0].params), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(one[1], two[1], rtol=tolerance)


@pytest.fixture(scope="module")
def one_device():
    return step_on_mesh(mesh_of(1), groups=8, accumulate=1)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
def test_eight_devices_equal_one(shape, one_device):
    assert_close(step_on_mesh(mesh_of(*shape), groups=8, accumulate=1), one_device)


def test_a_tensor_axis_changes_nothing(one_device):
    """Eight parts of rows, two for each pair of devices, against the same parts on one device."""
    assert_close(step_on_mesh(mesh_of(2, 2, 2), groups=8, accumulate=1), one_device)


def test_micro_batches_change_nothing(one_device):
    assert_close(step_on_mesh(mesh_of(1), groups=2, accumulate=4), one_device)


def test_sharded_state_is_split(tmp_path):
    del tmp_path
    config = tiny_config(**{"mesh.data": 1, "mesh.fsdp": 8})
    mesh = sharding.make_mesh(config.mesh)
    model = build_model(config, 32, mesh)
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state, _ = trainer.init_state(config, model, optimizer, mesh)
    for tree in (state.params, state.ema):
        kernel = tree["blocks"]["attn"]["qkv"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8
    split = [leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.is_fully_replicated]
    assert len(split) > 8


def test_resuming_on_another_mesh(trained_workdir, tmp_path):
    """The checkpoint of one device goes on over eight, with rows split over them."""
    shutil.copytree(trained_workdir, tmp_path / "run")
    config = tiny_config(**{"mesh.data": -1})
    config.save(tmp_path / "run", config)
    run = trainer.prepare(config, tmp_path / "run", announce=False)
    assert int(run.state.step) == 6
    assert run.state.params["x_out"]["kernel"].sharding.mesh.size == 8


def test_pairs_train_and_sample(tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    config = tiny_config(
        **{
            "data.kind": "jsonl",
            "data.path": str(pairs),
            "data.field": "target",
            "data.source_field": "source",
            "data.source_length": 7,
            "data.length": 14,
            "data.validation_fraction": 0.2,
            "objective.condition_dropout": 0.1,
            "sample.cfg_scale": 2.0,
            "evaluate.after_training": True,
        }
    )
    trainer.train(config, tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"exact_match", "entropy", "validation_loss", "provenance"} <= numbers.keys()
    assert numbers["provenance"]["cfg_scale"] == 2.0
    assert vocab_size(load_trained(tmp_path / "run").tokenizer) <= 300


def test_streams_are_named(tmp_path):
    del tmp_path
    key = jax.random.key(0)
    assert not np.array_equal(
        jax.random.key_data(rng.stream(key, "init")), jax.random.key_data(rng.stream(key, "train"))
    )
