"""Which values a config may have. They are checked before any long work begins.

A rule about one key is a line in a table of `allowed`. A rule about several keys is a function
here. Rules that need the devices or the data (does a batch divide over the chips, is there enough
text) are checked where those are known.
"""

import difflib

from elf_jax.core.allowed import (
    ABOVE,
    BUCKET_PARTS,
    CHOICES,
    DURATIONS,
    FRACTIONS,
    GIVEN,
    INFILL,
    LARGEST_SEED,
    METHOD_SECTIONS,
    METRICS,
    METRICS_OF_TEXT,
    NOT_EMPTY,
    SAMPLERS,
    SEEDS,
    SMALLEST,
    reads_from_left,
)
from elf_jax.core.errors import UserError
from elf_jax.core.renames import PROTOCOLS


def check(config):
    """Raises UserError for the first value in a whole config that is not allowed; names the key."""
    check_values(config)
    _check_set(config)
    check_model(config)
    _check_durations(config)
    _check_duo(config.duo)
    check_distill(config.distill)
    check_evaluation(config)
    _check_scorer(config)


def _check_set(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            _check_set(value, f"{prefix}{key}.")
        elif value is None:
            raise UserError(
                f"config.{prefix}{key} has no value: set it, or let commands/sizes.py choose it"
            )


def check_model(config):
    """`check` of what a trained model and its samples depend on."""
    check_sampler(config.method, config.sample.sampler)
    _check_candidates(config.sample.candidates, config.data)
    _check_words(config, config.sample.token_temperature)
    for name in ("encoder", "model", "objective", *METHOD_SECTIONS, "sample", "fill", "mesh"):
        check_values(config[name], f"{name}.")
    check_data(config.data)
    _check_given_of_method(config)
    _check_blocks(config)
    _check_buckets(config)
    _check_cdcd(config.cdcd)
    _check_encoder(config.encoder, config.data)
    _check_heads(config.model)


def check_sampler(method, sampler, name="sample.sampler"):
    """Raises UserError if a method does not have this sampler, the value of the key `name`."""
    if method in SAMPLERS and sampler not in SAMPLERS[method]:
        hint = f", or a config of the method, such as configs/quickstart.py:{method}"
        raise UserError(
            f"config.{name} is {sampler!r}, which {method} does not have: use one of "
            f"{', '.join(SAMPLERS[method])}{hint if sampler in CHOICES['sample.sampler'] else ''}"
        )


def check_token_temperature(value, encoder, token_weight, name="sample.token_temperature"):
    """Raises UserError if an ELF with such an encoder and such an objective cannot sample by token
    probabilities. value: of the key `name`.
    """
    if not value:
        return
    why = None
    if encoder == "t5":
        why = "the latents of a T5 depend on the whole text, so a token alone has none"
    elif not token_weight:
        why = "config.objective.token_weight is 0, so the network cannot read noisy latents"
    if why:
        raise UserError(f"config.{name} is {value:g}, but {why}: set it to 0")


def _check_words(config, value, name="sample.token_temperature"):
    """`check_token_temperature` by a whole config. Other methods have no such setting."""
    if config.method == "elf":
        check_token_temperature(value, config.encoder.kind, config.objective.token_weight, name)


def _check_candidates(candidates, data, name="sample.candidates"):
    if candidates > 1 and not data.source_field:
        raise UserError(
            f"config.{name} is {candidates}, but only samples of the same source can agree, and "
            "without config.data.source_field there are no sources: make it 1"
        )


def _check_cdcd(cdcd):
    if not cdcd.time_min < cdcd.time_max:
        raise UserError(
            f"config.cdcd.time_min is {cdcd.time_min}; it must be less than time_max="
            f"{cdcd.time_max}"
        )


def _check_duo(duo):
    if duo.curriculum.epochs:
        raise UserError(
            f"config.duo.curriculum has epochs={duo.curriculum.epochs}: set steps or examples, "
            "since a method does not know the size of the data"
        )
    if not (duo.gamma_min < duo.gamma_max or duo.gamma_min == duo.gamma_max == 0):
        raise UserError(
            f"config.duo.gamma_min is {duo.gamma_min}; it must be less than gamma_max="
            f"{duo.gamma_max}, or both 0"
        )


def check_distill(distill):
    """Raises UserError for values in the section `distill` that do not go together."""
    steps = distill.steps
    if not steps or min(steps) < 1 or any(a <= b for a, b in zip(steps, steps[1:], strict=False)):
        raise UserError(
            f"config.distill.steps is {','.join(map(str, steps)) or 'empty'}: name falling numbers "
            "of 1 or more, such as 16,8,4,2,1"
        )
    is_first = distill.teacher == "first"
    for n in steps if is_first else steps[:1]:
        if distill.substeps % n:
            raise UserError(
                f"config.distill.substeps is {distill.substeps}, which does not divide into {n} "
                "steps of the student: use a multiple of each number in config.distill.steps"
            )
    for before, after in [] if is_first else zip(steps, steps[1:], strict=False):
        if before % after:
            raise UserError(
                f"config.distill.steps has {after} after {before}, which is no multiple of it: use "
                "such numbers, or config.distill.teacher=first"
            )


def check_values(config, prefix=""):
    """Checks every key of a config, or of its section `prefix`, by the tables.

    Raises:
      UserError: a value is not allowed; the first one is named.
    """
    for key, value in config.items():
        name = f"{prefix}{key}"
        if hasattr(value, "items"):
            check_values(value, f"{name}.")
        else:
            _check_value(name, value)


def _check_value(name, value, rule=None):
    """Checks a value of the key `name` by the rule of this key, or by that of the key `rule`. None
    is a value that is still to be chosen.
    """
    if value is None:
        return
    rule = rule or name
    if rule in CHOICES and value not in CHOICES[rule]:
        known = CHOICES[rule]
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"config.{name} is {value!r}: {hint}use one of {', '.join(known)}")
    if rule in SMALLEST and not value >= SMALLEST[rule]:
        raise UserError(f"config.{name} is {value}; it must be {SMALLEST[rule]} or more")
    if rule in ABOVE and not value > ABOVE[rule][0]:
        bound, why = ABOVE[rule]
        raise UserError(f"config.{name} is {value}; it must be above {bound} ({why})")
    if rule in SEEDS and not 0 <= value <= LARGEST_SEED:
        raise UserError(f"config.{name} is {value}; a seed is a number from 0 to {LARGEST_SEED}")
    if rule in FRACTIONS:
        low, high, with_low, with_high = FRACTIONS[rule]
        if not (low < value < high or (with_low and value == low) or (with_high and value == high)):
            ends = f"{low} or more" if with_low else f"above {low}"
            ends += f", at most {high}" if with_high else f", below {high}"
            raise UserError(f"config.{name} is {value}; it must be {ends}")


