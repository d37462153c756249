"""The rounds of a distilled workdir: which are finished, and which one samples in so many steps."""

import json

import pytest

from elf_jax.checkpoints.rounds import (
    Round,
    check_no_distillation,
    is_distilled,
    round_for,
    round_workdir,
    rounds_of,
    teacher_of,
    write_distillation,
)
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import DISTILLATION, SUMS

TEACHER = {
    "checkpoint": "/runs/owt",
    "kind": "workdir",
    "weights": "ema",
    "step": 5,
    "fingerprint": "0123abcd",
}


def rounds(workdir, *steps):
    return [Round(n, 64 // n, round_workdir(workdir, n), 100, "89ab4567") for n in steps]


def test_what_is_written_is_read_again(tmp_path):
    assert not is_distilled(tmp_path)
    assert teacher_of(tmp_path) is None and rounds_of(tmp_path) == ()
    write_distillation(tmp_path, TEACHER, [])
    assert is_distilled(tmp_path) and rounds_of(tmp_path) == ()
    write_distillation(tmp_path, TEACHER, rounds(tmp_path, 16, 8))
    assert teacher_of(tmp_path) == TEACHER
    assert rounds_of(tmp_path) == tuple(rounds(tmp_path, 16, 8))
    assert rounds_of(tmp_path)[0].workdir == tmp_path / "rounds" / "16"


@pytest.mark.parametrize(
    "steps, nearest",
    [(1, 1), (2, 2), (3, 4), (4, 4), (5, 4), (6, 8), (11, 8), (12, 16), (16, 16), (64, 16)],
)
def test_the_nearest_round(steps, nearest, tmp_path):
    """Of two that are equally near, the one with more steps."""
    write_distillation(tmp_path, TEACHER, rounds(tmp_path, 16, 8, 4, 2, 1))
    assert round_for(tmp_path, steps).steps == nearest


def test_only_finished_rounds_are_chosen(tmp_path):
    write_distillation(tmp_path, TEACHER, rounds(tmp_path, 16, 8))
    round_workdir(tmp_path, 4).mkdir(parents=True)
    assert round_for(tmp_path, 4).steps == 8
    write_distillation(tmp_path, TEACHER, [])
    with pytest.raises(UserError, match="no round of the distillation .* is finished: go on with"):
        round_for(tmp_path, 4)


def broken(value):
    """Copies of the content of the file, each with one fault."""
    for key in TEACHER:
        yield {**value, "teacher": {**TEACHER, key: None}}
        yield {**value, "teacher": {name: one for name, one in TEACHER.items() if name != key}}
    for key, one in value["rounds"][0].items():
        yield {**value, "rounds": [{**value["rounds"][0], key: [one]}]}
    yield {**value, "rounds": [{**value["rounds"][0], "more": 1}]}
    yield {**value, "rounds": {}}
    yield {**value, "rounds": [3]}
    yield {"teacher": TEACHER}
    yield {"rounds": []}


def test_a_damaged_file_is_one_line(tmp_path):
    write_distillation(tmp_path, TEACHER, rounds(tmp_path, 16))
    path = tmp_path / DISTILLATION
    good = path.read_text()
    path.write_text(good.replace("0123abcd", "0123abce"))
    with pytest.raises(UserError, match="has changed since it was written"):
        rounds_of(tmp_path)
    path.unlink()
    for read in (teacher_of, is_distilled, check_no_distillation):
        with pytest.raises(UserError, match="is missing, which SHA256SUMS names"):
            read(tmp_path)
    (tmp_path / SUMS).unlink()
    for value in broken(json.loads(good)):
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match="is damaged .*restore the file") as error:
            rounds_of(tmp_path)
        assert "\n" not in str(error.value)
