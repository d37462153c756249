"""Formats of files: compressed files and tables are read, others are named as what they are."""

import builtins
import json
import sys
import tracemalloc

import pyarrow
import pytest
from pyarrow import parquet

from elf_jax.data import corpora, records
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example, load_examples
from elf_jax.data.manifest import read_manifest, shards
from elf_jax.data.opening import REFUSED, SIGNATURES
from elf_jax.data.prepare import prepare
from tests.data.helpers import COMPRESS, fails, without_permission
from tests.data.helpers import text_data as data_in_memory

TEXTS = [f"the sea was calm, and nobody in house {i} spoke of it" for i in range(200)]


def bad(file, kind="text", **keys):
    return fails(load_examples, data_in_memory(kind=kind, path=str(file), **keys))


def write(path, content):
    path.write_bytes(content)
    return path


def write_table(path, rows, **keys):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **keys)
    return str(path)


def checksums(directory):
    return [shard["sha256"] for shard in shards(read_manifest(directory))]


@pytest.mark.parametrize("end", COMPRESS)
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_compressed_files_are_those_that_were_compressed(kind, end, data, tmp_path):
    text = "\n\n".join(TEXTS)
    if kind == "jsonl":
        text = "".join(json.dumps({"text": one}) + "\n" for one in TEXTS)
    plain = write(tmp_path / f"plain.{kind}", text.encode())
    packed = write(tmp_path / f"packed.{kind}{end}", COMPRESS[end](text.encode()))
    one, two = (
        load_examples(data_in_memory(kind=kind, path=str(path))) for path in (plain, packed)
    )
    assert one == two and len(one[0]) > 1
    for name, path in (("plain", plain), ("packed", packed)):
        prepare(data(kind=kind, path=str(path), prepared=str(tmp_path / name)), workers=1)
    assert checksums(tmp_path / "plain") == checksums(tmp_path / "packed")


@pytest.mark.parametrize("keys", [{}, {"row_group_size": 7}])
def test_a_table_has_the_rows_of_json_lines(keys, data, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "UNIT_BYTES", 2000)
    monkeypatch.setattr(records, "BATCH", 16)
    rows = [{"id": i, "pair": {"en": text, "no": text[:i]}} for i, text in enumerate(TEXTS)]
    lines = tmp_path / "pairs.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = write_table(tmp_path / "pairs.parquet", rows, **keys)
    fields = {"kind": "jsonl", "field": "pair.en", "source_field": "pair.no", "source_length": 12}
    one, two = (load_examples(data_in_memory(path=str(path), **fields)) for path in (lines, table))
    assert one == two
    assert sorted(one[0] + one[1])[-1].text.startswith("the sea")
    both = (("lines", lines), ("table", table), ("again", table))
    for workers, (name, path) in enumerate(both):
        fields |= {"path": str(path), "prepared": str(tmp_path / name), "packing": "auto"}
        manifest = prepare(data(**fields), workers=max(workers, 1))
        assert manifest["empty"] == 1
    assert len(read_manifest(tmp_path / "table")["units"]) > 3
    assert checksums(tmp_path / "table") == checksums(tmp_path / "again")
    counts = [read_manifest(tmp_path / name)["counts"] for name in ("lines", "table")]
    assert counts[0] == counts[1]
    memory = load_dataset(data(**fields | {"prepared": ""}), tmp_path / "none")
    shards_of_table = load_dataset(data(**fields), tmp_path / "none")
    assert memory.summary["train_tokens"] == shards_of_table.summary["train_tokens"]


def test_a_table_is_never_in_memory_as_a_whole(tmp_path):
    rows = [{"text": f"{i} " * 2000} for i in range(4000)]
    table = write_table(tmp_path / "x.parquet", rows, compression="none", use_dictionary=False)
    tracemalloc.start()
    for _ in records.parquet_records(table, ["text"]):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6 < sum(len(row["text"]) for row in rows) / 2


