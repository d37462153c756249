"""Workdirs and data in a store, such as gs://bucket/run.

A workdir in a store has a mirror: a directory of this machine with all its files except the
checkpoints. The files are downloaded at the start and uploaded after every checkpoint, so the rest
of the code works with local files only. Orbax writes checkpoints into the store itself, from all
processes at once. Data is copied to every machine before it is read, because rows are read by
random access, which needs files. The store may be any that fsspec knows by the URL's scheme; gs://
needs `pip install -e '.[gcs]'`.
"""

import contextlib
import datetime
import errno
import functools
import glob
import hashlib
import json
import pathlib
import tempfile

from tqdm import tqdm

from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_scratch, write_text
from elf_jax.core.workdir import CHECKPOINTS, LOCK, STORE, SUMS

_SENT = {}  # (mirror, file) -> (time, size) when it was last sent or fetched


def is_url(path):
    """Whether a path is in a store, not on this machine."""
    return "://" in str(path)


def fetch(path):
    """The local directory of a workdir: itself, or for a URL its mirror, brought up to date.

    Raises:
      UserError: a file is there, the store cannot be read, or its library is not installed.
    """
    if not is_url(path):
        path = pathlib.Path(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"workdir {str(path)!r} is a file: name a directory")
        return path
    url, mirror = str(path).rstrip("/"), mirror_of(path)
    mirror.mkdir(parents=True, exist_ok=True)
    write_text(mirror / STORE, url)
    store, root = _open(url)
    with _reading(url):
        names = store.find(root) if store.exists(root) else []
    for found in names:
        inside = found[len(root) :].strip("/")
        if not {CHECKPOINTS, LOCK} & set(inside.split("/")):
            target = mirror / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with _reading(url):
                store.get_file(found, str(target))
            _SENT[mirror, inside] = _state(target)
    there = {found[len(root) :].strip("/") for found in names}
    for sums in mirror.rglob(SUMS):  # old checksums would be compared with new files
        if sums.relative_to(mirror).as_posix() not in there:
            sums.unlink()
    return mirror


def mirror_of(url):
    """The directory in which this process, on this machine, mirrors a workdir in a store."""
    url = str(url).rstrip("/")
    name = hashlib.sha256(f"{url} {processes.index()}".encode()).hexdigest()[:16]
    return pathlib.Path(tempfile.gettempdir()) / "elf_jax" / name


def send(workdir):
    """Uploads what has changed in a mirror to its store. Only process 0 does this.

    For a workdir of this machine there is nothing to do.
    """
    url = location(workdir)
    if not is_url(url) or not processes.is_first():
        return
    store, root = _open(url)
    files = [file for file in workdir.rglob("*") if file.is_file() and file.name != STORE]
    new = {}
    for file in files:
        inside = file.relative_to(workdir).as_posix()
        if _SENT.get((workdir, inside)) != _state(file):
            new[inside] = file
    # If the upload ends too soon, files have no checksums, and not wrong ones.
    sums = [inside for inside in new if pathlib.PurePosixPath(inside).name == SUMS]
    for inside in sums:
        remove(f"{url}/{inside}")
    for inside in sorted(new, key=lambda inside: (inside in sums, inside)):
        state = _state(new[inside])
        store.makedirs(f"{root}/{inside}".rsplit("/", 1)[0], exist_ok=True)
        store.put_file(str(new[inside]), f"{root}/{inside}")
        _SENT[workdir, inside] = state


@functools.cache
def copy(url):
    """Copies files from a store to this machine, once for each state of the files.

    When one of them changes in the store, all are copied again, into another directory. So a
    program that reads the old copies is not disturbed.

    Args:
      url: of a directory, a file, or a glob.

    Returns:
      (directory, {url: path of its copy}). In the directory the files have the same relative paths
      as in the store below `url`; of a glob, below its last part without wildcards. The dict is
      empty if nothing matches.

    Raises:
      UserError: the store cannot be read, its library is not installed, or the disk is full.
    """
    store, root = _open(url.rstrip("/"))
    with _reading(url):
        names = sorted(store.glob(root) if glob.has_magic(root) else store.find(root))
        files = {name: store.info(name) for name in names if store.isfile(name)}
    states = [[name, _remote_state(info)] for name, info in files.items()]
    digest = hashlib.sha256(json.dumps([url, states]).encode()).hexdigest()[:16]
    directory = pathlib.Path(tempfile.gettempdir()) / "elf_jax" / f"data-{digest}"
    base = root.rpartition("/")[0] if root in files else root
    while glob.has_magic(base):
        base = base.rpartition("/")[0]
    paths = {name: directory / name[len(base) :].strip("/") for name in files}
    with tqdm(paths.items(), f"copying {url}", disable=len(files) < 2) as bar:
        for name, path in bar:
            if not path.is_file():
                _copy_whole(store, name, path, url)
    return directory, {store.unstrip_protocol(name): str(path) for name, path in paths.items()}


def read(url):
    """The bytes of a small file in a store; None if there is no such file."""
    store, path = _open(url)
    store.invalidate_cache()
    try:
        return store.cat_file(path)
    except FileNotFoundError:
        return None


def write(url, data):
    """Writes bytes to a file in a store."""
    store, path = _open(url)
    store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    store.pipe_file(path, data)


def remove(url):
    """Removes a file in a store, if it is there."""
    store, path = _open(url)
    with contextlib.suppress(FileNotFoundError):
        store.rm_file(path)


def listing(url):
    """[(time of the last change in seconds, bytes, url)] of all files below a directory in a store.
    The time is 0 if the store does not tell it.
    """
    store, root = _open(url)
    files = store.find(root, detail=True)
    return [
        (_time(info), info["size"], store.unstrip_protocol(name)) for name, info in files.items()
    ]


def _time(info):
    """When a file in a store was changed. The stores' libraries have several names for it."""
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    told = next((info[name] for name in names if info.get(name)), 0.0)
    told = datetime.datetime.fromisoformat(told) if isinstance(told, str) else told
    return told.timestamp() if isinstance(told, datetime.datetime) else float(told)


def _copy_whole(store, name, path, url):
    """Copies one file, whole or not at all."""
    with open_scratch(path) as scratch, _reading(url):
        store.get_file(name, str(scratch))


def _remote_state(info):
    """The size of a file in a store, and a version or time that changes when the file changes."""
    told = (info.get(key) for key in ("etag", "generation", "ETag", "mtime", "LastModified"))
    return [info["size"], next((str(value) for value in told if value), "")]


@contextlib.contextmanager
def _reading(url):
    """Turns all errors of a store's library into a UserError."""
    try:
        yield
    except Exception as error:  # the stores' libraries share no other class of errors
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(
                f"{tempfile.gettempdir()} has no room for the files of {url}: set TMPDIR to a "
                "directory on a larger disk"
            ) from None
        raise UserError(
            f"{url} cannot be read ({' '.join(str(error).split())[:160]}): check the name, the "
            "network and the rights of this machine"
        ) from None


def location(workdir):
    """The true place of a directory, as text: its URL if it is a mirror or inside one, else its
    own path.
    """
    workdir = pathlib.Path(workdir)
    for directory in (workdir, *workdir.parents):
        mark = directory / STORE
        if mark.is_file():
            inside = workdir.relative_to(directory).as_posix()
            url = mark.read_text(encoding="utf-8")
            return url if inside == "." else f"{url}/{inside}"
    return str(workdir)


def _state(file):
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _open(url):
    import fsspec  # here, because few workdirs are in a store

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url} needs a library that is not installed ({' '.join(str(error).split())[:120]}): "
            "for gs:// run pip install -e '.[gcs]'"
        ) from None
