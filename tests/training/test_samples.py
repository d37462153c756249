"""Samples at every validation: what is written, going on, and that they change nothing."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from elf_jax import commands
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TRAINING_SAMPLES, TRAINING_SAMPLES_TEXT
from elf_jax.data.dataset import load_dataset
from elf_jax.training import loop, samples, trainer
from elf_jax.training.metrics_log import MetricsLog, read_metrics
from tests.methods.tracing import traced_samplers
from tests.tiny import pairs_config, tiny_config, write_pairs
from tests.training.test_loop import events

pytestmark = pytest.mark.usefixtures("share_programs")

# Validations at steps 2, 4 and 6; checkpoints at 3 and 6.
KEYS = {"train.samples": 2, "train.validate_every": 2, "optimizer.learning_rate": 0.02}


def config(**keys):
    return tiny_config(**{**KEYS, **keys})


def files(workdir):
    return [(workdir / name).read_bytes() for name in (TRAINING_SAMPLES, TRAINING_SAMPLES_TEXT)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(the `Training` of a run that was not interrupted, what it printed, how often it compiled the
    sampler).
    """
    with pytest.MonkeyPatch.context() as patch, traced_samplers() as traced:
        printed = []
        patch.setattr("builtins.print", lambda *words, **more: printed.append(" ".join(words)))
        training, _ = trainer.train(config(), tmp_path_factory.mktemp("straight"))
    return training, "\n".join(printed).splitlines(), len(traced)


@pytest.fixture
def copy(straight, tmp_path):
    return shutil.copytree(straight[0].workdir, tmp_path / "copy")


def test_the_same_samples_at_every_validation(straight):
    workdir = straight[0].workdir
    records = samples.read_samples(workdir)
    places = [(one["step"], one["sample"]) for one in records]
    assert places == [(step, number) for step in (2, 4, 6) for number in (0, 1)]
    assert all(one.keys() == {"step", "sample", "text"} for one in records)
    # Those of the last step are what the trained model gives, with its seed and settings.
    after = [text for _, text in commands.samples(workdir, num_samples=2)]
    assert after == [one["text"] for one in records[-2:]] and any(after)
    assert len({one["text"] for one in records}) > 2  # text changes with the steps


def test_the_file_for_reading_has_the_steps_of_a_sample_beneath_each_other(straight):
    workdir = straight[0].workdir
    texts = {(one["sample"], one["step"]): one["text"] for one in samples.read_samples(workdir)}
    expected = "\n".join(
        "\n".join(
            [f"sample {number}"]
            + [f"  step {step}     {texts[number, step]}".rstrip() for step in (2, 4, 6)]
        )
        + "\n"
        for number in (0, 1)
    )
    assert files(workdir)[1].decode() == expected


def test_lines_of_a_text_begin_in_one_column():
    pair = {"source": "a\nb", "reference": "c"}
    records = [
        {"step": step, "sample": 0, **pair, "text": text}
        for step, text in ((5, "one\n\ntwo"), (1000, ""))
    ]
    assert samples._as_text(records) == (
        "sample 0\n"
        "  source     a\n"
        "             b\n"
        "  reference  c\n"
        "  step    5  one\n"
        "\n"
        "             two\n"
        "  step 1000\n"
    )


def test_the_sampler_is_compiled_once(straight):
    assert straight[2] == 1


def test_the_end_names_what_there_is_to_look_at(straight):
    training, printed, _ = straight
    workdir = training.workdir
    (end,) = (n for n, line in enumerate(printed) if line.startswith("trained 6 steps in "))
    assert printed[end + 1] == f"loss curves: {workdir / 'loss.png'}"
    line = f"samples of 3 steps: {workdir / TRAINING_SAMPLES_TEXT} (made in "
    assert printed[end + 2].startswith(line)


def test_they_change_nothing_in_the_training(straight, tmp_path):
    training, _ = trainer.train(config(**{"train.samples": 0}), tmp_path)
    leaves = [jax.tree.leaves(one.run.state) for one in (training, straight[0])]
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    logs = [
        [line | {"seconds": 0} for line in read_metrics(one)]
        for one in (tmp_path, straight[0].workdir)
    ]
    assert logs[0] == logs[1]
    assert not (tmp_path / TRAINING_SAMPLES).exists()


def test_their_time_is_no_training_time(tmp_path, monkeypatch):
    """So a training with a time limit makes as many steps as without samples."""
    training = trainer.build_training(config(**{"train.max_minutes": 5.0}), tmp_path)
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def make_samples(state, step):
        now[0] += 1000
        return {}

    training.run.make_samples = make_samples
    loop.carry_out(training.run)
    assert int(training.run.state.step) == 6
    assert training.run.seconds == 0 and training.run.sampling_seconds == 3000