def test_tables_and_lines_together(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    write_table(tmp_path / "b.parquet", [{"text": text} for text in TEXTS])
    path = f"{tmp_path}/*"
    train, held_out = load_examples(data_in_memory(kind="jsonl", path=path))
    assert Example("a") in train + held_out and len(train + held_out) == 201


def test_tables_that_cannot_be_used(data, tmp_path):
    table = write_table(tmp_path / "x.parquet", [{"a": {"b": "x"}, "c": 3}, {"a": None, "c": 4}])
    assert "set config.data.kind=jsonl" in bad(table)
    assert "'text' is missing (fields there: a.b, c): set config.data.f" in bad(table, "jsonl")
    assert "row 1: field 'c' is not a string but a int" in bad(table, "jsonl", field="c")
    message = bad(table, "jsonl", field="a.b")
    assert "row 2: field 'a.b' is missing" in message and "config.data.bad_lines=skip" in message
    empty = tmp_path / "empty.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), empty)
    assert "empty.parquet has no rows" in bad(empty, "jsonl")
    whole = write(tmp_path / "cut.parquet", (tmp_path / "x.parquet").read_bytes()[:-30])
    assert "cut.parquet cannot be read (it is damaged" in bad(whole, "jsonl")
    write(tmp_path / "x.parquet.gz", b"")
    assert "is a compressed Parquet file" in bad(tmp_path / "x.parquet.gz", "jsonl")
    # Preparing says the same.
    assert "set config.data.kind=jsonl" in fails(prepare, data(kind="text", path=table))
    message = fails(prepare, data(path=table), workers=1)
    assert "'text' is missing (fields there: a.b, c)" in message


def test_the_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.txt.zst", COMPRESS[".zst"](b"some text"))
    write_table(tmp_path / "a.parquet", [{"text": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert ".zst files need the pyarrow library: pip install -e '.[hf]'" in bad(
        tmp_path / "a.txt.zst"
    )
    assert "Parquet files need the pyarrow library" in bad(tmp_path / "a.parquet", "jsonl")


@pytest.mark.parametrize("end", REFUSED)
def test_a_format_that_is_not_read_is_named(end, data, tmp_path):
    for name in (f"x{end}", f"x{end.upper()}.gz"):
        file = write(tmp_path / name, b"a,b\n1,2\n")
        for kind in ("text", "jsonl"):
            message = bad(file, kind)
            assert f"{name} {REFUSED[end]}" in message
            assert fails(prepare, data(kind=kind, path=str(file))) == message
    assert not (tmp_path / "prepared").exists()


def test_a_table_of_values_becomes_json_lines(tmp_path, monkeypatch):
    """The remedy for a .csv file is right."""
    import pandas

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "FILE", 'text,id\n"sjø, and\nmore",1\nb,2\n'.encode())
    message = bad(write(tmp_path / "x.csv", b"a"))
    assert "set config.data.kind=jsonl" in message
    code = message.partition("for example with ")[2].partition(", and set")[0]
    eval(code.replace("FILE)", "'FILE')"), {"pandas": pandas})
    settings = data_in_memory(kind="jsonl", path="FILE.jsonl", validation_path="FILE.jsonl")
    settings.validation_path = str(write(tmp_path / "v.jsonl", b'{"text": "v"}'))
    assert load_examples(settings)[0] == [Example("sjø, and\nmore"), Example("b")]


@pytest.mark.parametrize(
    "beginning, what, remedy", SIGNATURES, ids=[what for _, what, _ in SIGNATURES]
)
def test_what_is_no_text_is_named_by_its_first_bytes(beginning, what, remedy, data, tmp_path):
    file = write(tmp_path / "x.txt", beginning + b"\xff\0\xfe" * 9)
    assert f"x.txt is {what}, not text in UTF-8: {remedy}" in bad(file)
    assert f"x.txt is {what}, not text in UTF-8: {remedy}" in bad(file, "jsonl", bad_lines="skip")
    message = fails(prepare, data(kind="text", path=str(file)), workers=1)
    assert f"x.txt is {what}" in message


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.jsonl.gz"])
def test_json_lines_are_not_read_as_plain_text(name, tmp_path):
    lines = b'{"text": "a"}\n{"text": "b"}'
    file = write(tmp_path / name, COMPRESS[".gz"](lines) if name.endswith(".gz") else lines)
    message = bad(file)
    assert f"{name} has JSON lines, by its name: set config.data.kind=jsonl" in message
    held_out = write(tmp_path / "v.txt", b"held out")
    assert "has JSON lines" in bad(held_out, validation_path=str(file))
    text = write(tmp_path / "x.txt", lines)
    settings = data_in_memory(kind="text", path=str(text), validation_path=str(held_out))
    assert load_examples(settings)[0] == [Example(lines.decode())]


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16"])
def test_other_encodings_are_refused(code, data, tmp_path):
    file = write(tmp_path / "x.txt", "\n".join(TEXTS).encode(code))
    assert "UTF-16" in bad(file) and "UTF-8" in bad(file)
    assert "UTF-16" in fails(prepare, data(kind="text", path=str(file)), workers=1)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    file = write(tmp_path / "x.jsonl", lines.encode(code))
    for bad_lines in ("error", "skip"):
        assert "UTF-16" in bad(file, "jsonl", bad_lines=bad_lines)


def test_a_file_in_another_encoding_is_not_skipped_line_by_line(data, tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    write(tmp_path / "a.jsonl", lines.encode())
    for code in ("utf-16-le", "utf-16"):
        write(tmp_path / "b.jsonl", lines.encode(code))
        keys = {
            "bad_lines": "skip",
            "path": f"{tmp_path}/*.jsonl",
            "prepared": str(tmp_path / code),
        }
        assert "b.jsonl" in fails(load_examples, data(**keys))
        assert "UTF-16" in fails(prepare, data(**keys), workers=1)


def test_a_nul_byte_is_no_text(data, tmp_path):
    file = write(tmp_path / "x.txt", b"one\ntwo\nth\0ree\n")
    assert "has a NUL byte, which no text has, at byte 10 (line 3)" in bad(file)
    assert "at byte 10 (line 3)" in fails(prepare, data(kind="text", path=str(file)), workers=1)
    for order in ("LE", "BE"):
        for text in ("one\ntwo", "\u4e2d\ntwo"):
            file = write(tmp_path / "y.txt", text.encode(f"utf-16-{order}"))
            assert f"iconv -f UTF-16{order} " in bad(file)


def test_a_byte_order_mark_is_removed_where_it_is_one(tmp_path, monkeypatch):
    file = write(tmp_path / "x.txt", "\ufeffa\n\n\ufeffb".encode())
    settings = data_in_memory(path=str(file), validation_path=str(write(tmp_path / "v", b"v")))
    assert load_examples(settings)[0] == [Example("a\n\n\ufeffb")]
    # So it is in pieces of a file.
    monkeypatch.setattr(corpora, "PIECE_BYTES", 4)
    corpus = corpora.open_corpus(settings)
    texts = [example.text for unit in corpus.units() for example in corpus.read(unit.payload)]
    assert texts == ["a\n\n", "\ufeffb", "v"]
    # Joined files of JSON lines have a mark at the start of each.
    file = write(tmp_path / "x.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}'.encode())
    held_out = write(tmp_path / "v.jsonl", b'{"text": "v"}')
    settings = data_in_memory(kind="jsonl", path=str(file), validation_path=str(held_out))
    assert load_examples(settings)[0] == [Example("a"), Example("b")]


@pytest.mark.parametrize("end", COMPRESS)
def test_damaged_and_misnamed_files(end, tmp_path):
    whole = COMPRESS[end]("\n".join(TEXTS).encode())
    file = write(tmp_path / f"x.txt{end}", whole[:-8])
    assert f"x.txt{end} cannot be read (it is damaged, " in bad(file)
    assert bad(file).endswith("copy the file again")
    file = write(tmp_path / f"plain.txt{end}", b"plain text, which is not compressed")
    assert f"it does not begin as a {end} file does): rename it" in bad(file)
    file = write(tmp_path / f"none.txt{end}", COMPRESS[end](b""))
    assert "is empty" in bad(file)
    file = write(tmp_path / "x.txt", whole)
    assert f"let its name end in {end}" in bad(file)


def test_a_pointer_of_git_lfs_is_not_the_file(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
    for name, kind in (("x.txt", "text"), ("x.jsonl.gz", "jsonl"), ("x.parquet", "jsonl")):
        assert "run git lfs pull" in bad(write(tmp_path / name, pointer), kind)


def test_errors_of_reading_are_told_apart(tmp_path, monkeypatch):
    file = write(tmp_path / "x.txt", b"text")
    real = builtins.open

    def bad_disk(name, *args, **keys):
        if str(name) == str(file):
            raise OSError(5, "Input/output error")
        return real(name, *args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", bad_disk)
        message = bad(file)
    assert "cannot be read (Input/output error): check the disk" in message
    table = write_table(tmp_path / "x.parquet", [{"text": "a"}])
    without_permission(monkeypatch)
    for path, kind in ((file, "text"), (file, "jsonl"), (table, "jsonl")):
        message = bad(path, kind)
        assert "there is no permission to read it" in message and "copy" not in message


def test_shards_without_permission(documents, data, tmp_path, monkeypatch):
    manifest = prepare(data(), workers=1)
    name = shards(manifest)[1]["name"]
    real = builtins.open

    def refuse(file, *args, **keys):
        if str(file).endswith(name):
            raise PermissionError(13, "Permission denied")
        return real(file, *args, **keys)

    monkeypatch.setattr("builtins.open", refuse)
    for call in (prepare, lambda settings: load_dataset(settings, tmp_path / "none")):
        message = fails(call, data())
        assert name in message and "there is no permission to read it" in message
        assert "delete" not in message
    name = "manifest.json"
    assert "manifest.json cannot be read (there is no permission" in fails(prepare, data())
    monkeypatch.undo()
    pointer = "version https://git-lfs.github.com/spec/v1\n"
    (tmp_path / "prepared" / shards(manifest)[1]["name"]).write_text(pointer)
    assert "run git lfs pull" in fails(load_dataset, data(), tmp_path / "none")
