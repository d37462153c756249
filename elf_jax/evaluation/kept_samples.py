"""Protocols, and the samples that they ask for: made once, kept, and found again.

A protocol is a name and settings of the config section `sample`. Its samples of one seed are a file
of JSON lines in WORKDIR/samples, named after all that they depend on, with a record beside it.
"""

import dataclasses
import datetime
import json
import pathlib

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from elf_jax.checkpoints.weights import fingerprint
from elf_jax.core import config, processes
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_text, write_json
from elf_jax.data.tokenizer import decode
from elf_jax.evaluation.records import digest, surroundings
from elf_jax.generation.generate import SCALES, check_settings, generate, jit_sampler

DIRECTORY = "samples"  # in the workdir
# What a protocol may set. Not the weights: they are loaded once.
SETTINGS = ("sampler", "steps", "gamma", "guidance_scale", "cfg_scale", "time_grid")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A name, and the section `sample` that belongs to it."""

    name: str
    sample: ml_collections.ConfigDict

    def settings(self):
        """What of the section makes a difference; gamma is that of the sampler."""
        gamma = self.sample.gamma if self.sample.sampler == "sde" else 0.0
        return {name: self.sample[name] for name in SETTINGS} | {"gamma": gamma}


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of one protocol and seed.

    Attributes:
      texts: N strings. tokens: N lists of token ids. file: name of the file that keeps them.
      made_with: dict, what they depend on. provenance: that and how they came about.
    """

    texts: list[str]
    tokens: list[list[int]]
    file: str
    made_with: dict
    provenance: dict


def parse_protocols(text, sample):
    """The protocols that a config names.

    Args:
      text: "NAME: KEY=VALUE, KEY=VALUE; NAME: ..."; a name alone is the section as it is.
      sample: config section `sample`, which gives all keys that a protocol does not.

    Returns:
      List of `Protocol`.

    Raises:
      UserError: not of this form, a name twice, or a setting that cannot be.
    """
    protocols = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, pairs = (piece.strip() for piece in part.partition(":"))
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(
                f"config.evaluate.protocols has {part!r}; write NAME: KEY=VALUE, KEY=VALUE; ..."
            )
        pairs = (pair.partition("=") for pair in pairs.split(",") if pair.strip())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        protocols.append(make_protocol(name, sample, values))
    names = [protocol.name for protocol in protocols]
    if not names or len(set(names)) < len(names):
        given = f"the names {', '.join(names)}" if names else "no name"
        raise UserError(f"config.evaluate.protocols has {given}: name each protocol, and once")
    return protocols


def make_protocol(name, sample, values):
    """The `Protocol` of a section `sample` with other values for some keys, given as strings.

    Raises:
      UserError: a key that a protocol does not set, or a value that cannot be.
    """
    sample = ml_collections.ConfigDict(sample.to_dict())
    for key, value in values.items():
        if key not in SETTINGS:
            raise UserError(
                f"protocol {name!r} sets {key!r}; a protocol sets {', '.join(SETTINGS)}"
            )
        kind = type(sample[key])
        try:
            config.update(sample, {key: kind(value)})
        except ValueError:
            raise UserError(f"protocol {name!r} sets {key}={value}: give a number") from None
    check_settings(sample)
    return Protocol(name, sample)


def check_count(count, conditional, name):
    """Raises UserError for a number of samples that cannot be."""
    if count < (0 if conditional else 1):
        reason = "1 or more" if not conditional else "1 or more, or 0 for the whole split"
        raise UserError(f"{name} is {count}; use {reason}")


class Sampling:
    """Makes samples of a trained model, or finds them in the workdir.

    All processes call together; files are read and written by the first one, and all get the same.

    Args:
      trained: a `Trained` model. dataset: its `Dataset`.
      workdir: where the samples are kept, in `samples/`.
    """

    def __init__(self, trained, dataset, workdir):
        self.trained, self.dataset = trained, dataset
        self.directory = pathlib.Path(workdir) / DIRECTORY
        self.weights = fingerprint(trained.params)
        self.programs = {}

    def count(self, wanted):
        """How many samples: `wanted`, of pairs at most as many as are held out (0: all)."""
        held_out = len(self.dataset.validation)
        return min(wanted or held_out, held_out) if self.dataset.conditional else wanted

    def samples(self, protocol, seed, count, pairs=None):
        """`count` samples of a protocol with a seed.

        Args:
          protocol: a `Protocol`. seed: of all their randomness. count: how many.
          pairs: of a conditional model, the (source, reference) of each, to be kept beside it.

        Returns:
          A `Samples`.
        """
        made_with = self._made_with(protocol, seed, count)
        key = digest(made_with)[:8]
        file = f"{protocol.name}-seed{seed}-step{self.trained.step}-{key}.jsonl"
        found = processes.share(self._read(file, count))
        if found is None:
            found = self._make(protocol, seed, count)
            provenance = {**made_with, "checkpoint": self.trained.source, **surroundings()}
            provenance["sampled"] = now()
            found["provenance"] = provenance
            self._write(file, found, pairs)
        return Samples(found["texts"], found["tokens"], file, made_with, found["provenance"])

    def _made_with(self, protocol, seed, count):
        model, config = self.trained.model.predictor, self.trained.config
        laws = ("noise_scale", "time_mean", "time_std", "t_eps")
        made_with = {
            "step": self.trained.step,
            "weights": protocol.sample.weights,
            "weights_fingerprint": self.weights,
            **protocol.settings(),
            "seed": seed,
            "n": count,
            "length": config.data.length,
            **{name: config.objective[name] for name in laws},
            "compute_dtype": np.dtype(model.network.dtype).name,
        }
        if self.dataset.conditional:
            made_with["data"] = self.dataset.report["fingerprint"]
        return made_with

    def _make(self, protocol, seed, count):
        config = self.trained.config.copy_and_resolve_references()
        config.sample = protocol.sample
        trained = dataclasses.replace(self.trained, config=config)
        # A program holds for all values of the scales, but whether there is CFG makes another.
        made = protocol.settings()
        kind = (*(made[name] for name in SETTINGS if name not in SCALES), made["cfg_scale"] == 1)
        run = self.programs.setdefault(kind, jit_sampler(trained))
        rows = self.dataset.validation if self.dataset.conditional else None
        label = f"sampling {protocol.name}, seed {seed}"
        with tqdm(total=count, desc=label, unit="text", dynamic_ncols=True) as bar:
            tokens = generate(trained, count, seed, rows, bar.update, run)
        texts = decode(trained.tokenizer, tokens)
        return {"texts": texts, "tokens": [row.tolist() for row in tokens]}

    def _read(self, file, count):
        """What is in a file of samples; None if it is not there, or not whole."""
        path = self.directory / file
        if jax.process_index() or not path.is_file() or not record_of(path).is_file():
            return None
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        if len(rows) != count:
            return None
        return {
            "texts": [row["text"] for row in rows],
            "tokens": [row["tokens"] for row in rows],
            "provenance": json.loads(record_of(path).read_text(encoding="utf-8")),
        }

    def _write(self, file, found, pairs):
        if jax.process_index():
            return
        path = self.directory / file
        write_json(record_of(path), found["provenance"])
        with open_text(path) as out:
            for index, (text, tokens) in enumerate(
                zip(found["texts"], found["tokens"], strict=True)
            ):
                line = {"text": text, "tokens": tokens}
                if pairs is not None:
                    source, reference = pairs[index]
                    line = {"source": source, "reference": reference, **line}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")


def record_of(path):
    """The file beside a file of samples that says how they came about."""
    return path.with_suffix(".json")


def now():
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
