"""A small tree with every kind of file that this package writes, damage to a file, and the modes
that read it. For `test_damage.py`.
"""

import contextlib
import io
import json
import pathlib
import random
import shutil

from elf_jax import commands
from elf_jax.checkpoints.rounds import rounds_of
from elf_jax.core import config as config_module
from elf_jax.core.checksums import file_sha256
from elf_jax.core.errors import UserError, explain
from elf_jax.data import prepare
from elf_jax.training import distill
from tests.shared_programs import shared_programs
from tests.tiny import pairs_config, tiny_config, write_pairs

TEXT = {
    "encoder.kind": "cooccurrence",
    "optimizer.name": "adamw",
    "train.duration.steps": 2,
    "train.checkpoint_every": 1,
    "evaluate.num_samples": 3,
    "evaluate.seeds": 1,
    "sweep.steps": (2,),
    "sweep.gamma": (),
    "sweep.guidance_scale": (1.0, 2.0),
    "sweep.num_samples": 2,
    "scorer.path": "",
    "scorer.depth": 1,
    "scorer.width": 8,
    "scorer.heads": 2,
    "scorer.steps": 1,
    "scorer.batch_size": 8,
    "scorer.warmup_steps": 0,
}
PAIRS = {
    "optimizer.name": "adamw",
    "data.prepared": "prepared",
    "train.duration.steps": 1,
    "evaluate.num_samples": 3,
    "evaluate.seeds": 1,
    "pretrain.width": 8,
    "pretrain.depth": 1,
    "pretrain.decoder_depth": 1,
    "pretrain.heads": 2,
    "pretrain.head_width": 4,
    "pretrain.hidden": 8,
    "pretrain.batch_size": 8,
    "pretrain.duration.steps": 1,
    "pretrain.optimizer.warmup.steps": 0,
    "pretrain.validation_batches": 1,
}
FEW = {
    "distill.steps": (2, 1),
    "distill.duration.epochs": 0.0,
    "distill.duration.steps": 1,
    "distill.warmup.epochs": 0.0,
}
SOURCES = ["abc", "", "fed"]


def build(root):
    """Makes the tree: real trainings of few steps, and everything that is made with their models.

    All paths in the tree are relative to `root`, so that copies of it can be used.
    """
    root.mkdir(parents=True)
    with contextlib.chdir(root), silent():
        # Other rows, so that its embedding is another one than would be made from those of run.
        other = {"data.validation_fraction": 0.3, "train.duration.steps": 1}
        commands.train(tiny_config(**{**TEXT, **other}), "base")
        commands.train(tiny_config(**TEXT, **{"train.samples": 1}), "run", checkpoint="base")
        commands.train_scorer("run")
        commands.evaluate("run")
        commands.sweep("run")
        commands.export("run")
        distill_on("base", until=(1, 0))
        write_pairs(pathlib.Path("pairs.jsonl"))
        config = pairs_config("pairs.jsonl", **PAIRS)
        commands.pretrain_encoder(config, "t5")
        shutil.rmtree("prepared")  # with the tokenizer before the encoder's tokens were added
        t5 = "t5/encoder"
        keys = {"encoder.kind": "t5", "encoder.path": t5, "data.tokenizer": t5}
        config_module.update(config, keys)
        commands.train(config, "pairs")
        commands.export("pairs", output="exported")
        _leave_unfinished(config)


def distill_on(teacher=None, until=None):
    """Distils base to few/, or goes on with it. until: see `training.distill.distill`."""
    origin = distill.teacher_origin("few", teacher)
    config = config_module.read_config("base")
    config_module.update(config, FEW)
    return distill.distill(config, "few", origin, until)


def _leave_unfinished(config):
    """Makes half/, a prepared directory whose preparation was interrupted at its end."""
    config.data.prepared, make_manifest = "half", prepare.make_manifest

    def interrupt(*args):
        raise KeyboardInterrupt

    prepare.make_manifest = interrupt
    with contextlib.suppress(UserError):
        commands.prepare(config)
    prepare.make_manifest = make_manifest


