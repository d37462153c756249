"""The rounds of a distillation: where they start, going on bit for bit, and what is refused."""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest

from elf_jax import commands
from elf_jax.checkpoints.origins import find_origin, starting_point
from elf_jax.checkpoints.rounds import round_for, rounds_of, teacher_of, write_distillation
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CURVE, METRICS, SUMS
from elf_jax.generation.generate import generate
from elf_jax.training import trainer
from elf_jax.training.distill import distill, round_config
from elf_jax.training.samples import read_samples
from tests.command import forked
from tests.conftest import GOLDEN
from tests.tiny import save_random_weights, tiny_config, write_pairs

pytestmark = pytest.mark.usefixtures("share_programs")
KEYS = {
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.01,
    "distill.steps": (4, 2),
    "distill.substeps": 8,
    "distill.duration.epochs": 0.0,
    "distill.duration.steps": 4,
    "distill.warmup.epochs": 0.0,
}
SAMPLED = {"train.samples": 2}


def config(**keys):
    return tiny_config(**{**KEYS, **keys})


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(one, two):
    pairs = zip(leaves(one), leaves(two), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def averaged(workdir):
    return load_trained(workdir).params


def files(workdir):
    """{path: bytes} of everything in a workdir."""
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_random_weights(config(), tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """(workdir of a finished distillation, what its rounds started with, what was printed)."""
    workdir = tmp_path_factory.mktemp("distilled") / "run"
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        starts = watch(patch)
        assert distill(config(**SAMPLED), workdir, find_origin(teacher))
    return workdir, starts, out.getvalue()


def watch(patch):
    """A list to which each round adds its method, its teacher, the weights it starts from, and
    whether its teacher is split over the devices.
    """
    starts, original = [], trainer.assemble

    def assemble(*args):
        is_split = any(not a.is_fully_replicated for a in jax.tree.leaves(args[5]["teacher"]))
        given = jax.tree.map(np.array, (args[5]["teacher"], args[6]))
        starts.append((args[4], *given, is_split))
        return original(*args)

    patch.setattr(trainer, "assemble", assemble)
    return starts


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_each_round_starts_from_the_one_before(teacher, finished):
    workdir, (first, second), out = finished
    starts = first, second
    assert [(one[0].steps, one[0].substeps) for one in starts] == [(4, 2), (2, 4)]
    original = averaged(teacher)
    assert same(first[1], original) and same(first[2], original)
    student = averaged(workdir / "rounds" / "4")
    assert same(second[1], original) and same(second[2], student) and not same(student, original)
    assert teacher_of(workdir)["checkpoint"] == str(teacher)
    assert [(one.steps, one.substeps, one.trained) for one in rounds_of(workdir)] == [
        (4, 2, 4),
        (2, 4, 4),
    ]
    lines = [line for line in out.splitlines() if line.startswith("round of ")]
    assert [line.split(": ")[0] for line in lines] == ["round of 4", "round of 2"]
    # 0.9 to the power of 4
    assert "averaged weights of a round will still hold 66% of those it began with" in out


def test_a_round_is_an_ordinary_workdir(finished):
    workdir = round_for(finished[0], 2).workdir
    kept = read_config(workdir)
    assert kept.to_dict() == round_config(config(**SAMPLED), 2).to_dict()
    assert kept.method == "elf" and kept.sample.steps == 2 and kept.train.duration.steps == 4
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert lines[-1]["distill_loss"] > 0 and lines[-1]["validation_distill_loss"] > 0
    assert (workdir / CURVE).is_file()
    made = read_samples(workdir)  # by the student, in its own number of steps
    assert [(one["step"], one["sample"]) for one in made] == [(4, 0), (4, 1)]
    after = [text for _, text in commands.samples(workdir, num_samples=2, steps=2)]
    assert after == [one["text"] for one in made]
    for name in ("loss curves", "samples of 1 step"):
        assert f"\n{name}: {workdir}/" in finished[2]
    assert generate(load_trained(workdir), 2, seed=0)
    assert commands.evaluate(workdir, num_samples=2)["entropy"] >= 0


def test_going_on_is_the_same_to_the_last_bit(teacher, finished, tmp_path):
    """Interrupted in each round; finished rounds are not touched."""
    origin = find_origin(teacher)
    assert not distill(config(**SAMPLED), tmp_path, origin, until=(4, 3))
    assert not rounds_of(tmp_path) and not (tmp_path / "rounds" / "2").exists()
    assert not distill(config(**SAMPLED), tmp_path, origin, until=(2, 1))
    assert [one.steps for one in rounds_of(tmp_path)] == [4]
    before = files(tmp_path / "rounds" / "4")
    assert distill(config(**SAMPLED), tmp_path, origin)
    for one in rounds_of(finished[0]):
        other = tmp_path / "rounds" / str(one.steps)
        assert same(averaged(one.workdir), averaged(other))
        state = trainer_state(one.workdir), trainer_state(other)
        assert same(*state)
        logs = [(place / METRICS).read_text().splitlines() for place in (one.workdir, other)]
        values = [[{**json.loads(line), "seconds": 0} for line in log] for log in logs]
        assert values[0] == values[1]
        assert read_samples(one.workdir) == read_samples(other)
    fingerprints = [[one.fingerprint for one in rounds_of(w)] for w in (finished[0], tmp_path)]
    assert fingerprints[0] == fingerprints[1]
    assert files(tmp_path / "rounds" / "4") == before
    whole = files(tmp_path)
    assert distill(config(**SAMPLED), tmp_path, origin)
    assert files(tmp_path) == whole


def trainer_state(workdir):
    """The live weights of a round; with the averaged ones they show the whole path."""
    kept = read_config(workdir)
    kept.sample.weights = "live"
    return load_trained(workdir, kept).params


def test_killed_before_a_round_is_noted(teacher, copy):
    """Its last checkpoint is there, and nothing says that it is finished."""
    rounds, weights = rounds_of(copy), averaged(copy / "rounds" / "2")
    write_distillation(copy, teacher_of(copy), rounds[:1])
    assert distill(config(), copy, find_origin(teacher))
    assert rounds_of(copy) == rounds and same(averaged(copy / "rounds" / "2"), weights)


def test_the_student_before_as_the_teacher(teacher, tmp_path, monkeypatch):
    seen = watch(monkeypatch)
    keys = {"distill.teacher": "previous", "distill.duration.steps": 1, "mesh.fsdp": 2}
    assert not distill(config(**keys), tmp_path, find_origin(teacher), until=(2, 0))
    assert [(one[0].substeps, one[3]) for one in seen] == [(2, True), (2, True)]
    assert same(seen[0][1], averaged(teacher))
    assert same(seen[1][1], averaged(tmp_path / "rounds" / "4"))


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"distill.loss": "velocity"}, r"distill.loss \('x' there, 'velocity' now\)"),
        ({"distill.steps": (4, 2, 1)}, "differs in distill.steps"),
        ({"distill.duration.steps": 5}, "differs in distill.duration.steps"),
        ({"optimizer.ema": 0.5}, "differs in optimizer.ema"),
        ({"train.batch_size": 8}, "differs in train.batch_size"),
    ],
)
def test_a_changed_setting_is_refused(keys, message, teacher, finished):
    before = files(finished[0])
    with pytest.raises(UserError, match=f"{message}.*or another --workdir") as error:
        distill(config(**keys), finished[0], find_origin(teacher))
    assert "\n" not in str(error.value) and files(finished[0]) == before
    assert distill(config(**{"train.log_every": 1}), finished[0], find_origin(teacher))


