"""One process of a job, for test_processes.py: trains, stops, resumes, samples."""

import json
import pathlib
import sys

import jax

from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import processes
from elf_jax.generation.generate import generate
from elf_jax.training import trainer
from tests.shared_programs import shared_programs
from tests.tiny import tiny_config


def run(config, workdir, samples):
    """Trains three steps, resumes from the checkpoint until the end, and writes samples as JSON."""
    with shared_programs():
        trainer.train(config, workdir, until=3)
        trainer.train(config, workdir)
        tokens = generate(load_trained(workdir), 11, seed=3)
    pathlib.Path(samples).write_text(json.dumps([row.tolist() for row in tokens]))


def config():
    """A config with four rows per device. Rows and parameters are split over both processes."""
    keys = {"mesh.data": 2, "mesh.fsdp": 4, "train.batch_size": 32, "train.samples": 3}
    keys["sample.batch_size"] = 8  # one program for all samples
    # Not Muon: it takes long to compile on a mesh, and test_muon.py tests it.
    return tiny_config(**keys, **{"optimizer.name": "adamw", "optimizer.learning_rate": 0.01})


if __name__ == "__main__":
    assert processes.initialize() and jax.process_count() == 2
    assert len(jax.local_devices()) == 4 and jax.device_count() == 8
    run(config(), sys.argv[1], f"{sys.argv[1]}/samples_{jax.process_index()}.json")
