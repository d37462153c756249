"""Protocols and combinations of settings: which a config gives, and which are refused."""

import pytest

from configs import owt, wmt14_de_en, xsum
from elf_jax.core import checks, sharding
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.evaluation.protocols import combinations, effective, protocols_of
from elf_jax.methods.registry import build_method
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def method():
    config = tiny_config()
    return build_method(config, 32, sharding.make_mesh(config.mesh))[0]


def test_protocols(method):
    config = tiny_config()
    (alone,) = protocols_of(config)
    assert alone.name == "sample" and alone.sample.to_dict() == config.sample.to_dict()
    keys = {"b.steps": 3, "a.sampler": "ode", "a.cfg_scale": 2}
    config = tiny_config(**{f"evaluate.protocols.{key}": value for key, value in keys.items()})
    ode, sde = protocols_of(config)
    assert ode.name == "a" and ode.sample.sampler == "ode" and ode.sample.cfg_scale == 2.0
    assert method.effective(ode.sample)["gamma"] == 0
    assert sde.name == "b" and sde.sample.steps == 3
    assert method.effective(sde.sample)["gamma"] == config.sample.gamma > 0
    # A dict of protocols replaces all protocols that were set before.
    config_module.update(config, {"evaluate.protocols": {"flags": {}}})
    (alone,) = protocols_of(config)
    assert alone.name == "flags" and alone.sample.to_dict() == config.sample.to_dict()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("a.stepz", 3, "unknown config key 'evaluate.protocols.a.stepz': did you mean .*a.steps'"),
        ("a.weights", "live", "unknown config key"),  # all protocols use the same weights
        ("a.steps", "1.5", "config.evaluate.protocols.a.steps must be of type int"),
        ("a", 3, "write evaluate.protocols.NAME.KEY"),
        ("a b.steps", 3, "a protocol named 'a b'"),
        ("a.sampler", "heun", "config.evaluate.protocols.a.sampler is 'heun': use one of ode, sde"),
        ("a.candidates", 3, "config.evaluate.protocols.a.candidates is 3, but only samples of the"),
        ("a.steps", 0, "config.evaluate.protocols.a.steps is 0; it must be 1 or more"),
    ],
)
def test_protocols_that_cannot_be(key, value, message):
    with pytest.raises(UserError, match=message):
        checks.check(tiny_config(**{f"evaluate.protocols.{key}": value}))


def test_several_candidates_are_another_setting(method):
    """One candidate leaves no trace, so that the records of earlier versions are found again."""
    sample = tiny_config().sample
    assert effective(method, sample) == method.effective(sample)
    several = tiny_config(**{"sample.candidates": 3}).sample
    assert effective(method, several) == method.effective(sample) | {"candidates": 3}
    equal = tiny_config(**{"sample.candidates": 3, "sample.noise_temperature": 0.0}).sample
    assert effective(method, equal) == method.effective(equal)


def test_published_protocols():
    config = owt.get_config()
    shown = [
        (p.name, p.sample.sampler, p.sample.steps, p.sample.gamma, p.sample.guidance_scale)
        for p in protocols_of(config)
    ]
    assert shown == [("sde32", "sde", 32, 1.5, 3.0), ("sde64", "sde", 64, 1.0, 3.0)]
    assert config.evaluate.num_samples == 1000
    for config in (wmt14_de_en.get_config(), xsum.get_config()):
        (one,) = protocols_of(config)
        shown = {"sampler": "ode", "steps": 64, "cfg_scale": 2.0, "guidance_scale": 1.0}
        assert shown.items() <= one.sample.to_dict().items() and config.evaluate.num_samples == 0


def test_combinations(method):
    config = tiny_config(
        **{
            "sweep.guidance_scale": (1.0, 3.0),
            "sweep.steps": (1, 2),
            "sweep.gamma": (1.0,),
            "sweep.time_grid": ("logit_normal", "uniform"),
        }
    )
    found = combinations(config.sample, config.sweep, method)
    assert len({protocol.name for protocol in found}) == len(found) == 8
    # Settings that need a new compilation change slowest, so neighbours share a program.
    programs = [method.compiled_for(protocol.sample) for protocol in found]
    assert len(set(programs)) == 4 and programs[::2] == programs[1::2]
    config.sample.sampler = "ode"
    config.sweep.gamma = (1.0, 2.0)  # an ODE does not use gamma
    assert len(combinations(config.sample, config.sweep, method)) == 8
    config.sweep.update({"guidance_scale": (), "steps": (), "time_grid": ()})
    (one,) = combinations(config.sample, config.sweep, method)
    assert one.sample.steps == config.sample.steps and one.sample.guidance_scale == 3.0
    config.sweep.steps = (1, 1)
    with pytest.raises(UserError, match="config.sweep.steps lists a value twice"):
        combinations(config.sample, config.sweep, method)


def test_lists_that_cannot_be():
    with pytest.raises(UserError, match="config.sweep.steps .*list of values of type int"):
        tiny_config(**{"sweep.steps": ("1.5",)})
    for key, value, message in (
        ("steps", 0, "config.sweep.steps is 0; it must be 1 or more"),
        ("time_grid", "cosine", "config.sweep.time_grid is 'cosine': use one of uniform"),
        ("guidance_scale", 0.0, "config.sweep.guidance_scale is 0.0; it must be above 0"),
    ):
        with pytest.raises(UserError, match=message):
            checks.check(tiny_config(**{f"sweep.{key}": (value,)}))