@contextlib.contextmanager
def silent():
    """Drops what is printed in the block."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _resume(workdir):
    """Goes on for one step; returns the checksums of the state after it."""
    config = config_module.read_config(workdir)
    config.train.duration.steps += 1
    commands.train(config, workdir)
    last = pathlib.Path(workdir, "checkpoints", str(config.train.duration.steps))
    sums = json.loads((last / "checksums" / "metadata").read_text())
    return {name: sums[name] for name in ("state", "data")}


def _export(workdir):
    out = commands.export(workdir, output="out")
    files = (path for path in out.rglob("*") if path.is_file())
    # The card quotes evaluation.json, which is an output for reading.
    names = {path.relative_to(out).as_posix(): path for path in files}
    kept = {name: file_sha256(path) for name, path in names.items()}
    return {name: one for name, one in kept.items() if name not in ("README.md", "SHA256SUMS")}


def _again():
    """The evaluation of kept samples, without the numbers that are there already."""
    pathlib.Path("run/evaluation.jsonl").unlink()
    return commands.evaluate("run")


def _sweep():
    result = commands.sweep("run")
    del result["provenance"]["date"]
    return result


def _distill():
    """Carries out the rounds that are missing."""
    distill_on()
    return [(one.steps, one.trained, one.fingerprint) for one in rounds_of("few")]


def _prepare(directory):
    config = config_module.read_config("pairs")
    config.data.prepared = directory
    return commands.prepare(config)


# What a mode gives, as plain values that can be compared.
MODES = {
    "sample": lambda: list(commands.samples("run")),
    "evaluate": lambda: commands.evaluate("run"),
    "again": _again,
    "sweep": _sweep,
    "export": lambda: _export("run"),
    "resume": lambda: _resume("run"),
    "sample the export": lambda: list(commands.samples(checkpoint="run/export")),
    "sample the student": lambda: list(commands.samples("few", steps=2)),
    "distill the rest": _distill,
    "sample pairs": lambda: list(commands.samples("pairs")),
    "resume pairs": lambda: _resume("pairs"),
    "answer by the export": lambda: list(commands.samples(checkpoint="exported", source=SOURCES)),
    "prepare": lambda: _prepare("prepared"),
    "prepare the rest": lambda: _prepare("half"),
}
# What a mode writes to. The other modes only read.
WRITES = {
    "evaluate": "run",
    "again": "run",
    "sweep": "run",
    "resume": "run",
    "export": "out",
    "distill the rest": "few",
    "resume pairs": "pairs",
    "prepare": "prepared",
    "prepare the rest": "half",
}


class Told(str):
    """The message of an error that the user must mend."""


def flip(data, draw):
    """The data with one other bit."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def truncate(data, draw):
    """The beginning of the data."""
    return data[: draw.randrange(len(data))]


def remove(data, draw):
    """None: the file is missing."""
    del data, draw


class Place:
    """A copy of the tree to damage. After each mode it is whole again.

    Args:
      origin: the tree of `build`. root: where the copy goes.

    Attributes:
      whole: {mode: what it gives without damage}. found: what the last mode gave.
    """

    def __init__(self, origin, root):
        self.origin, self.root, self.whole, self.found = origin, root, {}, None
        shutil.copytree(origin, root)

    def files(self, pattern):
        """The names of the files that match a pattern, sorted. An empty file cannot be damaged."""
        files = (path for path in sorted(self.origin.glob(pattern)) if path.is_file())
        return [str(path.relative_to(self.origin)) for path in files if path.stat().st_size]

    def read(self, name):
        """The undamaged bytes of a file."""
        return (self.origin / name).read_bytes()

    def outcome(self, mode):
        """What a mode gives: its result, or a `Told`. Any other error is raised."""
        try:
            with contextlib.chdir(self.root), silent(), shared_programs():
                return MODES[mode]()
        except Exception as error:
            told = str(error) if isinstance(error, UserError) else explain(error)
            if told is None:
                raise
            return Told(told)
        finally:
            if mode in WRITES:
                self._copy_again(WRITES[mode])

    def fault(self, mode, changes):
        """What is wrong with a mode after changes of files, as text, or None.

        Args:
          changes: {name of a file: its bytes, or None if it is missing}.
        """
        if mode not in self.whole:
            self.whole[mode] = self.outcome(mode)
            assert not isinstance(self.whole[mode], Told), (mode, self.whole[mode])
        for name, data in changes.items():
            (self.root / name).unlink()
            if data is not None:
                (self.root / name).write_bytes(data)
        try:
            found = self.found = self.outcome(mode)
        except Exception as error:
            return f"a bug: {type(error).__name__}: {error}"
        finally:
            for name in changes:
                shutil.copyfile(self.origin / name, self.root / name)
        if isinstance(found, Told):
            return None if len(found.splitlines()) == 1 else f"not one line: {found!r}"
        return None if found == self.whole[mode] else f"another result: {found}"

    def _copy_again(self, name):
        shutil.rmtree(self.root / name, ignore_errors=True)
        if (self.origin / name).exists():
            shutil.copytree(self.origin / name, self.root / name)


def faults(place, names, modes, damage, seed=""):
    """Damages files one after the other and carries out modes; a list of lines about what is wrong.

    Args:
      names: of the files. modes: names from MODES. damage: functions such as `flip`.
      seed: of the places that are damaged.
    """
    lines = []
    for name in names:
        data = place.read(name)
        for change in damage:
            draw = random.Random(f"{seed} {name} {change.__name__}")
            changed = {name: change(data, draw)}
            for mode in modes:
                fault = place.fault(mode, changed)
                if fault:
                    lines.append(f"{name}, {change.__name__}, {mode}: {fault}")
    return lines