def check_data(data):
    """Raises UserError for values in the section `data` that are not allowed, alone or together."""
    check_values(data, "data.")
    conditional = bool(data.source_field)
    if conditional and data.packing not in ("auto", "rows"):
        raise UserError(
            f"config.data.packing is {data.packing}, but pairs are packed one to a row: set "
            "config.data.packing=rows"
        )
    if conditional and not 1 < data.source_length < data.length - 1:
        raise UserError(
            f"config.data.source_length is {data.source_length}: for pairs it must be between "
            f"2 and config.data.length - 2 = {data.length - 2}"
        )
    if data.pad_source and not conditional:
        raise UserError(
            "config.data.pad_source is True, and without config.data.source_field there are no "
            "sources: set it to False, or name the field of the sources"
        )
    _check_given(data.given, data.length)


def _check_given(given, length):
    total = sum(given[name] for name in GIVEN)
    if total > 1 + 1e-6:
        raise UserError(
            f"the shares {', '.join(GIVEN)} in config.data.given add up to {total:g}: make them 1 "
            "or less together"
        )
    if given.hidden_min > given.hidden_max:
        raise UserError(
            f"config.data.given.hidden_min is {given.hidden_min}; it must not be above hidden_max="
            f"{given.hidden_max}"
        )
    if total and given.slack >= length:
        raise UserError(
            f"config.data.given.slack is {given.slack}; it must be below config.data.length="
            f"{length}"
        )


