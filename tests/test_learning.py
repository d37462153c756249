"""A training from scratch learns to reverse strings, with the source as condition and with
classifier-free guidance.
"""

import itertools
import json

import pytest

from elf_jax.core.allowed import SAMPLERS
from tests.command import ROOT, program

SETTINGS = {
    "data.kind": "jsonl",
    "data.field": "target",
    "data.source_field": "source",
    "data.source_length": 5,
    "data.length": 10,
    "data.pad": "eos",
    "data.tokenizer": "words",
    "data.validation_fraction": 0.15,
    "encoder.width": 16,
    "model.depth": 2,
    "model.width": 64,
    "model.heads": 4,
    "model.bottleneck": 32,
    "model.time_tokens": 1,
    "model.guidance_tokens": 1,
    "model.mode_tokens": 1,
    "objective.decode_noise_scale": 1.0,
    "objective.condition_dropout": 0.1,
    "objective.time_mean": -0.5,
    "optimizer.learning_rate": 0.04,
    "optimizer.schedule": "linear",
    "optimizer.warmup.epochs": 0.0,
    "optimizer.warmup.steps": 20,
    "optimizer.ema": 0.99,
    "train.batch_size": 64,
    "train.duration.epochs": 0.0,
    "train.duration.steps": 500,
    "train.validate_every": 0,
    "train.samples": 0,  # one sampler less to compile
    "sample.sampler": "ode",
    "sample.steps": 16,
    "sample.cfg_scale": 2.0,
    "sample.guidance_scale": 1.0,
    "sample.batch_size": 256,
    "evaluate.after_training": True,
}
FLAGS = (
    "--xla_backend_optimization_level=1"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    " --xla_cpu_parallel_codegen_split_count=1"
)


# What the other methods have in place of ELF's objective and sampler.
RIVALS = {
    "ar": {"sample.sampler": "greedy"},
    "mdlm": {},
    "llada": {"sample.temperature": 0.0},
    "duo": {},
    "cdcd": {"cdcd.embedding_width": 16, "cdcd.time_max": 30.0},
    "flm": {},
}


def learned(tmp_path, **settings):
    """The numbers of an evaluation after at most two minutes of training. A separate process runs
    the command, with optimised code, because the compiler does not optimise in this process. More
    than the first level of optimisation would take longer than it saves.
    """
    pairs = tmp_path / "pairs.jsonl"
    words = [" ".join(letters) for letters in itertools.product("abcdef", repeat=4)]
    lines = [json.dumps({"source": word, "target": word[::-1]}) for word in words]
    pairs.write_text("\n".join(lines))
    settings = {**settings, "data.path": str(pairs), "train.max_minutes": 2.0}
    command = ["main.py", f"--config={ROOT}/configs/base.py", f"--workdir={tmp_path}/run"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    done = program(command, FLAGS)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((tmp_path / "run" / "evaluation.json").read_text())


def test_reversing_strings_is_learned(tmp_path):
    """Over 95% exact match."""
    numbers = learned(tmp_path, **SETTINGS)
    assert numbers["exact_match"] > 0.95, numbers


@pytest.mark.parametrize("method", RIVALS)
def test_every_method_learns_it(method, tmp_path):
    """Over 90% exact match, with half of the steps that ELF has."""
    changes = {
        "method": method,
        "sample.sampler": SAMPLERS[method][0],
        "sample.cfg_scale": 1.0,
        "tokens.condition_dropout": 0.1,
        "train.duration.steps": 350,
    }
    numbers = learned(tmp_path, **{**SETTINGS, **changes, **RIVALS[method]})
    assert numbers["exact_match"] > 0.9, numbers


def test_blocks_from_left_to_right_learn_it(tmp_path):
    """Over 90% exact match, in blocks of two, with half of the steps of whole rows."""
    changes = {"model.block_length": 2, "train.duration.steps": 350, "sample.steps": 8}
    numbers = learned(tmp_path, **{**SETTINGS, **changes})
    assert numbers["exact_match"] > 0.9, numbers
