"""Sampling for lines of source text: the order, the batches, the formats, the command."""

import io
import json
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

import main
from elf_jax import commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.generation.answers import (
    Counts,
    check_takes_sources,
    describe,
    format_answer,
    read_sources,
    translate,
)
from elf_jax.generation.generate import generate_texts
from tests.methods.tracing import traced_samplers
from tests.tiny import tiny_config

LINES = ["abc", "", "fed", "abcdefabcdef", "  ", "c", "da"]


@pytest.fixture(scope="module")
def trained(pairs_workdir):
    return load_trained(pairs_workdir)


def targets(trained, lines, seed=0):
    counts = Counts()
    batches = list(translate(trained, lines, seed, counts))
    return [pair for batch in batches for pair in batch], counts


def test_every_line_has_its_target_at_its_place(trained):
    pairs, counts = targets(trained, LINES)
    assert [source for source, _ in pairs] == LINES
    assert pairs[1][1] == "" and pairs[4][1] == ""
    assert all(target for source, target in pairs if source.strip())
    assert counts == Counts(lines=7, empty=2, cut=1)
    assert describe(counts, 7) == (
        "of 7 sources: 1 cut to config.data.source_length=7 tokens, 2 empty"
    )
    assert describe(Counts(lines=7), 7) == ""


def test_targets_are_those_of_the_same_rows(trained, pairs_workdir):
    dataset = load_dataset(trained.config.data, pairs_workdir / TOKENIZER)
    count = len(dataset.validation)
    expected = generate_texts(trained, count, 3, dataset.validation)
    pairs, _ = targets(trained, [example.source for example in dataset.validation_examples], 3)
    assert [target for _, target in pairs] == expected
    assert len(set(expected)) > 1


def test_one_compilation_and_each_batch_at_once(trained):
    taken = []
    lines = (taken.append(line) or line for line in LINES)
    with traced_samplers() as traced:
        seen = [len(taken) for _ in translate(trained, lines, 0, Counts())]
    assert seen == [2, 4, 6, 7]
    assert len(traced) == 1


def test_no_lines_at_all(trained):
    assert targets(trained, []) == ([], Counts())


def test_an_unconditional_model_takes_no_source():
    with pytest.raises(UserError, match="takes no --source"):
        check_takes_sources(tiny_config())


def test_lines_are_read_as_they_stand(tmp_path):
    file = tmp_path / "in.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo \xc2\x85 three")
    assert list(read_sources(file, "")) == ["one", "", "two \x85 three"]
    file.write_bytes(b"one\n\xff\n")
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        list(read_sources(file, ""))
    with pytest.raises(UserError, match="no file at"):
        list(read_sources(tmp_path / "none.txt", ""))


def test_json_lines_are_read_by_field(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"de": "a\\nb", "en": "c"}\n\n{"de": ""}\n')
    assert list(read_sources(file, "de")) == ["a\nb", "", ""]
    for bad in ("{", "[1]", "3", '{"en": "x"}', '{"de": 3}', '{"de": "\\ud800"}'):
        file.write_text(bad)
        with pytest.raises(UserError, match="line 1 is no JSON object .*field .de. "):
            list(read_sources(file, "de"))


def test_line_breaks_do_not_break_the_order():
    assert format_answer("x", "a\nb\r\nc\u2028d", "text") == "a b c d"
    line = format_answer("ä\n", "a\nb", "jsonl")
    assert "\n" not in line and json.loads(line) == {"source": "ä\n", "target": "a\nb"}


def command(*argv):
    """Runs main with these flags, in this process."""
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)  # `main.parse` sets it
        flags.FLAGS.unparse_flags()
        main.run(main.parse(["main.py", *argv]))


def test_the_command(pairs_workdir, tmp_path, capsys, monkeypatch):
    output = tmp_path / "model"
    command("--mode=export", f"--workdir={pairs_workdir}", f"--output={output}")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(LINES).encode())))
    capsys.readouterr()
    command("--mode=sample", f"--checkpoint={output}", "--source=-")
    printed = capsys.readouterr()
    assert printed.out.count("\n") == len(LINES)
    assert printed.err.startswith("of 7 sources: 1 cut")
    source = tmp_path / "in.txt"
    source.write_text("\n".join(LINES))
    written = tmp_path / "out.jsonl"
    args = ["--mode=sample", f"--workdir={pairs_workdir}", f"--source={source}"]
    command(*args, "--format=jsonl", f"--output={written}", "--num_samples=4")
    records = [json.loads(line) for line in written.read_text().splitlines()]
    assert [record["source"] for record in records] == LINES[:4]
    first = [format_answer("", record["target"], "text") for record in records]
    assert first == printed.out.split("\n")[:4]


def test_nothing_is_left_of_an_output_that_failed(pairs_workdir, tmp_path, capsys):
    source = tmp_path / "in.txt"
    source.write_bytes(b"a\nb\nc\n\xff\n")
    seen = []
    with pytest.raises(UserError, match="line 4"):
        seen.extend(commands.samples(pairs_workdir, source=str(source)))
    assert [line for line, _ in seen] == ["a", "b"]  # the first batch came before the rest was read
    with pytest.raises(SystemExit):
        args = [f"--workdir={pairs_workdir}", f"--source={source}", f"--output={tmp_path}/out"]
        command("--mode=sample", *args)
    assert "line 4 is not UTF-8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
