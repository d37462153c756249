"""Values for the keys that a config leaves to the rule of `core/fitting.py`.

A workdir keeps the values that it began with. So a training goes on with them though the data or
the machine has changed.
"""

import pathlib
import sys

from elf_jax.core import config as config_module
from elf_jax.core import fitting, processes
from elf_jax.core.config import flatten
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CONFIG, ENCODER_TRAINING, SCORER_TRAINING


def is_open(config):
    """Whether a config leaves keys to the rule."""
    return bool(fitting.by_rule(flatten(config)))


def fitted(config, workdir=None, checkpoint=None, topology=""):
    """The config with a value for every key; a copy, if it left keys to the rule.

    The first of these that has a key decides: the user, the workdir, the model that a training
    starts from (its sizes only), prepared shards, an encoder or a scorer that was trained on the
    data in the workdir, and the rule, which then prints a line.

    Args:
      config: whole config. workdir: directory of this machine, or None.
      checkpoint: path or name of the model that the training starts from, or None.
      topology: of chips that are not there, see `compile_report`.

    Raises:
      UserError: the data cannot be read, or the config names none and values depend on it.
    """
    if not is_open(config):
        return config
    if workdir is not None and (pathlib.Path(workdir) / CONFIG).is_file():
        config = filled(config, config_module.read_config(workdir))
    elif checkpoint:
        config = filled(config, _config_of(checkpoint, config), fitting.SIZES)
    if workdir is not None:
        for training in (ENCODER_TRAINING, SCORER_TRAINING):
            if (pathlib.Path(workdir) / training / CONFIG).is_file():
                kept = config_module.read_config(pathlib.Path(workdir) / training)
                config = filled(config, kept, [k for k in fitting.KEYS if k.startswith("data.")])
    return _by_rule(config, topology) if is_open(config) else config


def filled(config, kept, keys=fitting.KEYS):
    """A copy of the config in which `keys` that were left to the rule are those of another config.

    Of a duration, a unit that the user has set replaces the one that is kept.
    """
    if not is_open(config):
        return config
    flat, values = flatten(config), flatten(kept)
    if any(flat[key] for key in fitting.DURATION):
        values |= dict(zip(fitting.DURATION, (0, 0.0, 0), strict=True))
    return _updated(config, {key: values[key] for key in fitting.by_rule(flat) if key in keys})


def _config_of(checkpoint, config):
    """The config of the model that a training starts from."""
    from elf_jax.checkpoints.origins import find_origin, load_config

    origin = find_origin(checkpoint)
    missing = [key for key in fitting.by_rule(flatten(config)) if key in fitting.SIZES]
    if origin.kind == "published" and missing:
        raise UserError(
            f"{origin.name} is a published checkpoint, which holds no config: set its sizes "
            f"({', '.join(f'config.{key}' for key in missing)}), or use its config"
        )
    return config if origin.kind == "published" else load_config(origin)


def _by_rule(config, topology):
    """The config with what the rule chooses, which is printed. All processes choose the same."""
    from elf_jax.data.measure import kept_sizes, measure

    def look():
        return kept_sizes(config.data), measure(config.data)

    kept, facts = processes.share(processes.on_first(look))
    facts = None if facts is None else fitting.Facts(*facts)
    flat = flatten(config)
    config = _updated(config, {key: value for key, value in kept.items() if flat[key] is None})
    flat = flatten(config)
    on_cpu = not topology and _on_cpu()
    chosen = fitting.choose(flat, facts, on_cpu)
    config = _updated(config, chosen)
    if processes.is_first() and chosen:
        line = _in_words(chosen, flat | chosen, facts, on_cpu)
        print(line, file=sys.stderr, flush=True)
    return config


def _in_words(chosen, values, facts, on_cpu):
    """What was chosen and why, as one line.

    Args:
      chosen: of `fitting.choose`. values: {"section.key": value} of the whole config with them.
      facts, on_cpu: see `fitting.choose`.
    """
    length, source, batch = "data.length", "data.source_length", "train.batch_size"
    duration = next((key for key in fitting.DURATION if values[key]), fitting.DURATION[0])
    unit = duration.rpartition(".")[2]
    parts = [
        (["data.vocab_size"], f"vocabulary {values['data.vocab_size']:,}"),
        ([length], f"rows of {values[length]}"),
        (
            ["model.depth", "model.width"],
            f"network {values['model.depth']} x {values['model.width']}",
        ),
        (["encoder.width"], f"latents of {values['encoder.width']}"),
        (["objective.time_mean"], f"time_mean {values['objective.time_mean']}"),
        (["optimizer.learning_rate"], f"learning rate {values['optimizer.learning_rate']}"),
        (["optimizer.ema"], f"ema {values['optimizer.ema']}"),
        ([duration, batch], f"{values[duration]:,g} {unit} in batches of {values[batch]}"),
    ]
    if values["data.source_field"]:
        parts[1] = [length, source], f"rows of {values[length]} with sources of {values[source]}"
    if values["method"] != "elf":
        del parts[3:5]  # other methods have no such things
    shown = [text for keys, text in parts if chosen.keys() & set(keys)]
    data = "" if facts is None else f"for {_short(facts.tokens)} tokens "
    device = "a CPU" if on_cpu else "an accelerator"
    return (
        f"sizes by rule {data}on {device}: {', '.join(shown or ['details'])}; set a key, such as "
        "--config.model.width=256, to choose it yourself"
    )


def _short(number):
    """A number in few characters, such as 3.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{1 if number < 100 * size else 0}f}{letter}"
    return str(number)


def _on_cpu():
    import jax

    return jax.default_backend() == "cpu"


def _updated(config, values):
    config = config.copy_and_resolve_references()
    config_module.update(config, values)
    return config