def _check_given_of_method(config):
    given = config.data.given
    wrong = [name for name in GIVEN[1:] if given[name]]
    who = "ar" if config.method == "ar" else "a model that writes in blocks (model.block_length)"
    if reads_from_left(config.method, config.model.block_length) and wrong:
        raise UserError(
            f"config.data.given.{wrong[0]} is {given[wrong[0]]}, but {who} can only continue a "
            "text: set it to 0 and use prefix, or train another method"
        )


def _check_blocks(config):
    size, data = config.model.block_length, config.data
    if not size:
        return
    if config.method != "elf":
        raise UserError(
            f"config.model.block_length is {size}, and {config.method} has no such blocks: set it "
            "to 0, or train elf"
        )
    if config.encoder.kind == "t5":
        raise UserError(
            f"config.model.block_length is {size} and config.encoder.kind is t5, whose vectors "
            "tell of the text after them, which is not written yet: set "
            "config.model.block_length=0, or another encoder"
        )
    room = data.length - (data.source_length if data.pad_source else 0)
    if room % size:
        kept = f" - source_length={data.source_length}" if data.pad_source else ""
        raise UserError(
            f"config.model.block_length is {size}, which does not divide config.data.length="
            f"{data.length}{kept}: set config.data.length="
            f"{data.length - room % size + (size if room < size else 0)}"
        )


def _check_buckets(config):
    """Checks whether padding may be cut off: that of sources if it is hidden, and that after a
    target in a network that reads from left to right.
    """
    model, data, buckets = config.model, config.data, config.train.length_buckets
    if buckets in (None, 1):
        return
    asked = f"config.train.length_buckets is {buckets}"
    if buckets > BUCKET_PARTS:
        raise UserError(f"{asked}; it must be at most {BUCKET_PARTS}")
    if config.method == "elf" and not model.block_length:
        raise UserError(
            f"{asked}, and an elf that writes whole rows sees all padding: set it to 1, or "
            "config.model.block_length"
        )
    if not data.pad_source and not reads_from_left(config.method, model.block_length):
        raise UserError(
            f"{asked}, and {config.method} sees the padding after a text: set it to 1, or, for "
            "pairs, config.data.pad_source=True and config.model.hide_padding=True"
        )
    if data.pad_source and not model.hide_padding:
        raise UserError(
            f"{asked}, and the network sees the padding of sources: set "
            "config.model.hide_padding=True, or config.data.pad_source=False"
        )


def _check_durations(config):
    for name in DURATIONS:
        duration = config
        for key in name.split("."):
            duration = duration[key]
        given = {key: value for key, value in duration.items() if value}
        if len(given) > 1 or min(given.values(), default=0) < 0:
            values = ", ".join(f"{key}={value}" for key, value in given.items())
            raise UserError(
                f"config.{name} has {values}: set one of steps, epochs, examples to more than 0"
            )
        if name in NOT_EMPTY and not given:
            raise UserError(f"config.{name} is 0: set one of its steps, epochs, examples")


def _check_encoder(encoder, data):
    if encoder.kind == "aligned" and not data.source_field:
        raise UserError(
            "config.encoder.kind is aligned, and without config.data.source_field there are no "
            "sources to align: set config.encoder.kind=cooccurrence, or name the field"
        )
    if encoder.kind == "aligned" and any(data.given[name] for name in GIVEN):
        raise UserError(
            "config.encoder.kind is aligned, and config.data.given makes a part of the target a "
            "condition, whose tokens would get the vectors of source tokens: set "
            "config.encoder.kind=cooccurrence"
        )
    if encoder.mean and not encoder.std:
        raise UserError(
            f"config.encoder.mean is {encoder.mean} but config.encoder.std is 0, so that "
            "both are measured: set both or neither"
        )


def _check_heads(model):
    if model.width % (2 * model.heads):
        raise UserError(
            f"config.model.width={model.width} with heads={model.heads}: the width of a head "
            "must be a whole even number, for the rotary embedding"
        )


