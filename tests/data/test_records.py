"""Records: fields in fields, and bad lines, which are an error or skipped and counted."""

import json

import pytest

from elf_jax.data import records
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example, load_examples
from elf_jax.data.fields import Missing, field_names, find_field, top_key
from elf_jax.data.manifest import read_manifest
from elf_jax.data.prepare import prepare
from elf_jax.data.prepare_unit import UnitPreparer
from tests.data.helpers import fails, text_data, write_documents

BAD = (  # lines, and what is wrong with them
    (b'{"text": null}', "field 'text' is null"),
    (b'{"text": 5}', "field 'text' is not a string but a int"),
    (b'{"text": ["a"]}', "field 'text' is not a string but a list"),
    (b'{"body": "b", "id": 3}', "field 'text' is missing (fields there: body, id)"),
    (b'{"text": "cut', "is not valid JSON"),
    (b'["text"]', "is not a JSON object"),
    (b"null", "is not a JSON object"),
    (b'{"text": "half \\ud800"}', "half a surrogate pair"),
    (b'{"text": "na\xefve"}', "is not UTF-8 at byte"),
    (b'{"text": "a\0b"}', "has a NUL byte"),
    (b"[" * 100_000, "is not valid JSON"),
)


def settings(path, **keys):
    return text_data(kind="jsonl", path=str(path), **keys)


def with_bad_lines(path):
    """Puts all of BAD between the lines of a file."""
    good = path.read_bytes().splitlines()
    lines = good[:1]
    for number, line in enumerate(good[1:]):
        lines += [BAD[number][0]] if number < len(BAD) else []
        lines.append(line)
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_find_field():
    record = {"a": {"b": 1, "c": {"d": 2}, "n": None}, "x.y": 3, "x": {"y": 4, "z": 5}, "s": "t"}
    found = {"a.b": 1, "a.c.d": 2, "a.n": None, "x.y": 3, "x.z": 5, "s": "t"}
    assert {name: find_field(record, name) for name in found} == found
    for name in ("b", "a.q", "a.b.c", "a.n.m", "s.t", "", ".", "a."):
        assert find_field(record, name) is Missing
    assert find_field(None, "a") is find_field([1], "a") is Missing
    assert (top_key("x.y", record), top_key("x.z", record)) == ("x.y", "x")
    assert field_names(record) == "a.b, a.c, a.n, s, x.y, x.y, x.z" and field_names({}) == "none"
    assert field_names(dict.fromkeys(range(99), 0)).endswith(", ...")


def test_fields_in_fields(data, tmp_path):
    rows = [{"translation": {"en": f"hello {i}", "ro": f"salut {i}"}} for i in range(40)]
    rows += [{"translation.en": "dotted", "translation": {"en": "nested", "ro": "b"}}]
    path = tmp_path / "wmt.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"field": "translation.ro", "source_field": "translation.en", "path": str(path)}
    train, held_out = load_examples(settings(**keys))
    both = sorted(train + held_out, key=lambda example: example.source)
    assert both[:2] == [Example("b", "dotted"), Example("salut 0", "hello 0")] and len(both) == 41
    keys |= {"packing": "auto", "source_length": 12}
    manifest = prepare(data(**keys), workers=1)
    assert sum(manifest["counts"][side]["documents"] for side in ("train", "validation")) == 41
    message = fails(load_examples, settings(**keys | {"field": "ro"}))
    assert "line 1: field 'ro' is missing (fields there: translation.en, translation.ro)" in message
    assert message.endswith("set config.data.field and config.data.source_field")


@pytest.mark.parametrize("line, fault", BAD, ids=[fault for _, fault in BAD])
def test_one_bad_line(line, fault, data, tmp_path):
    path = tmp_path / "documents.jsonl"
    good = b'{"text": "one"}\n{"text": "two"}\n'
    path.write_bytes(good + line + b"\n" + good)
    in_memory = fails(load_examples, settings(path))
    assert "line 3" in in_memory and fault in in_memory
    assert "config.data.bad_lines=skip" in in_memory and "config.data.field" not in in_memory
    assert fails(prepare, data(), workers=1) == in_memory
    (tmp_path / "held_out.jsonl").write_bytes(good)
    keys = {"validation_path": str(tmp_path / "held_out.jsonl"), "bad_lines": "skip"}
    texts = ["one", "two", "one", "two"]
    assert load_examples(settings(path, **keys))[0] == [Example(text) for text in texts]


def test_the_first_line_tells_about_the_config(tmp_path):
    path = tmp_path / "x.jsonl"
    fields, skip = "set config.data.field and config.data.source_field", "config.data.bad_lines"
    for line in ('{"body": "a"}', '{"text": 5}'):
        path.write_text(line + '\n{"text": "a"}\n')
        message = fails(load_examples, settings(path))
        assert "line 1" in message and message.endswith(fields) and skip not in message
    path.write_text('{"text": null}\n{"text": "a"}\n')
    message = fails(load_examples, settings(path))
    assert fields in message and message.endswith("config.data.bad_lines=skip")
    path.write_text('cut": "a"}\n{"text": "a"}\n')
    message = fails(load_examples, settings(path))
    assert "config.data.kind=text" in message and message.endswith("config.data.bad_lines=skip")
    # A wrong encoding is seen only at the first letter that is not of ASCII.
    path.write_bytes(b'{"text": "a"}\n{"text": "na\xefve"}\n')
    assert "iconv" in fails(load_examples, settings(path))


