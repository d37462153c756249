"""The students of a distillation beside their teacher, and commands in such a workdir."""

import dataclasses
import json

import pytest

from elf_jax import commands
from elf_jax.checkpoints.rounds import rounds_of, teacher_of, write_distillation
from elf_jax.core.errors import UserError
from elf_jax.evaluation import rounds
from tests.tiny import QUICK

pytestmark = pytest.mark.usefixtures("share_programs")
ROOT = __file__.rsplit("/tests/", 1)[0]
KEYS = {
    **QUICK,
    "mesh.data": 1,
    "train.duration.steps": 2,
    "sample.steps": 3,
    "evaluate.num_samples": 8,
    "evaluate.seeds": 2,
}
ROUNDS = {
    "distill.steps": "2,1",
    "distill.substeps": "4",
    "distill.duration.epochs": "0",
    "distill.duration.steps": "2",
    "distill.warmup.epochs": "0",
}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The workdir of a distillation, and that of its teacher."""
    home = tmp_path_factory.mktemp("few_steps")
    config = commands.load_config(f"{ROOT}/configs/quickstart.py", **KEYS)
    commands.train(config, home / "teacher")
    assert commands.distill(home / "fast", str(home / "teacher"), keys=ROUNDS)
    return home / "fast", home / "teacher"


def test_students_are_measured_beside_their_teacher(distilled, capsys, monkeypatch):
    assert rounds.STEPS == (16, 8, 4, 2, 1)
    monkeypatch.setattr(rounds, "STEPS", (4, 1))  # each number of steps is compiled anew
    workdir, teacher = distilled
    result = commands.evaluate(workdir)
    shown = capsys.readouterr().out
    by_role = {one["name"]: one["points"] for one in result["models"]}
    assert [point["steps"] for point in by_role["teacher"]] == [4, 3, 2, 1]
    assert [point["steps"] for point in by_role["student"]] == [4, 2, 1]
    for role, points in by_role.items():
        for point in points:
            assert point["scores"]["distinct"]["seeds"] == 2
            home = workdir / "rounds" / str(min(point["steps"], 2))
            home = home if role == "student" else teacher
            assert point["checkpoint"] == str(home)
    lines = [line.split("|")[1:3] for line in shown.splitlines() if line.startswith("| ")]
    rows = [(role.strip(), steps.strip()) for role, steps in lines[1:]]
    both = [(role, str(n)) for n in (1, 2, 4) for role in ("student", "teacher")]
    assert rows == [*both[:4], ("teacher", "3"), *both[4:], ("real text", "")]
    assert json.loads((workdir / "quickstart.json").read_text())["models"] == result["models"]
    assert (workdir / "few_steps.png").is_file()
    assert not (teacher / "evaluation.jsonl").exists()  # nothing is written there


def test_one_number_of_steps(distilled, capsys):
    workdir, _ = distilled
    result = commands.evaluate(workdir, steps=2, num_samples=4, seed=1, temperature=0.5)
    assert "--temperature changes nothing: elf has no such setting" in capsys.readouterr().err
    assert {one["name"]: [p["steps"] for p in one["points"]] for one in result["models"]} == {
        "teacher": [2],
        "student": [2],
    }
    assert result["models"][0]["points"][0]["seeds"] == [1]


def test_a_student_is_found_by_the_number_of_steps(distilled, capsys):
    workdir, _ = distilled
    for steps, name in (({}, "2"), ({"steps": 1}, "1"), ({"steps": 9}, "2")):
        found = list(commands.samples(workdir, num_samples=2, **steps))
        own = list(commands.samples(workdir / "rounds" / name, num_samples=2, **steps))
        assert found == own
        assert f"the student of {name} steps: " in capsys.readouterr().err
    output = commands.export(workdir, output=workdir / "model", steps=1)
    exported = list(commands.samples(checkpoint=output, num_samples=2))
    assert exported == list(commands.samples(workdir / "rounds" / "1", num_samples=2))
    assert list(commands.samples(checkpoint=workdir, num_samples=2, steps=1)) == exported


def test_what_needs_one_model_says_so(distilled):
    workdir, _ = distilled
    with pytest.raises(UserError, match=r"is a distillation.*: name one in --workdir .*rounds/2"):
        commands.sweep(workdir, steps=[1, 2])
    with pytest.raises(UserError, match=r"is a distillation.*: name one in --workdirs .*rounds/2"):
        commands.compare([workdir])


def test_without_its_teacher_the_students_are_measured_alone(distilled, capsys):
    workdir, teacher = distilled
    moved = teacher.rename(teacher.with_name("moved"))
    try:
        result = commands.evaluate(workdir, steps=1, num_samples=4)
    finally:
        moved.rename(teacher)
    assert [one["name"] for one in result["models"]] == ["student"]
    assert "the students alone, without their teacher: " in capsys.readouterr().out


def test_a_config_sets_how_it_is_measured(distilled):
    workdir, _ = distilled
    keys = {"evaluate.seeds": 1, "evaluate.num_samples": 4, "sample.steps": 7, "sample.gamma": 0.5}
    config = commands.load_config(f"{ROOT}/configs/quickstart.py", **QUICK, **keys)
    result = commands.evaluate(workdir, config, steps=1)
    for model in result["models"]:
        (point,) = model["points"]
        assert point["steps"] == 1 and point["settings"]["gamma"] == 0.5
        assert point["n"] == 4 and point["seeds"] == [0]


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_other_weights_are_refused(distilled, role):
    """Such as those of a teacher that was trained on since."""
    workdir, _ = distilled
    teacher, students = teacher_of(workdir), rounds_of(workdir)
    other = {"fingerprint": "00000000"}
    try:
        if role == "teacher":
            write_distillation(workdir, teacher | other, students)
        else:
            write_distillation(workdir, teacher, [dataclasses.replace(students[-1], **other)])
        with pytest.raises(UserError, match=f"the {role} .* has changed since the distillation"):
            commands.evaluate(workdir, steps=1, num_samples=4)
    finally:
        write_distillation(workdir, teacher, students)


def test_a_finished_round_that_is_gone(distilled):
    workdir, _ = distilled
    moved = (workdir / "rounds" / "1").rename(workdir / "moved")
    try:
        with pytest.raises(
            UserError, match="the round of 1 steps is finished, but .*/rounds/1 has"
        ):
            commands.distill(workdir, keys=ROUNDS)
    finally:
        moved.rename(workdir / "rounds" / "1")
    assert commands.distill(workdir, keys=ROUNDS)
