"""Compiled programs are kept for the next start: JAX's persistent compilation cache.

They are kept in a directory of the user's cache, one for each kind of processor, because a program
for a CPU uses the instructions of the processor that it was compiled on, and a home directory may
be shared by machines that do not have them. For a workdir in a store, which may outlive this
machine, they are kept in the store, beside the workdir.

JAX's own variables change this: JAX_COMPILATION_CACHE_DIR names another directory, and
JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Programs that cannot be kept or read are compiled
again. That is never an error.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import shutil
import sys
import threading
import time
import warnings
import zlib

from elf_jax.core import processes, store

FOLDER = "compiled"  # its name, in the user's cache and beside a workdir in a store
LIMIT = 2 * 10**9  # bytes that are kept, of all processors together
ROOM = 10**8  # bytes that must be free on the disk
LONG = 10.0  # seconds of a compilation after which a line says that it is going on
SETTLED = 60.0  # seconds after which nobody writes a file any more
CHECKED = "checked"  # a file; what is older than it is whole
STORES = ("gs://", "s3://", "az://")  # where JAX can keep programs
ZSTD = b"\x28\xb5\x2f\xfd"  # the first bytes of what Zstandard has compressed
MIN_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_COMPILING = "/jax/core/compile/backend_compile_duration"  # JAX's name of a compilation
_STARTED = threading.Lock()  # held by the first call of `turn_on`


def turn_on(workdir=None):
    """Keeps the programs of this process, and lets it use those that are kept. The first call in a
    process counts. Call it before the first long compilation.

    Args:
      workdir: path or URL of the workdir, or None.
    """
    import jax  # here, because the command line imports this module to answer --help

    if not _STARTED.acquire(blocking=False):
        return
    announce_long_compilations(LONG)
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    # JAX warns once for each program, and a full disk has a warning for all of them.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    directory = _in_store(workdir) or _in_user_cache()
    if directory is None:
        return
    jax.config.update("jax_compilation_cache_dir", directory)
    if not store.is_url(directory) and MIN_SECONDS not in os.environ:
        # Most programs are small. Together they take seconds to compile, and little room.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if processes.is_first():
        threading.Thread(target=tidy, args=(directory,), daemon=True).start()


def user_cache(environ=os.environ):
    """The directory of this user's cached files by the rules of the system, a `Path`."""
    given = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return pathlib.Path(given) / "elf-jax"
    if sys.platform == "win32" and environ.get("LOCALAPPDATA"):
        return pathlib.Path(environ["LOCALAPPDATA"]) / "elf-jax" / "cache"
    home = pathlib.Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "elf-jax"


def processor(text=None):
    """A name for the instructions that the processor of this machine has, such as x86_64-3f2a91c0.

    Args:
      text: what Linux says about the processor. None: it is read.
    """
    if text is None:
        try:
            text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:  # not Linux
            text = f"flags: {platform.processor()}"
    named = (line.partition(":") for line in text.splitlines())
    found = {value for name, _, value in named if name.strip() in ("flags", "Features")}
    instructions = sorted({one for value in found for one in value.split()})
    digest = hashlib.sha256(" ".join(instructions).encode()).hexdigest()[:8]
    return f"{platform.machine() or 'cpu'}-{digest}"


def _in_store(workdir):
    """The URL of the directory for a workdir in a store; None if it is not in one."""
    url = str(workdir or "").rstrip("/")
    if not url.startswith(STORES) or url.count("/") < 3:  # a whole bucket has nothing beside it
        return None
    return f"{url.rpartition('/')[0]}/{FOLDER}/{processor()}"


def _in_user_cache():
    """The path of the directory on this machine, which exists; None if nothing can be kept."""
    try:
        directory = user_cache() / FOLDER / processor()
        # A program is run as it is read. So nobody else may write here.
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = directory / f"probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return _say_not_kept(f"{error.filename}: {error.strerror}")
    except RuntimeError as error:  # there is no home directory
        return _say_not_kept(error)
    return str(directory) if free >= ROOM else _say_not_kept(f"the disk of {directory} is full")


def _say_not_kept(reason):
    if processes.is_first():
        remedy = "JAX_COMPILATION_CACHE_DIR=DIR names another directory for them"
        print(f"note: compiled programs are not kept ({reason}): {remedy}", file=sys.stderr)


def tidy(directory, limit=LIMIT):
    """Removes what was left half written, and then the programs that were not used for the longest
    time, until the others take no more than `limit` bytes. What fails is left for the next time.

    Args:
      directory: path or URL of a processor's directory. The limit is for all processors, whose
        directories are beside it.
    """
    with contextlib.suppress(Exception):  # of a disk or a store; another process may tidy, too
        if store.is_url(directory):
            files, remove = store.listing(directory.rpartition("/")[0]), store.remove
        else:
            _remove_damaged(pathlib.Path(directory))
            files, remove = _listing(pathlib.Path(directory).parent), os.unlink
        total = sum(size for _, size, _ in files)
        for _, size, name in sorted(files):
            if total <= limit:
                break
            remove(name)
            total -= size


def _listing(directory):
    """[(time of the last use, bytes, path)] of all files below a directory."""
    found = ((path, path.stat()) for path in directory.rglob("*") if path.is_file())
    return [(max(one.st_atime, one.st_mtime), one.st_size, str(path)) for path, one in found]


def _remove_damaged(directory):
    """Removes new files that are not whole, because a disk was full or a program was killed. JAX
    would never replace them.
    """
    mark, until = directory / CHECKED, time.time() - SETTLED
    since = mark.stat().st_mtime if mark.exists() else 0.0
    for path in directory.glob("*-cache"):
        before = path.stat()
        if not since <= before.st_mtime < until:
            continue
        if _is_whole(path.read_bytes()):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # this was no use of it
        else:
            path.unlink()
    mark.touch()
    os.utime(mark, (until, until))


def _is_whole(data):
    """Whether the bytes are of a file that JAX has written completely."""
    decompress, error = zlib.decompress, zlib.error
    if data.startswith(ZSTD):
        try:
            import zstandard  # JAX uses it where it is installed
        except ImportError:
            return True
        decompress, error = zstandard.ZstdDecompressor().decompress, zstandard.ZstdError
    try:
        decompress(data)
    except error:
        return False
    return True


def announce_long_compilations(seconds):
    """Lets a line on standard error say when a compilation takes longer than so many seconds. The
    first process says it, once for each compilation.
    """
    import jax

    running = {}  # {thread: its timer}

    def begin(event, _, **about):
        if event == _COMPILING:
            end(event, 0.0)
            timer = threading.Timer(seconds, _announce, (seconds, about.get("fun_name", "")))
            timer.daemon = True
            running[threading.get_ident()] = timer
            timer.start()

    def end(event, _, **about):
        del about
        timer = running.pop(threading.get_ident(), None) if event == _COMPILING else None
        if timer is not None:
            timer.cancel()

    jax.monitoring.register_scalar_listener(begin)
    jax.monitoring.register_event_duration_secs_listener(end)


def _announce(seconds, name):
    import jax
    from tqdm import tqdm

    if not processes.is_first() or sys.stderr is None:
        return
    config = jax.config
    kept = config.jax_enable_compilation_cache and config.jax_compilation_cache_dir
    then = ", and the next start will find the program compiled" if kept else ""
    # Around a progress bar, not into it.
    line = f"compiling {name or 'a program'} has taken {seconds:.0f} s and goes on{then}"
    tqdm.write(line, file=sys.stderr)
