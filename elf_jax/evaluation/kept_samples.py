"""Samples of a protocol and a seed, and held-out texts that it filled in: made once, kept in the
workdir, and read from there later.

They are a file of JSON lines in WORKDIR/samples. A second file beside it says how they were made. A
hash of everything that the samples depend on is part of the name.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from elf_jax.checkpoints.weights import fingerprint
from elf_jax.core import processes
from elf_jax.core.checksums import file_sha256
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_text, read_json, write_json
from elf_jax.core.workdir import SAMPLES
from elf_jax.data.tokenizer import decode
from elf_jax.evaluation.hidden import Hidden
from elf_jax.evaluation.protocols import effective
from elf_jax.evaluation.records import CHECK, digest, environment, now
from elf_jax.generation.generate import generate, jit_sampler, whole_rows

SHA256 = "sha256"  # of the file with the samples, in the one that says how they were made


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of one protocol and seed.

    Attributes:
      texts: N strings. tokens: N lists of token ids; of texts that were filled in, those that were
        written. file: name of the file that keeps them.
      made_with: dict of what they depend on. provenance: that, the checkpoint, the environment and
        the time.
    """

    texts: list[str]
    tokens: list[list[int]]
    file: str
    made_with: dict
    provenance: dict


class KeptSamples:
    """Makes samples of a trained model, or reads them from the workdir.

    All processes must call the methods together, and all get the same samples. Only the first
    process reads and writes files.

    Args:
      trained: a `TrainedModel`. dataset: its `Dataset`.
      workdir: where the samples are kept, in `samples/`.
    """

    def __init__(self, trained, dataset, workdir):
        self.trained, self.dataset = trained, dataset
        self.directory = pathlib.Path(workdir) / SAMPLES
        self.weights = fingerprint(trained.params)
        self.programs = {}

    def count(self, wanted):
        """How many samples to make: `wanted`. For pairs 0 means all held-out pairs, and there are
        never more samples than these.
        """
        held_out = len(self.dataset.validation)
        return min(wanted or held_out, held_out) if self.dataset.conditional else wanted

    def get(self, protocol, seed, count, pairs=None):
        """`count` samples of a protocol with a seed.

        Args:
          protocol: a `Protocol`. seed: of all their randomness. count: how many.
          pairs: for a conditional model, the (source, reference) of each, kept with the samples.

        Returns:
          A `Samples`.
        """
        made_with = self._made_with(protocol, seed, count)
        if self.dataset.conditional:
            made_with["data"] = self.dataset.summary["fingerprint"]

        def make(trained, program, progress):
            rows = self.dataset.validation if self.dataset.conditional else None
            tokens = generate(trained, count, seed, rows, progress, program)
            return {"texts": decode(trained.tokenizer, tokens), "tokens": _lists(tokens)}

        def columns(found):
            del found
            if pairs is None:
                return {}
            return dict(zip(("source", "reference"), zip(*pairs, strict=True), strict=True))

        return self._once(protocol, seed, made_with, protocol.name, make, columns)

    def fill(self, protocol, seed, hidden: Hidden):
        """The texts of a `Hidden`, filled in with a protocol and a seed.

        Returns:
          A `Samples`: the whole texts, and the tokens that were written in the gaps. In its file
          each text has its `template`, where a gap of n tokens is [[n]], and what was `hidden` and
          `written` there.
        """
        made_with = self._made_with(protocol, seed, len(hidden))
        made_with |= {"infill": hidden.name, "hidden": hidden.fingerprint}
        made_with["data"] = self.dataset.summary["fingerprint"]

        def make(trained, program, progress):
            rows = whole_rows(trained, hidden.template(), seed, progress, program)
            texts = hidden.whole_texts(trained.tokenizer, rows)
            return {"texts": texts, "tokens": _lists(hidden.gaps(rows))}

        def columns(found):
            tokenizer = self.trained.tokenizer
            return {
                "template": hidden.templates(tokenizer),
                "hidden": decode(tokenizer, hidden.gaps(hidden.tokens)),
                "written": decode(tokenizer, found["tokens"]),
            }

        label = f"{protocol.name}-{hidden.name}"
        return self._once(protocol, seed, made_with, label, make, columns)

    def _once(self, protocol, seed, made_with, label, make, columns):
        """The `Samples` that were made with `made_with`, read, or made and kept.

        Args:
          label: the start of the file's name.
          make: function (`TrainedModel`, its `jit_sampler`, progress) -> {"texts", "tokens"}.
          columns: function (the result of `make`) -> {name: N strings} of what is kept beside it.
        """
        key = digest(made_with)[:8]
        found = processes.share(self._read(key, made_with["n"]))
        if found is None:
            found = self._make(protocol, seed, made_with["n"], label, make)
            provenance = {**made_with, "checkpoint": self.trained.origin, **environment()}
            found["provenance"] = {**provenance, "sampled": now()}
            found["file"] = f"{label}-seed{seed}-step{self.trained.step}-{key}.jsonl"
            self._write(found, columns(found))
        return Samples(made_with=made_with, **found)

    def _made_with(self, protocol, seed, count):
        method, config = self.trained.method, self.trained.config
        return {
            "step": self.trained.step,
            "weights": protocol.sample.weights,
            "weights_fingerprint": self.weights,
            **effective(method, protocol.sample),
            "seed": seed,
            "n": count,
            "length": config.data.length,
            **method.constants(),
            "compute_dtype": np.dtype(method.dtype).name,
        }

    def _make(self, protocol, seed, count, label, make):
        trained, program = self.trained.with_settings(protocol.sample), self.program(protocol)
        hidden = jax.process_index() != 0
        text = f"sampling {label}, seed {seed}"
        with tqdm(total=count, desc=text, unit="text", dynamic_ncols=True, disable=hidden) as bar:
            return make(trained, program, bar.update)

    def program(self, protocol):
        """The `jit_sampler` of a protocol. Protocols that need the same program share it."""
        needs = self.trained.method.compiled_for(protocol.sample)
        if needs not in self.programs:
            self.programs[needs] = jit_sampler(self.trained.with_settings(protocol.sample))
        return self.programs[needs]

    def _read(self, key, count):
        """The samples that are kept under a key; None if they are not there, not complete or
        damaged: then they are made again.
        """
        if jax.process_index():
            return None
        for path in sorted(self.directory.glob(f"*-{key}.jsonl")):
            if not provenance_path(path).is_file():
                continue
            try:
                found = _read_samples(path)
            except (UserError, ValueError, KeyError, TypeError, RecursionError):
                print(f"{path} is damaged: the samples are made again", flush=True)
                continue
            if len(found["texts"]) == count:
                return found
        return None

    def _write(self, found, columns):
        if jax.process_index():
            return
        path = self.directory / found["file"]
        columns = {**columns, "text": found["texts"], "tokens": found["tokens"]}
        with open_text(path) as out:
            for values in zip(*columns.values(), strict=True):
                line = dict(zip(columns, values, strict=True))
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        # Last, because it has the checksum of the samples, and without it they are not used.
        content = {**found["provenance"], SHA256: file_sha256(path)}
        write_json(provenance_path(path), {**content, CHECK: digest(content)})


def _read_samples(path):
    """The samples in a file.

    Raises:
      UserError, ValueError, KeyError, TypeError, RecursionError: the file or the one beside it is
        damaged.
    """
    provenance = read_json(provenance_path(path))
    check, sums = provenance.pop(CHECK, None), digest(provenance)
    if check not in (None, sums) or provenance.pop(SHA256, file_sha256(path)) != file_sha256(path):
        raise ValueError  # those of version 0.2 have neither
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if not all(isinstance(row["text"], str) and _are_ids(row["tokens"]) for row in rows):
        raise ValueError
    return {
        "texts": [row["text"] for row in rows],
        "tokens": [row["tokens"] for row in rows],
        "provenance": provenance,
        "file": path.name,
    }


def _are_ids(tokens):
    return isinstance(tokens, list) and all(isinstance(token, int) for token in tokens)


def _lists(rows):
    return [row.tolist() for row in rows]


def provenance_path(path):
    """The path of the file that says how a file of samples was made."""
    return path.with_suffix(".json")
