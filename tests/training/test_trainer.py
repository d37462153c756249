"""The loop: resuming bit for bit, stopping, errors, and the files in the workdir."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax import commands
from elf_jax.checkpoints.origins import starting_point
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import rng
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CONFIG, METRICS, SUMS
from elf_jax.data.dataset import load_dataset
from elf_jax.data.tokenizer import vocab_size
from elf_jax.generation.generate import generate
from elf_jax.training import loop, trainer
from elf_jax.training.begin import check_data
from tests.tiny import tiny_config, write_book, write_pairs

pytestmark = pytest.mark.usefixtures("share_programs")


def trained_state(*args, **kwargs):
    """The state after training."""
    return trainer.train(*args, **kwargs)[0].run.state


def assert_same(one, two):
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def trained_workdir(tmp_path_factory):
    """A workdir with six finished steps. Tests that change it copy it first."""
    workdir = tmp_path_factory.mktemp("trained")
    trainer.train(tiny_config(), workdir)
    return workdir


@pytest.fixture
def workdir_copy(trained_workdir, tmp_path):
    return shutil.copytree(trained_workdir, tmp_path / "copy")


def test_stopping_and_resuming_changes_nothing(trained_workdir, tmp_path):
    config = tiny_config()
    half = trained_state(config, tmp_path, until=3)
    assert int(half.step) == 3
    resumed = trained_state(config, tmp_path)
    straight = trainer.build_training(config, trained_workdir).run
    assert int(resumed.step) == 6
    assert_same(resumed, straight.state)
    # The data is also continued: both have the same next batch.
    again = trainer.build_training(config, tmp_path).run
    assert_same(next(again.iterator), next(straight.iterator))
    logs = [
        [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
        for workdir in (tmp_path, trained_workdir)
    ]
    steps = [[record["step"] for record in log] for log in logs]
    assert steps == [[2, 3, 4, 6]] * 2
    assert logs[0][-1]["validation_loss"] == logs[1][-1]["validation_loss"]


def test_workdir_holds_everything(trained_workdir):
    names = {path.name for path in trained_workdir.iterdir()}
    expected = {"config.json", "dataset.json", "metrics.jsonl", "loss.png", "tokenizer"}
    assert expected | {"tensorboard", "checkpoints"} <= names
    assert read_config(trained_workdir).to_dict() == tiny_config().to_dict()
    assert (trained_workdir / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_left_alone(workdir_copy):
    before = (workdir_copy / METRICS).read_bytes()
    state = trained_state(tiny_config(), workdir_copy)
    assert int(state.step) == 6
    assert (workdir_copy / METRICS).read_bytes() == before


def test_another_config_is_refused_by_name(workdir_copy):
    files = {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()}
    other = tiny_config(**{"model.depth": 2, "optimizer.learning_rate": 0.5})
    with pytest.raises(UserError, match="model.depth .1 there, 2 now.*optimizer.learning_rate"):
        trainer.train(other, workdir_copy)
    assert {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()} == files


def test_checkpoints_without_their_config_are_refused(workdir_copy):
    (workdir_copy / CONFIG).unlink()
    files = {path: path.read_bytes() for path in workdir_copy.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="has checkpoints but no config.json"):
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
        ({"model.dtype": "float8"}, "use one of auto, float32, bfloat16"),
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
    shutil.rmtree(workdir_copy / "checkpoints" / "6")  # training resumes from step 3
    carry_out = loop.carry_out

    def poisoned(run, until):
        step = run.train_step

        def train_step(state, batch):
            with jax.transfer_guard("allow"):
                if int(state.step) == 3:
                    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
                    state = state.replace(params=bad)
            return step(state, batch)

        run.train_step = train_step
        return carry_out(run, until)

    monkeypatch.setattr(loop, "carry_out", poisoned)
    with pytest.raises(UserError, match="not finite at step 4; the last good checkpoint is kept"):
        trainer.train(config, workdir_copy)
    monkeypatch.undo()
    assert int(trainer.build_training(config, workdir_copy).run.state.step) == 3


def test_the_time_limit_ends_the_training(tmp_path):
    config = tiny_config(**{"train.max_minutes": 1e-6})
    assert int(trained_state(config, tmp_path).step) == 2  # the time is first checked here
    assert int(trained_state(config, tmp_path).step) == 2  # it is not continued


def test_a_damaged_checkpoint_is_named(workdir_copy):
    for path in (workdir_copy / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="checkpoints/6 is damaged.*to use that of step 3"):
        trainer.train(tiny_config(), workdir_copy)
    with pytest.raises(UserError, match="checkpoints/6 is damaged"):
        load_trained(workdir_copy)
    # The advice in the message works.
    shutil.rmtree(workdir_copy / "checkpoints" / "6")
    assert int(trained_state(tiny_config(), workdir_copy).step) == 6


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
    state = trained_state(tiny_config(seed=1), tmp_path, 1, trained_workdir)
    assert int(state.step) == 1
    start = load_trained(trained_workdir).params["blocks"]["mlp"]["in"]["kernel"]
    distance = np.abs(state.ema["blocks"]["mlp"]["in"]["kernel"] - start)
    assert 0 < np.max(distance) < 0.05
    # The workdir has its own checkpoint now. The training resumes from it, with or without the
    # argument `checkpoint`.
    assert starting_point(tmp_path, None) is None
    assert starting_point(tmp_path, trained_workdir) is None


@pytest.mark.parametrize(
    "keys, share",
    [
        ({}, "53%"),  # 0.9 to the power of 6
        ({"optimizer.ema": 0.9999}, "100%"),
        ({"optimizer.ema_warmup": True}, None),
        ({"train.duration.steps": 22}, None),  # 9.8%
        ({"checkpoint": True}, None),  # the first weights are not random
    ],
)
def test_an_average_that_stays_at_the_first_weights(keys, share, trained_workdir, tmp_path, capsys):
    start = trained_workdir if keys.pop("checkpoint", False) else None
    for checkpoint in (start, None):  # at the beginning, and when the training goes on
        training = trainer.build_training(tiny_config(**keys), tmp_path / "run", checkpoint)
        capsys.readouterr()
        trainer.announce(training)
        lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
        assert len(lines) == (share is not None)
        if share:
            assert f"will still hold {share} of the first, random ones" in lines[0]
            for remedy in ("optimizer.ema=", "optimizer.ema_warmup=True", "--weights=live"):
                assert remedy in lines[0]


def test_a_workdir_keeps_its_law_of_averaging(workdir_copy, capsys):
    """One that was made before there was the key optimizer.ema_warmup had no warm-up."""
    config = json.loads((workdir_copy / CONFIG).read_text())
    del config["optimizer"]["ema_warmup"]
    (workdir_copy / CONFIG).write_text(json.dumps(config))
    (workdir_copy / SUMS).unlink(missing_ok=True)  # nor the checksums of its files
    for _ in range(2):  # the second time, config.json has the key
        asked = tiny_config(**{"optimizer.ema_warmup": True, "train.duration.steps": 7})
        training = trainer.build_training(asked, workdir_copy)
        assert training.config.optimizer.ema_warmup is False and asked.optimizer.ema_warmup
        assert "config.optimizer.ema_warmup stays False here" in capsys.readouterr().err
        assert read_config(workdir_copy).optimizer.ema_warmup is False
    trainer.build_training(tiny_config(**{"train.duration.steps": 8}), workdir_copy)
    assert "stays" not in capsys.readouterr().err


def test_a_workdir_of_version_0_2_goes_on_with_text_in_long_lines(tmp_path, capsys):
    """That version did not cut lines, so the rows of such text were others."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["sea", "dawn", "wind"], 8000)) for _ in range(12)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    keys = {"data.kind": "text", "data.path": f"{tmp_path}/a.txt", "data.validation_fraction": 0.3}
    run = tmp_path / "run"
    trainer.train(tiny_config(**keys, **{"data.longest_block": 0}), run, until=3)
    config = json.loads((run / CONFIG).read_text())
    del config["data"]["longest_block"]
    (run / CONFIG).write_text(json.dumps(config))
    (run / SUMS).unlink()
    assert int(trained_state(tiny_config(**keys), run).step) == 6
    assert "config.data.longest_block stays 0 here" in capsys.readouterr().err
    commands.evaluate(run, num_samples=2)
    with pytest.raises(UserError, match="the data has changed"):  # if it is forced
        config = tiny_config(**keys)
        check_data(run, load_dataset(config.data, run / "tokenizer").summary)


def test_weights_are_ema_or_live(trained_workdir):
    config = read_config(trained_workdir)
    ema = load_trained(trained_workdir, config)
    config.sample.weights = "live"
    live = load_trained(trained_workdir, config)
    run = trainer.build_training(tiny_config(), trained_workdir).run
    assert_same(ema.params, run.state.ema)
    assert_same(live.params, run.state.params)
    assert np.any(ema.params["x_out"]["kernel"] != live.params["x_out"]["kernel"])


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
    commands.train(config, tmp_path / "run")
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
