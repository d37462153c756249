"""Readers get arbitrary input, and damaged input that was good: each returns, or raises a UserError
of one line.

The inputs are the same in every run. ELF_JAX_FUZZ=N takes N times as many, other ones each time.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import types

import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elf_jax.checkpoints.export import read_export, read_export_config
from elf_jax.checkpoints.origins import starting_point
from elf_jax.checkpoints.rounds import round_for, teacher_of
from elf_jax.core import checks, checksums, defaults, hub, lock
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError, explain
from elf_jax.core.files import read_json, write_json
from elf_jax.core.workdir import (
    CONFIG,
    DATASET,
    DISTILLATION,
    EMBEDDING,
    METRICS,
    RECORDS,
    START,
    STATISTICS,
    SUMS,
    WEIGHTS,
)
from elf_jax.data.examples import Example, load_examples
from elf_jax.data.fields import Missing, find_field
from elf_jax.data.manifest import read_manifest
from elf_jax.data.prepare import prepare
from elf_jax.data.prepared import open_prepared
from elf_jax.data.records import BadLines
from elf_jax.data.split import split_blocks, split_example
from elf_jax.data.text_files import find_files, split_paths
from elf_jax.data.tokenizer import load_tokenizer
from elf_jax.evaluation.kept_samples import KeptSamples, _read_samples, provenance_path
from elf_jax.evaluation.records import Records, digest
from elf_jax.generation import templates
from elf_jax.generation.answers import read_sources
from elf_jax.latents import embedding, statistics
from elf_jax.pretrained.gpt2 import load_gpt2
from elf_jax.pretrained.t5 import load_t5
from elf_jax.training.begin import read_summary
from elf_jax.training.metrics_log import read_metrics
from tests.tiny import save_random_scorer, save_words, tiny_config

TIMES = int(os.environ.get("ELF_JAX_FUZZ", "1"))


def fuzz(count):
    """Settings of a test with `count` inputs."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def told(call, *args, **keys):
    """What a call returns, or the line that the user sees in place of it."""
    try:
        return call(*args, **keys)
    except (UserError, OSError) as error:
        line = str(error) if isinstance(error, UserError) else explain(error)
        assert line is not None, error
        assert len(line.splitlines()) == 1
        return line


# Any JSON value; numbers of any size, and NaN, which Python's JSON knows.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
ODD = st.sampled_from(
    [2**70, -1, 0, 1e300, float("nan"), "", "a\nb", "\ud800", [], {}, [[]], True, "I32", "BF16"]
)


@st.composite
def damaged(draw, data):
    """Bytes with a few changes: bits, cuts, insertions, repetitions."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(start + draw(st.integers(1, 16)), len(data))
        change = draw(st.sampled_from(["bit", "cut", "insert", "repeat", "truncate"]))
        if change == "bit" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[start:end]
        elif change == "insert":
            data[start:start] = draw(st.binary(max_size=8))
        elif change == "repeat":
            data[end:end] = data[start:end] * draw(st.integers(1, 50))
        else:
            del data[start:]
    return bytes(data)


@st.composite
def changed(draw, value):
    """A JSON value with one part of it replaced, removed or named in another way."""
    paths = [*_paths(value)]
    *parents, last = draw(st.sampled_from(paths))
    value = json.loads(json.dumps(value))
    inside = value
    for key in parents:
        inside = inside[key]
    change = draw(st.sampled_from(["replace", "odd", "remove", "rename"]))
    old = inside[last] if change in ("replace", "odd") else inside.pop(last)
    if change in ("replace", "odd"):
        del old
        inside[last] = draw(VALUES if change == "replace" else ODD)
    elif change == "rename" and isinstance(inside, dict):
        inside[draw(st.text(max_size=6))] = old
    return value


def _paths(value, path=()):
    """Yields the keys that lead to every part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in parts:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from _paths(one, (*path, key))


def one_of(data, value=None):
    """Contents of a file: arbitrary ones, damaged `data`, and the damaged JSON `value`."""
    some = st.binary(max_size=60) | damaged(data)
    some |= VALUES.map(lambda one: json.dumps(one).encode())
    if value is not None:
        some |= changed(value).map(lambda one: json.dumps(one).encode())
    return some | st.integers(500, 2000).map(lambda n: b"[" * n + b"]" * n)


LINES = b'{"text": "Ein Satz.", "s": {"de": "x"}}\n{"text": "\\u00e4 b"}\n\n{"text": ""}\n' * 3
PLAIN = "Ein Absatz.\n\nNoch einer, länger.\r\n".encode() * 5


def _zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


def _parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESS[".zst"] = _zstd
TABLE = _parquet([{"text": f"text {i}", "s": {"de": "x" * i}, "n": i} for i in range(20)])


