"""The last line of a program."""

import pytest
from tqdm import tqdm

from elf_jax.core import console
from elf_jax.core.errors import UserError


def test_an_error_begins_a_line_after_a_progress_bar(capsys):
    bar = tqdm(total=20)
    with pytest.raises(SystemExit) as ended, console.errors_as_one_line():
        raise UserError("no file\nat 'x'")
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("\nerror: no file at 'x'\n")
    assert bar.disable  # closed: it prints nothing after the message


def test_errors_of_the_disk_and_bugs(capsys, tmp_path):
    with pytest.raises(SystemExit), console.errors_as_one_line():
        (tmp_path / "none").read_text()
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/none cannot be used (No such")
    for bug in (KeyError("x"), BrokenPipeError("a connection")):
        with pytest.raises(type(bug)), console.errors_as_one_line():
            raise bug
    assert not capsys.readouterr().err
