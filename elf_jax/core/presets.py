"""Settings that several configs share. Each function changes a config in place."""

from ml_collections import ConfigDict, config_dict

from elf_jax.core import fitting
from elf_jax.core.allowed import CHOICES, SAMPLERS, reads_from_left
from elf_jax.core.defaults import duration


def conditional(config):
    """Sets what the two conditional tasks of the paper have in common."""
    config.data.packing = "rows"
    config.data.pad = "eos"
    config.encoder.kind = "t5"
    config.encoder.path = "google-t5/t5-small"
    config.encoder.std = 0.2
    config.objective.decode_noise_scale = 1.0
    config.objective.condition_dropout = 0.1
    config.train.batch_size = 512
    config.train.duration = duration(epochs=100.0)
    config.optimizer.warmup = duration(steps=5000)
    config.sample.sampler = "ode"
    config.sample.steps = 64
    config.sample.guidance_scale = 1.0
    config.sample.cfg_scale = 2.0
    with config.unlocked():
        config.evaluate.protocols.ode64 = ConfigDict(
            {"sampler": "ode", "steps": 64, "guidance_scale": 1.0, "cfg_scale": 2.0}
        )
    config.evaluate.num_samples = 0
    config.sweep.guidance_scale = (1.0,)
    config.sweep.cfg_scale = (1.0, 1.5, 2.0, 3.0)
    config.sweep.gamma = ()


def small(config):
    """Sets a network on a frozen embedding of the data. Its sizes and the length of its training
    are left to the rule of `fitting.py`, which looks at the data and at the machine.
    """
    leave_to_rule(config)
    config.encoder.kind = "cooccurrence"
    config.optimizer.adam_scale = 0.3
    config.optimizer.adam_kernels = "unembed"
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = duration(steps=100)
    config.optimizer.ema_warmup = True  # 20 epochs of a small corpus are few steps


def word_by_word(config):
    """An ELF that writes from left to right, one token at a time, with a learned table of words."""
    config.model.block_length = 1
    config.model.token_table = True


def leave_to_rule(config):
    """Makes the keys of `fitting.KEYS` placeholders. They keep their types and have no value until
    the user, or the command that uses the config, sets them.
    """
    for key in fitting.KEYS:
        *parents, leaf = key.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        section[leaf] = config_dict.placeholder(type(section[leaf]))


def use_method(config, method):
    """Sets the method, the sampler that it usually has, and what ELF alone has to neutral values.

    Raises:
      ValueError: there is no such method.
    """
    if method not in CHOICES["method"]:
        raise ValueError(f"no method {method!r}: use one of {', '.join(CHOICES['method'])}")
    config.method = method
    if method == "elf":
        return
    config.model.block_length = 0
    config.model.token_table = False
    conditional = bool(config.data.source_field)
    samplers = SAMPLERS[method]
    config.sample.sampler = "beam" if "beam" in samplers and conditional else samplers[0]
    config.sample.cfg_scale = 1.0
    if method != "ar":  # which has no guidance on the condition
        config.tokens.condition_dropout = config.objective.condition_dropout
    config.sweep.guidance_scale = config.sweep.gamma = ()
    config.sweep.temperature = (0.7, 0.8, 0.9, 1.0, 1.1)
    with config.unlocked():
        config.evaluate.protocols = ConfigDict()


def fill_in(config):
    """In half of the training rows a part is given, so that the model learns to fill gaps and to
    continue texts. What is given is dropped in a tenth of the rows, for guidance on it.

    The infilling benchmark is part of its evaluations.

    Call it after `use_method`: ar learns to continue only, and has no guidance on the condition. A
    model in blocks learns to continue only too.
    """
    config.evaluate.infill = "span_25,span_50,scattered_25"
    given = config.data.given
    given.prefix = 0.1
    # In short rows, long gaps would push out what comes after them. Rows by rule are not so short.
    given.slack = min(8, max((config.data.length or 64) // 8, 1))
    if reads_from_left(config.method, config.model.block_length):
        return
    given.suffix, given.ends, given.spans = 0.05, 0.05, 0.3
    section = config.objective if config.method == "elf" else config.tokens
    section.condition_dropout = 0.1


def use_variant(config, variant):
    """`use_method` of METHOD, or of METHOD_fill: with `fill_in` too.

    Raises:
      ValueError: there is no such variant.
    """
    method, _, rest = variant.partition("_")
    if rest not in ("", "fill"):
        raise ValueError(f"no variant {variant!r}: use a method, or METHOD_fill")
    use_method(config, method)
    if rest:
        fill_in(config)


def published(config, method):
    """Sets how MDLM, Duo, FLM and their autoregressive rival were trained on OpenWebText (arXiv
    2406.07524, 2506.10892, 2602.16813). LLaDA and CDCD have no such recipe and get the same. Steps
    of sampling are those of the most reported protocol.

    The tokenizer, the rows and the backbone stay those of the config, so that methods can be
    compared.
    """
    use_method(config, method)
    if method == "elf":
        return
    config.model.dropout = 0.1
    optimizer = config.optimizer
    optimizer.name = "adamw"
    optimizer.learning_rate = 3e-4 / 2  # 3e-4 at 512 rows
    optimizer.warmup = duration(steps=2500)
    optimizer.ema_warmup = True
    config.train.batch_size = 512
    config.train.duration = duration(steps=1_000_000)
    if method == "duo":
        config.duo.curriculum = duration(steps=500_000)
        config.duo.gamma_min, config.duo.gamma_max = -3.55, -1.85
    if method != "ar":
        config.sample.steps = min(config.data.length, 1024)