def data_settings(**keys):
    config = defaults.get_config()
    config.data.update({"kind": "jsonl", "packing": "rows", "validation_fraction": 0.3, **keys})
    return config.data


def read_corpus(directory, name, data, **keys):
    """`load_examples` and `read_sources` of a file with these bytes."""
    path = directory / name
    path.write_bytes(data)
    for bad_lines in ("error", "skip"):
        section = data_settings(path=str(path), bad_lines=bad_lines, **keys)
        found = told(load_examples, section)
        if not isinstance(found, str):
            assert all(isinstance(one.text, str) for side in found for one in side)
    told(lambda: list(read_sources(path, keys.get("field", "text"))))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("end", COMPRESS)
@fuzz(60)
@given(st.data())
def test_json_lines(directory, end, data):
    line = changed(json.loads(LINES.split(b"\n")[0])).map(lambda one: json.dumps(one).encode())
    lines = st.binary(max_size=80) | damaged(LINES) | st.lists(line, max_size=4).map(b"\n".join)
    compressed = lines.map(COMPRESS[end]) | damaged(COMPRESS[end](LINES)) | st.binary(max_size=60)
    field = data.draw(st.sampled_from(["text", "s.de", "s", "n"]))
    read_corpus(directory, f"x.jsonl{end}", data.draw(compressed), field=field)


@pytest.mark.parametrize("end", COMPRESS)
@pytest.mark.parametrize("packing", ["rows", "stream"])
@fuzz(30)
@given(st.data())
def test_plain_text(directory, end, packing, data):
    text = st.binary(max_size=80) | damaged(PLAIN) | st.text().map(lambda one: one.encode())
    compressed = text.map(COMPRESS[end]) | damaged(COMPRESS[end](PLAIN))
    read_corpus(directory, f"x.txt{end}", data.draw(compressed), kind="text", packing=packing)


@fuzz(200)
@given(damaged(TABLE) | st.binary(max_size=60), st.sampled_from(["text", "s.de", "n"]))
def test_parquet(directory, data, field):
    read_corpus(directory, "x.parquet", data, field=field)


@fuzz(200)
@given(st.text())
def test_blocks_joined_are_the_text(text):
    assert "".join(split_blocks(text, 3000)) == text
    parts = split_example(data_settings(kind="text", packing="stream"), Example(text))
    assert "".join(part.text for _, part in parts) == text


@fuzz(200)
@given(VALUES)
def test_json_is_read_as_it_was_written(directory, value):
    write_json(directory / "value.json", value)
    text = json.dumps(value, sort_keys=True)
    assert json.dumps(read_json(directory / "value.json", object), sort_keys=True) == text


@fuzz(200)
@given(st.lists(st.text(st.characters(exclude_characters="\0/\\"), min_size=1), min_size=1))
def test_commas_in_names_are_escaped(names):
    names = [name.strip() for name in names if name.strip()]
    if names:
        assert split_paths(",".join(name.replace(",", "\\,") for name in names)) == names


PIECES = st.sampled_from(["___", "[[3]]", "[[0]]", "[[", "]]", "\\", "_", "[[" + "9" * 20 + "]]"])


@fuzz(100)
@given(st.lists(PIECES | st.text(max_size=4)).map("".join))
def test_templates(text):
    found = told(templates.parse, text)
    if not isinstance(found, str):
        assert len(found.literals) == len(found.gaps) + 1
        assert found.gaps or "\\" in text or found.filled(()) == text


@fuzz(200)
@given(st.text(max_size=12))
def test_paths(directory, text):
    inside = f"{directory}/{text}".replace("://", "")
    told(find_files, inside)


@fuzz(200)
@given(st.lists(st.text(st.characters(exclude_characters="."), min_size=1), min_size=1), VALUES)
def test_nested_fields(names, value):
    record = value
    for name in reversed(names):
        record = {name: record}
    assert find_field(record, ".".join(names)) is value
    assert find_field(record, ".".join([*names, "none"])) is Missing or isinstance(value, dict)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_words(tmp_path_factory.mktemp("words") / "tokenizer", 12)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@fuzz(80)
@given(st.data())
def test_tokenizers(tokenizer, name, data):
    before = (tokenizer / name).read_bytes()
    try:
        (tokenizer / name).write_bytes(data.draw(one_of(before, json.loads(before))))
        told(load_tokenizer, tokenizer)
    finally:
        (tokenizer / name).write_bytes(before)


CONFIGS = tiny_config().to_dict() | {"export": {"format": 1, "step": 3, "weights": "ema"}}
CONFIGS["export"]["train_seconds"] = 1.5
CONFIGS["evaluate"]["protocols"] = {"sde": {"steps": 3, "gamma": 1.0}}


