"""Sampling for lines of source text: the order, the batches, the formats, the command."""

import io
import json
import os
import sys
import threading

import pyarrow
import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import ConfigDict
from pyarrow import parquet

import main
from elf_jax import commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.data.tokenizer import decode
from elf_jax.generation import generate
from elf_jax.generation.answers import (
    Counts,
    check_takes_sources,
    describe,
    format_answer,
    read_sources,
    translate,
)
from elf_jax.generation.generate import generate_texts
from tests.data.helpers import COMPRESS, without_permission
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


def test_the_candidate_that_others_agree_with(trained):
    """What `choose` says is kept. The first candidate is the sample without others."""
    config, made = trained.config, []

    def recorded(candidates):
        made.append(candidates)
        return len(candidates) - 1

    sample = ConfigDict(config.sample.to_dict() | {"candidates": 3})
    with pytest.MonkeyPatch.context() as patch, traced_samplers() as traced:
        patch.setattr(generate, "choose", recorded)
        pairs, _ = targets(trained.with_settings(sample), LINES)
    assert len(traced) == 1
    made = [decode(trained.tokenizer, candidates) for candidates in made[: len(LINES)]]
    alone, _ = targets(trained, LINES)
    written = [place for place, line in enumerate(LINES) if line.strip()]
    assert [made[place][0] for place in written] == [alone[place][1] for place in written]
    assert [made[place][2] for place in written] == [pairs[place][1] for place in written]
    assert any(len(set(made[place])) > 1 for place in written)


def test_equal_candidates_are_not_made(trained, pairs_workdir, capsys):
    """Without noise nothing is drawn. A note says that candidates change nothing."""
    same = {"candidates": 3, "noise_temperature": 0.0}
    sample = ConfigDict(trained.config.sample.to_dict() | same)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "choose", None)  # is not called
        pairs, _ = targets(trained.with_settings(sample), LINES)
    assert pairs == targets(trained.with_settings(sample), LINES, seed=1)[0]
    list(commands.samples(pairs_workdir, source=["abc"], **same))
    assert "note: --candidates changes nothing: nothing is drawn" in capsys.readouterr().err
    for settings in ({"candidates": 2}, {**same, "candidates": 1}):
        list(commands.samples(pairs_workdir, source=["abc"], **settings))
    assert "changes nothing" not in capsys.readouterr().err


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
    with pytest.raises(UserError, match=r"is not UTF-8 at byte 4 \(line 2\)"):
        list(read_sources(file, ""))
    with pytest.raises(UserError, match="no file at"):
        list(read_sources(tmp_path / "none.txt", ""))


def test_json_lines_are_read_by_field(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"de": "a\\nb", "en": "c"}\n\n{"de": ""}\n')
    assert list(read_sources(file, "de")) == ["a\nb", "", ""]
    faults = {
        '{"a": "b"': "is not valid JSON",
        "[1]": "is not a JSON object",
        "3": "is not a JSON object",
        '{"en": "x"}': r"field 'de' is missing \(fields there: en\)",
        '{"de": null}': "field 'de' is null",
        '{"de": 3}': "field 'de' is not a string",
        '{"de": "\\ud800"}': "half a surrogate pair",
        '{"de": "a\0"}': "has a NUL byte",
    }
    for bad, fault in faults.items():
        file.write_text('{"de": "a"}\n' + bad)
        with pytest.raises(UserError, match=f"{fault}.*: correct the line") as error:
            list(read_sources(file, "de"))
        assert "line 2" in str(error.value) and "\n" not in str(error.value)


def test_a_field_in_a_field(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"translation": {"en": "a", "ro": "b"}}\n{"translation.en": "c"}\n')
    assert list(read_sources(file, "translation.en")) == ["a", "c"]
    with pytest.raises(UserError, match=r"fields there: translation.en, translation.ro"):
        list(read_sources(file, "en"))


def test_compressed_files_and_tables(tmp_path):
    lines, records = "a\n\nb\r\nc", '{"t": {"de": "a"}}\n\n{"t": {"de": "b"}}\n'
    for end, compress in COMPRESS.items():
        (tmp_path / f"in.txt{end}").write_bytes(compress(lines.encode()))
        assert list(read_sources(tmp_path / f"in.txt{end}", "")) == ["a", "", "b", "c"]
        (tmp_path / f"in.jsonl{end}").write_bytes(compress(records.encode()))
        assert list(read_sources(tmp_path / f"in.jsonl{end}", "t.de")) == ["a", "", "b"]
    rows = [{"t": {"de": text}} for text in ("a", "", "b\n")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    assert list(read_sources(tmp_path / "in.parquet", "t.de")) == ["a", "", "b\n"]
    with pytest.raises(UserError, match="field 'de' is missing .*t.de.*set config.data.source_fie"):
        list(read_sources(tmp_path / "in.parquet", "de"))
    rows = [{"de": "a"}, {"de": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="in.parquet row 2: field 'de' is null"):
        list(read_sources(tmp_path / "in.parquet", "de"))


def test_sources_that_cannot_be_read(tmp_path, monkeypatch):
    def fails(name):
        with pytest.raises(UserError) as error:
            list(read_sources(tmp_path / name, "de"))
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "in.csv").write_text("a,b\n")
    assert "is a table: to read it as plain text, let its name end in .txt" in fails("in.csv")
    assert "config.data.kind" not in fails("in.csv")
    (tmp_path / "utf16.txt").write_bytes("ab".encode("utf-16"))
    assert "is UTF-16" in fails("utf16.txt")
    (tmp_path / "nul.txt").write_bytes(b"ab\n\0\n")
    assert "has a NUL byte, which no text has, at byte 3 (line 2)" in fails("nul.txt")
    (tmp_path / "folder").mkdir()
    assert "it is a directory" in fails("folder")
    (tmp_path / "cut.gz").write_bytes(COMPRESS[".gz"](b"a\n" * 999)[:-9])
    assert "cut.gz cannot be read (it is damaged" in fails("cut.gz")
    (tmp_path / "pointer.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "run git lfs pull" in fails("pointer.txt")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    with pytest.raises(UserError, match="^standard input is not UTF-8 at byte 2"):
        list(read_sources("-", "de"))
    without_permission(monkeypatch)
    assert "there is no permission to read it" in fails("nul.txt")


def test_a_pipe_is_read_as_a_file_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["a\nb\n"], daemon=True)
    writer.start()
    assert list(read_sources(tmp_path / "pipe", "")) == ["a", "b"]
    writer.join()


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
    assert "is not UTF-8 at byte 6 (line 4)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
