"""Samples of a protocol and a seed: made once, kept in the workdir, and read from there later.

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
from elf_jax.evaluation.records import CHECK, digest, environment, now
from elf_jax.generation.generate import generate, jit_sampler

SHA256 = "sha256"  # of the file with the samples, in the one that says how they were made


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of one protocol and seed.

    Attributes:
      texts: N strings. tokens: N lists of token ids. file: name of the file that keeps them.
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
        key = digest(made_with)[:8]
        found = processes.share(self._read(key, count))
        if found is None:
            found = self._make(protocol, seed, count)
            provenance = {**made_with, "checkpoint": self.trained.origin, **environment()}
            found["provenance"] = {**provenance, "sampled": now()}
            found["file"] = f"{protocol.name}-seed{seed}-step{self.trained.step}-{key}.jsonl"
            self._write(found, pairs)
        return Samples(made_with=made_with, **found)

    def _made_with(self, protocol, seed, count):
        method, config = self.trained.method, self.trained.config
        made_with = {
            "step": self.trained.step,
            "weights": protocol.sample.weights,
            "weights_fingerprint": self.weights,
            **method.effective(protocol.sample),
            "seed": seed,
            "n": count,
            "length": config.data.length,
            **method.constants(),
            "compute_dtype": np.dtype(method.dtype).name,
        }
        if self.dataset.conditional:
            made_with["data"] = self.dataset.summary["fingerprint"]
        return made_with

    def _make(self, protocol, seed, count):
        trained = self.trained.with_settings(protocol.sample)
        rows = self.dataset.validation if self.dataset.conditional else None
        label = f"sampling {protocol.name}, seed {seed}"
        hidden = jax.process_index() != 0
        with tqdm(total=count, desc=label, unit="text", dynamic_ncols=True, disable=hidden) as bar:
            tokens = generate(trained, count, seed, rows, bar.update, self.program(protocol))
        texts = decode(trained.tokenizer, tokens)
        return {"texts": texts, "tokens": [row.tolist() for row in tokens]}

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

    def _write(self, found, pairs):
        if jax.process_index():
            return
        path = self.directory / found["file"]
        lines = zip(found["texts"], found["tokens"], strict=True)
        with open_text(path) as out:
            for index, (text, tokens) in enumerate(lines):
                line = {"text": text, "tokens": tokens}
                if pairs is not None:
                    source, reference = pairs[index]
                    line = {"source": source, "reference": reference, **line}
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


def provenance_path(path):
    """The path of the file that says how a file of samples was made."""
    return path.with_suffix(".json")
