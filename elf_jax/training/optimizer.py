"""Durations, the learning-rate schedule, clipping, Muon or AdamW, the average of the parameters."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from elf_jax.training.muon import scale_by_muon

REFERENCE_BATCH = 256  # `learning_rate` is for this batch size; it is scaled in proportion


def in_steps(duration, batch_size, num_examples):
    """A duration in steps, rounded.

    Args:
      duration: config section with steps, epochs and examples, of which at most one is set.
      batch_size: rows per step. num_examples: rows per epoch.
    """
    if duration.steps:
        return duration.steps
    examples = duration.examples or duration.epochs * num_examples
    return round(examples / batch_size)


def make_schedule(settings, batch_size, warmup_steps, total_steps):
    """Learning rate at each step: linear warm-up to learning_rate * batch / 256, then the schedule.

    Args:
      settings: config section `optimizer`.
      batch_size: rows per step, on all devices. warmup_steps, total_steps: optimiser steps.
    """
    peak = settings.learning_rate * batch_size / REFERENCE_BATCH
    after = max(total_steps - warmup_steps, 1)
    if settings.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif settings.schedule == "linear":
        main = optax.linear_schedule(peak, 0.0, after)
    else:
        main = optax.cosine_decay_schedule(peak, after)
    # The rate of step 0 is peak / warmup_steps and not 0, so that the first step changes the
    # parameters.
    warmup = optax.linear_schedule(peak / max(warmup_steps, 1), peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [warmup_steps])


def labels(params, adam_kernels=""):
    """The update rule of each parameter: "muon" for kernels, "adam" for all others and for kernels
    whose path matches the regex `adam_kernels`.
    """

    def label(path):
        is_adam = not path.endswith("/kernel") or (adam_kernels and re.search(adam_kernels, path))
        return "adam" if is_adam else "muon"

    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: label(path) for path in flat}, sep="/")


def make_optimizer(settings, schedule, dtype=jnp.float32, mesh=None, own_rates=None):
    """Clipping by the global norm, then AdamW, or Muon for kernels and AdamW for the rest.

    Args:
      settings: config section `optimizer`.
      schedule: learning rate by step.
      dtype, mesh: of Muon's orthogonalisation, see `muon.scale_by_muon`.
      own_rates: {regex: learning rate}. Adam updates the parameters whose path matches, with this
        constant rate and without weight decay.
    """

    def adam(rate):
        return optax.adamw(
            rate, b1=settings.adam_b1, b2=settings.adam_b2, weight_decay=settings.weight_decay
        )

    if settings.name == "adamw":
        rule = adam(schedule)
    else:
        muon = optax.chain(
            scale_by_muon(dtype, mesh),
            optax.add_decayed_weights(settings.weight_decay),
            optax.scale_by_learning_rate(schedule),
        )
        rules = {"muon": muon, "adam": adam(lambda step: settings.adam_scale * schedule(step))}
        rule = optax.partition(rules, partial(labels, adam_kernels=settings.adam_kernels))
    if own_rates:
        rules = {name: optax.adam(rate) for name, rate in own_rates.items()}
        rule = optax.partition({**rules, "": rule}, partial(_own, own_rates))
    return optax.chain(optax.clip_by_global_norm(settings.clip), rule)


def _own(own_rates, params):
    """The first pattern that matches the path of each parameter, or "" if none does."""

    def label(path):
        return next((name for name in own_rates if re.search(name, path)), "")

    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: label(path) for path in flat}, sep="/")


def average(ema, params, decay):
    """The exponential moving average of the parameters after one more step."""
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
