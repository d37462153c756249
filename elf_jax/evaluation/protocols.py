"""Protocols: settings of sampling with a name, so that a number can say how it was computed."""

import dataclasses
import itertools

from ml_collections import ConfigDict

from elf_jax.core.errors import UserError
from elf_jax.generation.consensus import how_many

FROM_FLAGS = "flags"  # the name of the protocol that flags of the command line make
PLAIN = "sample"  # the name of the section `sample` as it is


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A name and its section `sample`."""

    name: str
    sample: ConfigDict


def protocols_of(config):
    """The protocols of config.evaluate.protocols, in the order of their names. If there are none,
    the section `sample` as it is.

    Args:
      config: whole config, already checked.

    Returns:
      List of `Protocol`.
    """
    named = config.evaluate.protocols
    if not len(named):
        return [Protocol(PLAIN, config.sample)]
    return [make_protocol(name, config.sample, named[name]) for name in sorted(named)]


def make_protocol(name, sample, values):
    """The `Protocol` of a section `sample`, changed by `values`, {key: value}."""
    sample = ConfigDict(sample.to_dict())
    sample.update(values)
    return Protocol(name, sample)


def effective(method, sample):
    """The settings of a section `sample` that a number depends on: those of `Method.effective`, and
    the number of candidates if several are made.
    """
    made = how_many(method, sample)
    return method.effective(sample) | ({"candidates": made} if made > 1 else {})


def combinations(sample, values, method, section="sweep"):
    """A `Protocol` for each combination of values.

    Args:
      sample: config section `sample`, already checked.
      values: {key of `sample`: tuple of values}; an empty one stands for the value in `sample`.
        What is not a tuple is left out, and so are settings that the method does not have.
      method: a `Method`. The last of its settings changes fastest, which compiles least.
      section: of the config that the values come from, for the message.

    Raises:
      UserError: a value is listed twice.
    """
    lists = []
    for key in (key for key in method.settings if isinstance(values.get(key), tuple)):
        several = values[key] or (sample[key],)
        if len(set(several)) < len(several):
            raise UserError(f"config.{section}.{key} lists a value twice: name each once")
        lists.append([(key, value) for value in several])
    protocols = {}
    for combination in itertools.product(*lists):
        protocol = make_protocol("", sample, dict(combination))
        used = effective(method, protocol.sample)
        name = _name(method, {k: used[k] for k, _ in combination if k in used}) or PLAIN
        # Combinations that differ only in settings which the sampler does not use are one.
        protocols.setdefault(name, dataclasses.replace(protocol, name=name))
    return list(protocols.values())


def _name(method, settings):
    """A short name of the settings: numbers first, then words."""
    numbers = [f"{method.settings[k]}{v:g}" for k, v in settings.items() if not isinstance(v, str)]
    return "-".join([*numbers, *(v for v in settings.values() if isinstance(v, str))])
