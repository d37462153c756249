"""The settings on the served page: their ranges, and what they do in plain words.

The page bounds what the command line does not: nobody should keep the others waiting for hours.
"""

import dataclasses

from elf_jax.core import allowed

MOST_STEPS = 1024
MOST_STEPS_OF_A_BLOCK = 64  # of config.model.block_length: each block of a text has so many
MOST_SAMPLES = 64

SAMPLE, ANSWER, FILL, REWRITE = "sample", "answer", "fill", "rewrite"
GIVES_A_CONDITION = (ANSWER, FILL)  # tasks in which the model sees tokens that are given


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting on the page.

    Attributes:
      name: a key of the config's section `sample`, or "gap" or "strength". label, info: its texts.
      value: at the start; its type is the type of the setting.
      low, high: the range of a number. step: of its slider.
      choices: the values that it may have; empty: all in the range.
      is_basic: whether it is always shown. The others are folded away.
    """

    name: str
    label: str
    info: str
    value: int | float | str
    low: float = 0
    high: float = 0
    step: float = 1
    choices: tuple = ()
    is_basic: bool = False


# {key: (label, what it does)}
TEXTS = {
    "num_samples": ("Number of texts", "How many texts are made at once."),
    "seed": ("Seed", "The same seed and settings give the same texts again."),
    "steps": (
        "Steps",
        "How often the model goes over the text. More steps take longer, and up to some number the "
        "texts get better. A new number is compiled first.",
    ),
    "sampler": ("Sampler", "How a step is made."),
    "time_grid": ("Time grid", "How the steps are spread between noise and text."),
    "gamma": (
        "Noise of a step, gamma",
        "For the sampler sde: the new noise in each step. 0: none, as with the sampler ode.",
    ),
    "gamma_schedule": (
        "Schedule of gamma",
        "Whether gamma stays the same, or falls to 0 towards the end.",
    ),
    "guidance_scale": (
        "Guidance, w",
        "How much the model trusts its last estimate. 1: no guidance. More gives texts that are "
        "more usual, and less varied.",
    ),
    "cfg_scale": (
        "Guidance on what is given, c",
        "How closely the text follows what is given. 1: no guidance. Other values take twice the "
        "time, and help only a model that was trained with condition dropout.",
    ),
    "noise_temperature": (
        "Noise",
        "All noise is multiplied by it. Below 1 the texts are more usual. 0: no noise.",
    ),
    "token_temperature": (
        "Surest words",
        "Above 0 each step goes towards whole words, near 0 to the likeliest one. 0: not used. It "
        "needs a model that reads words from noise (objective.token_weight).",
    ),
    "temperature": (
        "Temperature",
        "Below 1 the words are more usual, above 1 less usual. 0: always the likeliest word.",
    ),
    "top_p": (
        "Likeliest words, p",
        "Only the likeliest words are drawn, which together have this probability. 1: all words.",
    ),
    "beams": ("Beams", "For the sampler beam: how many texts are followed at once."),
    "length_penalty": (
        "Length penalty",
        "For the sampler beam: larger values favour longer texts.",
    ),
    "block_length": (
        "Block length",
        "For the sampler confidence: the text is written in blocks of so many tokens, from the "
        "left. 0: one block.",
    ),
    "gap": ("Longest gap", "The most tokens of a gap of underscores."),
    "strength": ("Strength", "How much is changed. 0: nothing. 1: the text is a new one."),
}

# {key: (lowest, highest, step of the slider)}
RANGES = {
    "steps": (1, MOST_STEPS, 1),
    "seed": (0, allowed.LARGEST_SEED, 1),
    "gamma": (0.0, 10.0, 0.1),
    "guidance_scale": (0.1, 10.0, 0.1),
    "cfg_scale": (0.0, 10.0, 0.1),
    "noise_temperature": (0.0, 2.0, 0.05),
    "token_temperature": (0.0, 3.0, 0.05),
    "temperature": (0.0, 3.0, 0.05),
    "top_p": (0.01, 1.0, 0.01),
    "beams": (1, 16, 1),
    "length_penalty": (0.0, 5.0, 0.1),
    "strength": (0.0, 1.0, 0.05),
}
BASIC = ("num_samples", "seed", "steps", "guidance_scale", "temperature", "gap", "strength")


def settings_of(config, method, task, steps=()):
    """The settings of a task, in the order of the page.

    Args:
      config: whole config, whose values are those at the start. method: a `Method`.
      task: SAMPLE, ANSWER, FILL or REWRITE.
      steps: the numbers of steps to choose from; empty: all in the range.

    Returns:
      A list of `Setting`.
    """
    own = {"sampler": allowed.SAMPLERS[config.method]} | ({"steps": steps} if steps else {})
    found = [] if task == ANSWER else [_count(config, 8 if task == SAMPLE else 4)]
    if task == FILL:
        found.append(_number("gap", config.fill.gap, (1, config.data.length, 1)))
    if task == REWRITE:
        found.append(_number("strength", 0.5, RANGES["strength"]))
    for name in (*sorted(method.settings, key=lambda one: one != "steps"), "seed"):
        if name == "cfg_scale" and task not in GIVES_A_CONDITION:
            continue
        value = config.sample[name]
        choices = own.get(name) or allowed.CHOICES.get(f"sample.{name}", ())
        if choices:
            if len(choices) > 1 or name == "steps":
                found.append(_choice(name, value, choices))
        else:
            found.append(_number(name, value, _bounds(name, config)))
    return found


def _bounds(name, config):
    if name == "block_length":
        return 0, config.data.length, 1
    if name == "steps" and config.model.block_length:
        return 1, MOST_STEPS_OF_A_BLOCK, 1
    return RANGES[name]


def _count(config, usual):
    most = max(min(config.sample.batch_size, MOST_SAMPLES), 1)
    return _number("num_samples", min(config.sample.num_samples, usual, most), (1, most, 1))


def _number(name, value, bounds):
    """A setting in a range, which is made wider if the workdir's own value is outside."""
    low, high, step = bounds
    low, high = min(low, value), max(high, value)
    return Setting(name, *TEXTS[name], value, low, high, step, is_basic=name in BASIC)


def _choice(name, value, choices):
    return Setting(name, *TEXTS[name], value, choices=tuple(choices), is_basic=name in BASIC)