@fuzz(300)
@given(one_of(json.dumps(CONFIGS).encode(), CONFIGS))
def test_configs(directory, data):
    (directory / CONFIG).write_bytes(data)
    for read in (config_module.read_config, read_export_config):
        found = told(read, directory)
        if not isinstance(found, str):
            told(checks.check, found)
            told(config_module.check_same, directory, tiny_config())


def test_an_export_of_a_method_that_there_is_not(directory):
    """A rare case of `test_configs`, which once was a traceback."""
    values = CONFIGS | {"method": ""}
    (directory / CONFIG).write_text(json.dumps(values))
    with pytest.raises(UserError, match="config.method is '': use one of elf, ar, .*restore"):
        read_export_config(directory)


KEYS = [*config_module.flatten(defaults.get_config()), "evaluate.protocols.x.steps"]


@fuzz(300)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=9), SCALARS | ODD, max_size=2))
def test_keys_of_the_command_line(keys):
    config = defaults.get_config()
    if not isinstance(told(config_module.update, config, config_module.translate(keys)), str):
        told(checks.check, config)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, tokenizer):
    directory = tmp_path_factory.mktemp("scorer")
    return save_random_scorer(directory, load_tokenizer(tokenizer))


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(data, header):
    """The bytes of a safetensors file, with another header."""
    size = int.from_bytes(data[:8], "little")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def tensor_files(data):
    """Damaged safetensors files."""
    headers = changed(header_of(data)).map(lambda header: with_header(data, header))
    return damaged(data) | headers | st.binary(max_size=40)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "model.safetensors.index.json"])
@pytest.mark.parametrize("load", [load_gpt2, load_t5], ids=["gpt2", "t5"])
@fuzz(60)
@given(st.data())
def test_model_directories(gpt2, golden_t5, name, load, data):
    directory = {load_gpt2: gpt2, load_t5: golden_t5}[load]
    path = directory / name
    before = path.read_bytes() if path.is_file() else None
    if name == WEIGHTS:
        content = data.draw(tensor_files(before))
    else:
        value = {"weight_map": {"a": WEIGHTS}} if before is None else json.loads(before)
        content = data.draw(one_of(json.dumps(value).encode(), value))
    try:
        path.write_bytes(content)
        told(load, directory)
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@pytest.fixture(scope="module")
def golden_t5(tmp_path_factory):
    from tests.conftest import GOLDEN

    return shutil.copytree(GOLDEN / "t5_tiny", tmp_path_factory.mktemp("t5") / "t5")


TENSORS = {"a/b": np.ones((2, 3), np.float32), "a/c": np.zeros(4, np.float32)}
EXPORT = safetensors.numpy.save(TENSORS, {"format": "flax"})
TABLE_FILE = safetensors.numpy.save({"table": np.ones((5, 3), np.float32)})


@fuzz(200)
@given(tensor_files(EXPORT), st.just(CONFIGS) | changed(CONFIGS))
def test_exports(tmp_path_factory, directory, weights, config):
    (directory / WEIGHTS).write_bytes(weights)
    write_json(directory / CONFIG, config)
    found = told(read_export, directory, "ema")
    if not isinstance(found, str):
        params, info = found
        assert isinstance(params, dict) and f"{info.step:,}"


@fuzz(150)
@given(tensor_files(TABLE_FILE))
def test_embeddings(directory, data):
    (directory / EMBEDDING).write_bytes(data)
    section = types.SimpleNamespace(width=3, kind="gaussian")
    found = told(embedding.load_or_make, section, 5, 0, directory)
    if not isinstance(found, str):
        assert found["table"].dtype == np.float32 and found["table"].shape == (5, 3)


NUMBERS = {"mean": 0.5, "std": 2.0}
SUMMARY = {"fingerprint": "0" * 16, "train_rows": 5, "validation_rows": 2}
TEACHER = {"checkpoint": "/none", "kind": "export", "weights": "ema", "step": 3}
ROUND = {"steps": 4, "substeps": 2, "trained": 5, "fingerprint": "01234567"}
DISTILLED = {"teacher": TEACHER | {"fingerprint": "89abcdef"}, "rounds": [ROUND]}
STARTED = {"checkpoint": "/none/such", "kind": "workdir", "weights": "ema", "step": 3}
LOCKED = {"host": "a", "machine": lock._machine(), "pid": os.getpid(), "started": "1", "token": "t"}


@pytest.mark.parametrize(
    "name, read, value",
    [
        (STATISTICS, statistics.load, NUMBERS),
        (DATASET, read_summary, SUMMARY),
        (START, lambda directory: starting_point(directory, None), STARTED),
        (DISTILLATION, lambda home: (teacher_of(home), round_for(home, 3)), DISTILLED),
    ],
)
@fuzz(100)
@given(st.data())
def test_small_files(tmp_path_factory, name, read, value, data):
    directory = tmp_path_factory.mktemp("small")
    (directory / name).write_bytes(data.draw(one_of(json.dumps(value).encode(), value)))
    told(read, directory)
    shutil.rmtree(directory)


