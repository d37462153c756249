"""Workdirs in a store, here file://: mirroring, resuming on another machine, sampling."""

import errno
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import store
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import METRICS
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.prepare import prepare
from elf_jax.data.text_files import find_files
from elf_jax.training import trainer
from tests.tiny import tiny_config, write_book

pytestmark = pytest.mark.usefixtures("share_programs")


@pytest.fixture
def url(tmp_path):
    url = f"file://{tmp_path}/bucket/run"
    yield url
    shutil.rmtree(store.mirror_of(url), ignore_errors=True)


def test_training_goes_on_from_the_store(url, tmp_path):
    config = tiny_config()
    trainer.train(config, store.fetch(url), until=3)
    bucket = tmp_path / "bucket" / "run"
    assert {"config.json", "tokenizer", "checkpoints", "dataset.json"} <= {
        path.name for path in bucket.iterdir()
    }
    assert not list(store.mirror_of(url).glob("checkpoints"))
    # Another machine has only the store, not the mirror.
    shutil.rmtree(store.mirror_of(url))
    mirror = store.fetch(url)
    assert store.location(mirror) == url
    training, done = trainer.train(config, mirror)
    state = training.run.state
    assert done and int(state.step) == 6
    store.send(mirror)
    lines = (bucket / METRICS).read_text().splitlines()
    assert len(lines) == 4  # steps 2, 3, 4 and 6: the log was continued
    params = load_trained(store.fetch(url)).params
    for ours, kept in zip(jax.tree.leaves(params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_the_remedy_for_a_changed_file_works(url, tmp_path):
    """The user changes a file in the store, and removes the checksums there."""
    trainer.train(tiny_config(), store.fetch(url), until=3)
    bucket = tmp_path / "bucket" / "run"
    config = (bucket / "config.json").read_text()
    (bucket / "config.json").write_text(config.replace('"log_every": 2', '"log_every": 3'))
    message = f"{url}/config.json has changed since .* or remove {url}/SHA256SUMS if you"
    with pytest.raises(UserError, match=message):
        read_config(store.fetch(url))
    (bucket / "SHA256SUMS").unlink()
    assert read_config(store.fetch(url)).train.log_every == 3


def test_an_upload_that_ends_too_soon_leaves_no_wrong_checksums(url, tmp_path, monkeypatch):
    mirror = store.fetch(url)
    trainer.train(tiny_config(), mirror, until=3)
    put, bucket = LocalFileSystem.put_file, tmp_path / "bucket" / "run"

    def failing(self, source, target, **keys):
        if str(target).endswith("dataset.json"):
            raise OSError(errno.EIO, "gone")
        return put(self, source, target, **keys)

    monkeypatch.setattr(LocalFileSystem, "put_file", failing)
    with pytest.raises(OSError, match="gone"):
        trainer.train(tiny_config(**{"train.log_every": 3}), mirror)
    monkeypatch.undo()
    assert not (bucket / "SHA256SUMS").exists()
    assert read_config(store.fetch(url)).train.log_every == 3


def test_a_local_workdir_is_left_alone(tmp_path):
    assert store.fetch(tmp_path) == tmp_path
    store.send(tmp_path)
    assert not list(tmp_path.iterdir()) and store.location(tmp_path) == str(tmp_path)


def test_a_store_that_is_not_there():
    for read in (store.fetch, store.copy):
        with pytest.raises(UserError, match="nosuch://bucket/run needs a library"):
            read("nosuch://bucket/run")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The directory for copies of a store's files."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    store.copy.cache_clear()
    return tmp_path / "cache" / "elf_jax"


def assert_same_rows(one, two):
    assert one.summary["fingerprint"] == two.summary["fingerprint"]
    assert len(one.train) == len(two.train) > 0
    batches = [make_iterator(dataset.train, 16, 0) for dataset in (one, two)]
    for _ in range(3):
        np.testing.assert_equal(*(next(iterator) for iterator in batches))


def test_text_in_a_store_is_that_on_a_disk(tmp_path, cache):
    bucket = tmp_path / "bucket"
    (bucket / "more").mkdir(parents=True)
    write_book(bucket / "a.txt", 30)
    write_book(bucket / "more" / "b.txt", 30, seed=1)
    write_book(bucket / "more" / "c.txt", 30, seed=2)
    names = ("a.txt", "m*/b.txt", "more/*.txt")  # the second and the third overlap
    paths = [",".join(f"{scheme}{bucket}/{name}" for name in names) for scheme in ("", "file://")]
    keys = {"data.kind": "text", "data.validation_fraction": 0.3}
    one, two = (
        load_dataset(tiny_config(**keys, **{"data.path": path}).data, tmp_path / "none")
        for path in paths
    )
    assert_same_rows(one, two)
    texts = [[pathlib.Path(file).read_text() for file in find_files(path)] for path in paths]
    assert texts[0] == texts[1] and len(texts[0]) == 3
    # Unchanged files are not copied again, and changed files are.
    times = {path: path.stat().st_mtime_ns for path in cache.rglob("*.txt")}
    assert len(times) == 4
    store.copy.cache_clear()
    find_files(paths[1])
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.txt")} == times
    (bucket / "a.txt").write_text((bucket / "a.txt").read_text()[::-1])  # of the same size
    store.copy.cache_clear()
    assert (bucket / "a.txt").read_text() in [
        pathlib.Path(path).read_text() for path in find_files(paths[1])
    ]
    with pytest.raises(UserError, match="no file matches 'file://.*none"):
        find_files(f"file://{bucket}/none*.txt")
    keys |= {"data.path": paths[1], "data.validation_path": f"file://{bucket}/more/b*"}
    with pytest.raises(UserError, match="file://.*more/b.txt is in config.data.path and in"):
        load_dataset(tiny_config(**keys).data, tmp_path / "none")


def test_a_full_disk_leaves_nothing_half_copied(tmp_path, cache, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def get_file(self, name, target):
        pathlib.Path(target).write_text("te")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "get_file", get_file)
    with pytest.raises(UserError, match="has no room for the files of file://.*set TMPDIR"):
        store.copy(f"file://{tmp_path}/a.txt")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_shards_in_a_store_are_those_on_a_disk(tmp_path, cache):
    keys = {
        "data.kind": "text",
        "data.path": str(write_book(tmp_path / "book.txt")),
        "data.validation_fraction": 0.3,
    }
    config = tiny_config(**keys, **{"data.prepared": str(tmp_path / "disk")})
    one = load_dataset(config.data, tmp_path / "none")
    shutil.copytree(tmp_path / "disk", tmp_path / "bucket")
    config.data.prepared = f"file://{tmp_path}/bucket"
    two = load_dataset(config.data, tmp_path / "none")
    assert_same_rows(one, two)
    assert list(cache.rglob("*.array_record")) and config.data.prepared.startswith("file://")
    config.data.prepared = f"file://{tmp_path}/nothing"
    for read in (
        lambda: load_dataset(config.data, tmp_path / "none"),
        lambda: prepare(config.data),
    ):
        with pytest.raises(
            UserError, match="no prepared data in file://.*then copy that directory"
        ):
            read()