def test_another_teacher_is_refused(teacher, copy, tmp_path):
    other = save_random_weights(config(seed=1), tmp_path / "other")
    with pytest.raises(UserError, match="has the teacher .*, not .*other: name the same --teacher"):
        commands.distill(copy, other)
    with pytest.raises(UserError, match="--teacher is missing: name a trained model"):
        commands.distill(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="has a distillation: name one of its rounds"):
        commands.distill(tmp_path / "new", copy)
    write_distillation(copy, {**teacher_of(copy), "step": 6}, rounds_of(copy)[:1])
    with pytest.raises(UserError, match="has changed since the distillation .* of step 6 then"):
        distill(config(), copy, find_origin(teacher))


def test_a_student_that_was_changed_is_refused(teacher, copy):
    first, _ = rounds_of(copy)
    shutil.rmtree(copy / "rounds" / "2")
    write_distillation(copy, teacher_of(copy), [first])
    shutil.rmtree(first.workdir / "checkpoints" / "4")  # that of step 3 is left
    with pytest.raises(UserError, match="rounds/4 have changed since its round was finished"):
        distill(config(), copy, find_origin(teacher))


def test_other_data_is_refused(teacher, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    keys = {"data.path": str(pairs), "data.field": "target"}
    with pytest.raises(UserError, match="is not that of the teacher .*set config.data.path"):
        distill(config(**keys), tmp_path / "new", find_origin(teacher))


def test_a_training_and_a_distillation_do_not_share_a_workdir(teacher, finished):
    workdir = finished[0]
    with pytest.raises(UserError, match="has a training of its own: use another --workdir"):
        distill(config(), teacher, find_origin(teacher))
    with pytest.raises(UserError, match="has a distillation: go on with --mode=distill"):
        trainer.train(config(), workdir)
    home = workdir / "rounds" / "4"
    with pytest.raises(UserError, match="is a round of a distillation: go on with --mode=distill"):
        trainer.train(read_config(home), home)
    # But a training may start from a round.
    assert starting_point(workdir / "new", str(home)).name == str(home)


def test_from_an_export_into_a_store(teacher, tmp_path, monkeypatch):
    """The teacher is an export, and the workdir is in a store."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    exported = commands.export(teacher, output=tmp_path / "export")
    url = f"file://{tmp_path}/store/run"
    keys = {"distill.duration.steps": "1", "distill.steps": "2"}
    assert commands.distill(url, exported, keys=keys)
    place = tmp_path / "store" / "run"
    assert [one.steps for one in rounds_of(place)] == [2]
    for one in rounds_of(place):
        assert (one.workdir / "checkpoints" / "1").is_dir() and (one.workdir / SUMS).is_file()
        assert len(averaged(one.workdir)) > 1
    assert commands.distill(url, keys=keys)  # all is finished
    with pytest.raises(UserError, match=r"distill.duration.steps \(1 there, 4 now\)"):
        commands.distill(url, keys={"distill.steps": "2"})


def test_a_published_teacher_needs_a_config(tmp_path):
    with pytest.raises(UserError, match="published checkpoint, which holds no config"):
        commands.distill(tmp_path / "new", GOLDEN / "reference_checkpoint")


def test_keys_of_the_command_line(teacher, tmp_path):
    """They need no config file, because the config is that of the teacher."""
    begin = ["--mode=distill", f"--teacher={teacher}"]
    lines = [
        [*begin, "--workdir=run", "--config.distill.steps=2", "--config.distill.substeps", "4",
         "--config.distill.duration.epochs=0.02", "--config.optimizer.ema_warmup=true"],
        [*begin, "--workdir=run", "--config.distill.stepz=4"],
        [*begin, "--workdir=run", "--config.distill.substeps=many"],
        [*begin, "--workdir=run", "--config.distill.loss=z"],
        [*begin, "--workdir=run", "--config.distill.duration.epochs=0.001"],
        [*begin, "--config.distill.loss=x"],
        ["--mode=sample", f"--workdir={teacher}", "--config.distill.steps=2"],
        ["--mode=sample", f"--workdir={teacher}", f"--teacher={teacher}"],
    ]  # fmt: skip
    made, *failed = forked(lines, tmp_path)
    assert made.code == 0, made.err
    kept = read_config(made.cwd / "run" / "rounds" / "2")
    assert kept.distill.steps == (2,) and kept.distill.substeps == 4
    assert kept.optimizer.ema_warmup is True and kept.distill.duration.steps == 0
    assert "round of 2: " in made.out and made.out.count("\n") <= 6
    messages = (
        "unknown config key 'distill.stepz': did you mean 'distill.steps'?",
        "config.distill.substeps must be of type int, not 'many'",
        "config.distill.loss is 'z': ",
        "config.distill.duration is less than one step: make it longer",
        "--workdir is missing",
        "is given without --config: name a config",
        "--teacher is for --mode=distill: leave it out",
    )
    for one, message in zip(failed, messages, strict=True):
        assert one.code == 2 and message in one.err and one.err.count("\n") == 1, one.err
        assert not any(one.cwd.iterdir())