@fuzz(150)
@given(one_of(json.dumps(LOCKED).encode(), LOCKED))
def test_locks(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("lock")
    (directory / "lock").write_bytes(data)
    place = lock._DiskFile(directory, "lock")
    there = place.read()
    assert len(lock._in_words(there).splitlines()) == 1
    if "token" not in there or there.get("machine") == lock._machine():  # else it waits for a beat
        assert lock._is_alive(place, there) in (True, False)
    shutil.rmtree(directory)


@fuzz(150)
@given(one_of(b"0" * 64 + b"  a.json\n" + b"1" * 64 + b"  b\n"))
def test_checksums(directory, data):
    (directory / SUMS).write_bytes(data)
    told(checksums.read, directory)
    told(checksums.check_directory, directory)
    (directory / SUMS).unlink()


ENTRY = {"metric": "entropy", "value": 1.5, "key": "abc", "seed": 0}
LINE = json.dumps(ENTRY | {"check": digest(ENTRY)}).encode()


@fuzz(150)
@given(one_of(LINE + b"\n" + LINE + b"\n", ENTRY), st.booleans())
def test_records(directory, data, whole):
    (directory / RECORDS).write_bytes(data)
    found = told(Records, directory / RECORDS)
    if not isinstance(found, str):
        for group in found.groups.values():
            assert all("metric" in record and "value" in record for record in group)
    (directory / RECORDS).unlink()
    numbers = {"entropy": 1.5, "text": None}
    for _ in range(2):  # made, and read again
        records = Records(directory / RECORDS)
        assert records.once({"a": whole}, lambda: (numbers, {"text": "s"}, {}))[0] == numbers


@fuzz(150)
@given(one_of(b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n', {"step": 1, "loss": 2.5}))
def test_metrics(directory, data):
    (directory / METRICS).write_bytes(data)
    found = told(read_metrics, directory)
    if not isinstance(found, str):
        for line in found:
            assert isinstance(line["step"], int)
            assert all(isinstance(value, int | float) for value in line.values())


SAMPLE = {"text": "a b", "tokens": [1, 2]}
ABOUT = {"step": 3, "n": 1}


@fuzz(150)
@given(one_of(json.dumps(SAMPLE).encode(), SAMPLE), one_of(json.dumps(ABOUT).encode(), ABOUT))
def test_kept_samples(directory, sample, about):
    path = directory / "x-key.jsonl"
    path.write_bytes(sample)
    provenance_path(path).write_bytes(about)
    kept = types.SimpleNamespace(directory=directory)
    found = KeptSamples._read(kept, "key", 1)
    if found is not None:
        assert all(isinstance(text, str) for text in found["texts"])
        assert all(isinstance(token, int) for row in found["tokens"] for token in row)
        assert _read_samples(path) == found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("prepared")
    lines = [json.dumps({"text": f"w{i % 7} w{i % 5}"}) for i in range(40)]
    (root / "x.jsonl").write_text("\n".join(lines))
    keys = {"path": str(root / "x.jsonl"), "prepared": str(root / "rows"), "length": 8}
    section = data_settings(tokenizer=str(tokenizer), **keys)
    prepare(section, workers=1)
    (root / "rows" / SUMS).unlink()
    return section, (root / "rows" / "manifest.json").read_bytes()


@fuzz(200)
@given(st.data())
def test_manifests(prepared, data):
    section, before = prepared
    path = os.path.join(section.prepared, "manifest.json")
    with open(path, "wb") as file:
        file.write(data.draw(one_of(before, json.loads(before))))
    told(read_manifest, section.prepared)
    told(open_prepared, section)
    told(open_prepared, section, held_out=True)


@fuzz(200)
@given(st.text(max_size=12) | st.sampled_from(["a/b", "..", "a/../b", "/none", "~none"]))
def test_names_on_the_hub(name):
    def refuse(*args, **keys):
        raise OSError("no\nnetwork")

    before, huggingface_hub.snapshot_download = huggingface_hub.snapshot_download, refuse
    try:
        told(hub.resolve, name, "model")
    finally:
        huggingface_hub.snapshot_download = before


@fuzz(100)
@given(st.lists(st.sampled_from([b'{"text": "a"}', b"{", b"[]", b"\xff", b'{"a": 1}']), max_size=6))
def test_bad_lines_are_counted(directory, lines):
    path = directory / "lines.jsonl"
    path.write_bytes(b"\n".join(lines))
    section = data_settings(path=str(path), bad_lines="skip", validation_path=str(path) + "2")
    shutil.copy(path, str(path) + "2")
    bad = BadLines(section)
    found = told(load_examples, section, bad)
    if not isinstance(found, str):
        assert bad.count == 2 * sum(line != b'{"text": "a"}' for line in lines)