def test_bad_lines_are_skipped_and_counted(documents, data, tmp_path, caplog, capsys):
    clean = load_examples(settings(documents))
    want = prepare(data(prepared=str(tmp_path / "clean")), workers=1)
    with_bad_lines(documents)
    with caplog.at_level("WARNING"):
        assert load_examples(settings(documents, bad_lines="skip")) == clean
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and f"skipped {len(BAD)} bad lines" in warnings[0]
    assert "documents.jsonl line 2: field 'text' is null" in warnings[0]
    memory = load_dataset(data(bad_lines="skip", prepared=""), tmp_path / "none")
    capsys.readouterr()
    got = prepare(data(bad_lines="skip"), workers=2)
    assert f"{len(BAD)} bad lines skipped" in capsys.readouterr().out
    assert got["bad_lines"] == len(BAD) == sum(unit.get("bad_lines", 0) for unit in got["units"])
    documents_of = [m["counts"]["train"]["documents"] for m in (want, got)]
    assert documents_of[0] == documents_of[1] and got["empty"] == want["empty"]
    prepared = load_dataset(data(bad_lines="skip"), tmp_path / "none")
    assert memory.summary["bad_lines"] == prepared.summary["bad_lines"] == len(BAD)
    texts = [
        example.text
        for part in load_examples(settings(documents, bad_lines="skip"))
        for example in part
    ]
    assert not any("None" in text or "null" in text for text in texts)


def test_without_bad_lines_nothing_changes(documents, data, tmp_path):
    strict = prepare(data(), workers=1)
    assert strict["bad_lines"] == 0 and not any("bad_lines" in unit for unit in strict["units"])
    assert "bad_lines" not in strict["options"]
    again = prepare(data(bad_lines="skip", prepared=str(tmp_path / "skip")), workers=1)
    assert again == strict
    # One may be used in place of the other.
    assert load_dataset(data(bad_lines="skip"), tmp_path / "none").summary["bad_lines"] == 0
    assert "bad_lines" not in load_dataset(data(), tmp_path / "none").summary


def test_a_directory_of_an_earlier_version_has_no_count(documents, data, tmp_path):
    manifest = prepare(data(), workers=1)
    del manifest["bad_lines"]
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "prepared" / "SHA256SUMS").unlink()
    assert prepare(data(), workers=1) == {**manifest, "bad_lines": 0}
    load_dataset(data(bad_lines="skip"), tmp_path / "none")


def test_preparing_goes_on_when_bad_lines_are_skipped(documents, data, tmp_path, monkeypatch):
    """After the error of a bad line, the finished units are kept."""
    lines = documents.read_text().splitlines()
    lines.insert(40, '{"text": null}')
    documents.write_text("\n".join(lines))
    whole = prepare(data(bad_lines="skip", prepared=str(tmp_path / "whole")), workers=1)
    assert "line 41: field 'text' is null" in fails(prepare, data(), workers=1)
    real, done = UnitPreparer.run, []
    monkeypatch.setattr(UnitPreparer, "run", lambda *args: done.append(args[1]) or real(*args))
    assert prepare(data(bad_lines="skip"), workers=1) == whole
    assert 0 < len(done) < len(whole["units"]) and whole["bad_lines"] == 1
    # These shards are not those of a config that skips nothing.
    for call in (prepare, lambda one: load_dataset(one, tmp_path / "none")):
        message = fails(call, data())
        assert "1 bad lines were skipped in" in message and "config.data.bad_lines=skip" in message
    (tmp_path / "prepared" / "manifest.json").unlink()
    assert load_dataset(data(bad_lines="skip"), tmp_path / "none").summary["bad_lines"] == 1


def test_all_lines_are_bad(data, tmp_path, monkeypatch):
    path = write_documents(tmp_path / "documents.jsonl")
    keys = {"bad_lines": "skip", "field": "body"}
    message = fails(load_examples, settings(path, **keys))
    assert "not one of 60 lines is good" in message and "'body' is missing" in message
    assert "line 1" in message and "config.data.field" in message
    message = fails(prepare, data(**keys), workers=1)
    assert "not one of the 60 lines" in message and read_manifest(tmp_path / "prepared") is None
    # With very many of them, it is said before all are read.
    monkeypatch.setattr(records, "MANY", 20)
    assert "not one of 20 lines is good" in fails(load_examples, settings(path, **keys))
    assert "not one of 20 lines is good" in fails(prepare, data(**keys), workers=1)
    # But not after a good line.
    path.write_text('{"body": "a"}\n{"body": "b"}\n{"body": "c"}\n' + path.read_text())
    assert sum(map(len, load_examples(settings(path, **keys, validation_fraction=0.5)))) == 3


@pytest.mark.parametrize("bad_lines", ["error", "skip"])
def test_json_that_is_not_json_lines(bad_lines, data, tmp_path):
    path, rows = tmp_path / "documents.jsonl", [{"text": "a"}, {"text": "b"}]
    forms = {json.dumps(rows): "is one JSON array", json.dumps(rows, indent=1): "is one JSON array"}
    forms |= {"[" + ",\n".join(map(json.dumps, rows)) + "]": "is one JSON array"}
    forms |= {json.dumps(rows[0], indent=2): "is JSON with objects over several lines"}
    for number, (text, fault) in enumerate(forms.items()):
        path.write_text(text)
        keys = {"bad_lines": bad_lines, "prepared": str(tmp_path / str(number))}
        for message in (
            fails(load_examples, settings(path, bad_lines=bad_lines)),
            fails(prepare, data(**keys), workers=1),
        ):
            assert fault in message and "write one object on every line" in message
    path.write_text("Once upon a time\nthere was\n")
    assert "config.data.kind=text" in fails(load_examples, settings(path, bad_lines=bad_lines))
