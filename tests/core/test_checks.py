"""Rules for config values: no key without a rule, each rule can fail, shipped configs pass."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from configs import owt
from elf_jax.checkpoints.published import _choose
from elf_jax.core import checks, defaults, sharding, types
from elf_jax.core.allowed import (
    ABOVE,
    CHOICES,
    DURATIONS,
    FRACTIONS,
    LARGEST_SEED,
    NOT_EMPTY,
    SEEDS,
    SMALLEST,
)
from elf_jax.core.config import flatten, run_config_file, update
from elf_jax.core.errors import UserError
from elf_jax.data.examples import READERS
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.packing import PACKERS, Rows
from elf_jax.data.records import BadLines
from elf_jax.data.tokenizer import pad_id
from elf_jax.latents.build import build_encoder
from elf_jax.methods.distilled import objective as distilled_objective
from elf_jax.methods.distilled.method import TEACHERS
from elf_jax.methods.elf import flow
from elf_jax.methods.registry import METHODS, build_method
from elf_jax.networks.attention import IMPLEMENTATIONS
from elf_jax.networks.backbone import REMAT
from elf_jax.training import scorer
from elf_jax.training.encoder_objective import t5_config
from elf_jax.training.optimizer import make_optimizer, make_schedule
from tests.conftest import GOLDEN
from tests.tiny import tiny_config, with_sizes

# The choices that the code has in a table, for keys with such a table.
TABLES = {
    "method": METHODS,
    "data.kind": [*READERS, *LIBRARIES],
    "data.packing": ["auto", *PACKERS],
    "model.dtype": ["auto", *types.DTYPES],
    "scorer.dtype": ["auto", *types.DTYPES],
    "model.remat": REMAT,
    "model.attention": IMPLEMENTATIONS,
    "distill.objective": distilled_objective.TARGETS,
    "distill.teacher": TEACHERS,
    "distill.loss": distilled_objective.LOSSES,
    "distill.times": distilled_objective.TIMES,
    "sample.gamma_schedule": flow.GAMMA_SCHEDULES,
    "sample.time_grid": flow.TIME_GRIDS,
}
# String keys that may hold any text.
FREE = {
    "compare.infill",  # several names; it has its own rule
    "data.field",
    "data.path",
    "data.prepared",
    "data.source_field",
    "data.split",
    "data.tokenizer",
    "data.validation_path",
    "data.validation_split",
    "encoder.path",
    "evaluate.infill",  # the same
    "evaluate.metrics",  # the same
    "evaluate.output",
    "optimizer.adam_kernels",
    "pretrain.optimizer.adam_kernels",
    "scorer.path",
}


def test_choices_are_those_of_the_code():
    for key, known in TABLES.items():
        assert sorted(CHOICES[key]) == sorted(known), key
    assert CHOICES.keys() == TABLES.keys() | CARRIED_OUT.keys()


def _rate(settings):
    return float(make_schedule(settings, 256, 0, 4)(1))


def _optimizer(settings):
    return _state_of(make_optimizer(settings, lambda step: 0.1))


def _state_of(optimizer):
    return jax.tree.structure(optimizer.init({"kernel": jnp.zeros((2, 2))}))


def _pad_id(config):
    return pad_id(config.data, SimpleNamespace(eos_token_id=1, pad_token_id=0))


def _latents(config):
    path = str(GOLDEN / "t5_tiny")
    config.encoder.update({"path": path, "width": 4, "std": 1.0})
    tokens = np.tile(np.array([3, 4, 5, 6, 3, 7, 4, 1], np.int32), (4, 1))
    rows = Rows(tokens, np.full(4, 4, np.int32), np.full(4, 8, np.int32))
    encoder, params = build_encoder(config.encoder, 8, rows=rows)
    assert encoder.kind == config.encoder.kind
    return tuple(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(params))


def _sampler(config):
    method, _ = build_method(config, 8, sharding.make_mesh(config.mesh))
    return method.compiled_for(config.sample)


# For keys without a table: a function of the config, whose result differs for every choice.
CARRIED_OUT = {
    "data.bad_lines": lambda config: BadLines(config.data).skip,
    "data.pad": _pad_id,
    "encoder.kind": _latents,
    "optimizer.name": lambda config: _optimizer(config.optimizer),
    "optimizer.schedule": lambda config: _rate(config.optimizer),
    "sample.sampler": _sampler,
    "sample.weights": lambda config: _choose("", ["params", "ema_params1"], config.sample.weights),
    "scorer.optimizer": lambda config: _state_of(scorer._make_optimizer(config)[0]),
    "pretrain.version": lambda config: t5_config(config.pretrain, 8),
    "pretrain.optimizer.name": lambda config: _optimizer(config.pretrain.optimizer),
    "pretrain.optimizer.schedule": lambda config: _rate(config.pretrain.optimizer),
}


@pytest.mark.parametrize("key", CARRIED_OUT)
def test_every_choice_is_carried_out_in_its_own_way(key):
    made = [CARRIED_OUT[key](tiny_config(**{key: choice})) for choice in CHOICES[key]]
    assert all(one != two for i, one in enumerate(made) for two in made[:i]), made


def test_every_text_key_has_choices_or_is_free():
    flat = flatten(defaults.get_config())
    assert {key for key, value in flat.items() if isinstance(value, str)} == CHOICES.keys() | FREE


def test_rules_are_for_keys_that_there_are():
    flat = flatten(defaults.get_config())
    for key in (*SMALLEST, *ABOVE, *FRACTIONS, *SEEDS):
        assert isinstance(flat[key], int | float) and not isinstance(flat[key], bool), key
    for key in DURATIONS:
        assert {f"{key}.{unit}" for unit in ("steps", "epochs", "examples")} <= flat.keys()
    assert set(NOT_EMPTY) <= set(DURATIONS)


def refused(match, **keys):
    """Checks that a config with these values is refused in one line."""
    with pytest.raises(UserError, match=match) as error:
        checks.check(tiny_config(**keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", CHOICES)
def test_a_choice_that_there_is_not(key):
    misspelt = CHOICES[key][-1] + "x"
    refused(f"config.{key} is '{misspelt}': did you mean .*use one of", **{key: misspelt})
    for choice in CHOICES[key]:
        checks.check_values(tiny_config(**{key: choice}))


@pytest.mark.parametrize("key", SMALLEST)
def test_a_number_that_is_too_small(key):
    kind = type(flatten(defaults.get_config())[key])
    refused(f"config.{key} is -?[0-9.]+; it must be", **{key: kind(SMALLEST[key] - 1)})
    checks.check_values(tiny_config(**{key: kind(SMALLEST[key])}))


@pytest.mark.parametrize("key", SEEDS)
def test_a_seed_has_32_bits(key):
    once = {"evaluate.seeds": 1, "sweep.seeds": 1}
    for value in (-1, LARGEST_SEED + 1, 2**63, 2**70):
        refused(f"config.{key} is {value}; a seed is a number from 0", **once, **{key: value})
    for value in (0, LARGEST_SEED):
        checks.check(tiny_config(**once, **{key: value}))
    keys = [jax.random.key_data(jax.random.key(value)) for value in (0, 1, LARGEST_SEED)]
    assert len({tuple(map(int, key)) for key in keys}) == 3


@pytest.mark.parametrize("section", ["evaluate", "sweep"])
def test_the_last_seed_has_32_bits(section):
    seeds = {"evaluate.seeds": 1, "sweep.seeds": 1, f"{section}.seeds": 3}
    checks.check(tiny_config(**seeds, **{"sample.seed": LARGEST_SEED - 2}))
    refused(
        f"with config.{section}.seeds=3 has {LARGEST_SEED + 1} as its last seed",
        **seeds,
        **{"sample.seed": LARGEST_SEED - 1},
    )


@pytest.mark.parametrize("key", ABOVE)
def test_a_number_that_must_lie_above(key):
    bound, why = ABOVE[key]
    refused(f"config.{key} is .*; it must be above {bound} .{why}", **{key: float(bound)})
    checks.check_values(tiny_config(**{key: bound + 1e-3}))


@pytest.mark.parametrize("key", FRACTIONS)
def test_a_part(key):
    low, high, *with_ends = FRACTIONS[key]
    bad = [low - 0.1, high + 0.1, float("nan")]
    good = [low + 1e-3, high - 1e-3]
    for end, is_possible in zip((low, high), with_ends, strict=True):
        (good if is_possible else bad).append(end)
    for value in bad:
        refused(f"config.{key} is .*; it must be", **{key: float(value)})
    for value in good:
        checks.check_values(tiny_config(**{key: float(value)}))


@pytest.mark.parametrize("key", DURATIONS)
def test_durations(key):
    # In the defaults, each duration has one unit that is not zero.
    nothing = {f"{key}.{unit}": 0 for unit in ("steps", "epochs", "examples")}
    nothing[f"{key}.epochs"] = 0.0
    both = {**nothing, f"{key}.steps": 1, f"{key}.epochs": 1.0}
    refused(f"config.{key} has epochs=1.0, steps=1: set one of", **both)
    refused(f"config.{key} has steps=-1: set one of", **{**nothing, f"{key}.steps": -1})
    if key in NOT_EMPTY:
        refused(f"config.{key} is 0: set one of", **nothing)
    else:
        checks.check(tiny_config(**nothing))
    units = {"steps": 3, "epochs": 0.5, "examples": 7}
    if key == "duo.curriculum":  # a method does not know the size of the data
        del units["epochs"]
        refused(f"config.{key} has epochs=0.5: set steps", **{**nothing, f"{key}.epochs": 0.5})
    for unit, value in units.items():
        checks.check(tiny_config(**{**nothing, f"{key}.{unit}": value}))


PAIRS = {"data.source_field": "s", "data.source_length": 4, "data.packing": "rows"}
# Rules about several keys: allowed values, refused values, and the message.
TOGETHER = [
    ({}, {"data.packing": "stream"}, "config.data.packing is stream, but pairs"),
    ({"data.source_length": 2}, {"data.source_length": 1}, "config.data.source_length is 1: "),
    ({"data.source_length": 6}, {"data.source_length": 7}, "config.data.source_length is 7: "),
    ({"evaluate.metrics": "bleu, gen_ppl"}, {"evaluate.metrics": "blue"}, "metrics has 'blue'"),
    ({"encoder.mean": 1.0, "encoder.std": 1.0}, {"encoder.mean": 1.0}, "config.encoder.mean is 1"),
    ({"model.heads": 4}, {"model.heads": 3}, "config.model.width=16 with heads=3"),
    ({"model.width": 20}, {"model.width": 10}, "config.model.width=10 with heads=2"),  # odd heads
    ({"scorer.heads": 4}, {"scorer.heads": 5}, "config.scorer.width=384 does not divide"),
    ({"scorer.length": 8}, {"scorer.length": 9}, "config.scorer.length is 9"),
    ({"scorer.length": 2}, {"scorer.length": 1}, "config.scorer.length is 1"),
    ({"sweep.steps": (1,)}, {"sweep.steps": (2, 0)}, "config.sweep.steps is 0"),
    (
        {"evaluate.protocols.a.sampler": "ode"},
        {"evaluate.protocols.a.sampler": "heun"},
        "config.evaluate.protocols.a.sampler is 'heun'",
    ),
]


@pytest.mark.parametrize("good, bad, message", TOGETHER)
def test_keys_that_must_fit_together(good, bad, message):
    checks.check(tiny_config(**{**PAIRS, **good}))
    refused(message, **{**PAIRS, **bad})


def test_what_only_pairs_have():
    for name in ("evaluate", "sweep"):
        checks.check(tiny_config(**PAIRS, **{f"{name}.num_samples": 0}))
        refused(f"config.{name}.num_samples is 0", **{f"{name}.num_samples": 0})
    checks.check(tiny_config(**{"data.packing": "stream", "evaluate.metrics": "gen_ppl"}))
    refused("metrics has 'bleu': with this data use gen_ppl", **{"evaluate.metrics": "bleu"})


FILES = sorted(Path(configs.__file__).parent.glob("[!_]*.py"))
SHIPPED = [
    *map(str, FILES),
    *(f"{owt.__file__}:elf_{size}" for size in owt.SIZES),
    *(f"{file}:{method}" for file in FILES for method in CHOICES["method"]),
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: Path(path).name)
def test_what_is_shipped_passes(path):
    config = with_sizes(run_config_file(path))
    checks.check(config)
    update(config, {"train.log_every": 0})
    with pytest.raises(UserError, match="config.train.log_every is 0"):
        checks.check(config)