@pytest.mark.parametrize("until", [4, 5])
def test_an_interrupted_run_has_the_same_samples(straight, tmp_path, until):
    trainer.train(config(), tmp_path, until=until)
    steps = {one["step"] for one in samples.read_samples(tmp_path)}
    assert steps == {step for step in (2, 4) if step <= until}
    trainer.train(config(), tmp_path)
    assert files(tmp_path) == files(straight[0].workdir)


def test_so_has_one_that_was_killed(straight, copy):
    """Checkpoint 3 is the last, and there are samples of later steps."""
    shutil.rmtree(copy / "checkpoints" / "6")
    trainer.train(config(), copy, until=3)
    assert {one["step"] for one in samples.read_samples(copy)} == {2}
    assert b"step 4" not in files(copy)[1]
    trainer.train(config(), copy)
    assert files(copy) == files(straight[0].workdir)


@pytest.mark.parametrize("killed", ["before the log", "between the files"])
def test_so_has_one_that_was_killed_in_the_last_step(straight, copy, killed):
    if killed == "before the log":
        log = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
        (copy / "metrics.jsonl").write_text("".join(log[:-1]))
    else:
        (copy / TRAINING_SAMPLES_TEXT).unlink()
    trainer.train(config(), copy)
    assert files(copy) == files(straight[0].workdir)


def test_tensorboard_shows_them(straight):
    texts = {}
    for record in events(straight[0].workdir):
        event = Event.FromString(record)
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "text":
                number = int(value.tag.split("/")[1])
                texts[event.step, number] = value.tensor.string_val[0].decode()
    records = samples.read_samples(straight[0].workdir)
    assert len(texts) == len(records) == 6
    for one in records:
        shown = texts[one["step"], one["sample"]]
        assert all(line.startswith("    ") for line in shown.splitlines())  # a block of code
        assert shown.split() == one["text"].split()


def test_long_lines_are_wrapped_for_tensorboard():
    text = "* not a list\n\n" + "word " * 50
    shown = samples._as_markdown({"sample": 0, "text": text, "source": "s", "reference": "r"})
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 104 and len(lines) > 8
    assert shown.split() == ["source:", "s", "reference:", "r", *text.split()]


def test_pairs_come_with_source_and_reference(tmp_path):
    keys = {**KEYS, "train.samples": 3, "sample.steps": 2, "train.duration.steps": 2}
    settings = pairs_config(write_pairs(tmp_path / "pairs.jsonl"), **keys)
    trainer.train(settings, tmp_path / "run")
    records = samples.read_samples(tmp_path / "run")
    held_out = load_dataset(settings.data, tmp_path / "run" / "tokenizer").validation_examples
    assert [one["source"] for one in records] == [one.source for one in held_out[:3]]
    assert [one["reference"] for one in records] == [one.text for one in held_out[:3]]
    answered = list(commands.samples(tmp_path / "run", num_samples=3))
    assert answered == [(one["source"], one["text"]) for one in records]
    text = files(tmp_path / "run")[1].decode()
    assert f"sample 0\n  source     {held_out[0].source}\n  reference  {held_out[0].text}" in text


def test_fewer_held_out_pairs_than_samples(tmp_path):
    settings = pairs_config(write_pairs(tmp_path / "pairs.jsonl"), **{"train.samples": 1000})
    run = trainer.build_training(settings, tmp_path / "run").run
    assert 0 < run.make_samples.count == len(run.make_samples.pairs) < 20


def test_none(tmp_path):
    run = trainer.build_training(config(**{"train.samples": 0}), tmp_path).run
    assert run.make_samples is None and samples.written(tmp_path) is None


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"step": 2}', '{"step": 2, "sample": 0}', '{"step": 2, "sample": 0, "text": 3}'],
)
def test_a_damaged_line_is_named(tmp_path, line):
    good = json.dumps({"step": 2, "sample": 0, "text": "a"})
    (tmp_path / TRAINING_SAMPLES).write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match="training_samples.jsonl line 2 is damaged") as error:
        samples.forget_after(tmp_path, 2)
    assert "\n" not in str(error.value)


def test_texts_of_a_log_that_does_not_write(tmp_path, monkeypatch):
    """Only the first of several processes has a board."""
    monkeypatch.setattr(MetricsLog, "_open", lambda self, workdir, step: None)
    MetricsLog(tmp_path, 0).write_texts({"samples/0": "text"}, 1)
    assert not list(tmp_path.iterdir())