def check_evaluation(config):
    """`check` of the sections `evaluate`, `sweep` and `compare`."""
    for name in ("evaluate", "sweep", "compare"):
        check_values(config[name], f"{name}.")
    for name in ("evaluate", "sweep"):
        _check_counts(config, name)
    if not config.evaluate.output:
        raise UserError("config.evaluate.output is empty: name a file for the numbers")
    resolve_metrics(config.evaluate.metrics, bool(config.data.source_field))
    for name in ("evaluate", "compare"):
        resolve_infill(config[name].infill, name)
    for name, protocol in config.evaluate.protocols.items():
        for key, value in protocol.items():
            _check_value(f"{PROTOCOLS}.{name}.{key}", value, f"sample.{key}")
            if key == "sampler":
                check_sampler(config.method, value, f"{PROTOCOLS}.{name}.{key}")
            if key == "candidates":
                _check_candidates(value, config.data, f"{PROTOCOLS}.{name}.{key}")
            if key == "token_temperature":
                _check_words(config, value, f"{PROTOCOLS}.{name}.{key}")
    for name in ("sweep", "compare"):
        _check_lists(config, name)


def check_compare(config):
    """`check` of the section `compare` of a config that is going to be compared with others."""
    check_values(config.compare, "compare.")
    resolve_infill(config.compare.infill, "compare")
    _check_lists(config, "compare")
    _check_counts(config, "compare")


def _check_counts(config, name):
    """Checks how many samples and seeds the section `name` asks for."""
    if not (config[name].num_samples or config.data.source_field):
        raise UserError(
            f"config.{name}.num_samples is 0, which means all held-out pairs, but the data "
            "has no pairs: set it to 1 or more"
        )
    last = config.sample.seed + config[name].seeds - 1
    if last > LARGEST_SEED:
        raise UserError(
            f"config.sample.seed={config.sample.seed} with config.{name}.seeds="
            f"{config[name].seeds} has {last} as its last seed: the largest is {LARGEST_SEED}"
        )


def _check_lists(config, section):
    """Checks each value of a list by the rule of the key of the same name in section `sample`."""
    for key, values in config[section].items():
        for value in values if isinstance(values, tuple) else ():
            _check_value(f"{section}.{key}", value, f"sample.{key}")
            if key == "token_temperature":
                _check_words(config, value, f"{section}.{key}")


def resolve_metrics(asked, conditional):
    """The metrics of config.evaluate.metrics: a tuple of names from METRICS.

    Args:
      asked: names with commas between; "auto": gen_ppl for text, the others for pairs; "": none.
      conditional: whether there are references.

    Raises:
      UserError: a name that is unknown, or needs references where there are none.
    """
    if asked == "auto":
        return METRICS[1:] if conditional else METRICS_OF_TEXT
    names = tuple(name.strip() for name in asked.split(",") if name.strip())
    known = METRICS if conditional else METRICS_OF_TEXT
    for name in names:
        if name not in known:
            raise UserError(
                f"config.evaluate.metrics has {name!r}: with this data use "
                f"{', '.join(known)} (with commas between), auto, or nothing"
            )
    return names


def resolve_infill(asked, section="evaluate"):
    """What is hidden for the infilling benchmark: {name: (form, percent)}, in the given order.

    Args:
      asked: names with commas between, such as "span_25,scattered_25"; "": none. The form is "span"
        or "scattered", the number how much of each text is hidden, in percent.
      section: of the config, for the message.

    Raises:
      UserError: a name that is unknown, or is there twice.
    """
    found = {}
    for name in (part.strip() for part in asked.split(",")):
        if not name:
            continue
        match = INFILL.fullmatch(name)
        if match is None or name in found:
            raise UserError(
                f"config.{section}.infill has {name!r}{' twice' if match else ''}: use span_N or "
                "scattered_N with N from 1 to 99 (percent of each text), with commas between, each "
                "once; or nothing"
            )
        found[name] = match[1], int(match[2])
    return found


def _check_scorer(config):
    scorer = config.scorer
    if scorer.width % scorer.heads:
        raise UserError(
            f"config.scorer.width={scorer.width} does not divide into heads={scorer.heads}"
        )
    length = config.scorer.length or config.data.length
    if not 2 <= length <= config.data.length:
        raise UserError(
            f"config.scorer.length is {config.scorer.length}; use 2 to config.data.length="
            f"{config.data.length}, or 0 for all of it"
        )
