"""The rule that chooses sizes, law of times and optimiser from the size of the data.

A config says that a key is to be chosen by this rule with a placeholder: its value is None
(`presets.small`). Everything here is arithmetic: facts about the data and the values that the user
has set go in, the other values come out. `data/measure.py` measures the facts, and
`commands/sizes.py` joins both.

What the numbers rest on are trainings of networks of width 128 on one core, with 3.2 million tokens
and a vocabulary of 4,096 (docs/research.md), and the published setting. Between and beyond them the
formulas are a guess.
"""

import math
from typing import NamedTuple

from elf_jax.core.allowed import BUCKET_PARTS, reads_from_left
from elf_jax.core.errors import UserError

# The keys of a config that can be chosen by rule, as {section: keys}.
DURATION = tuple(f"train.duration.{unit}" for unit in ("steps", "epochs", "examples"))
SIZES = (
    "data.vocab_size",
    "data.length",
    "data.source_length",
    "encoder.width",
    "model.depth",
    "model.width",
    "model.heads",
    "model.bottleneck",
    "model.time_tokens",
    "model.guidance_tokens",
    "model.mode_tokens",
    "model.unroll",
    "objective.time_mean",
)
TRAINING = (
    "optimizer.learning_rate",
    "optimizer.ema",
    "train.batch_size",
    "train.length_buckets",
    "train.accumulate",
    *DURATION,
    "train.validate_every",
    "train.checkpoint_every",
)
KEYS = SIZES + TRAINING

LARGE = 50_000_000  # tokens; with fewer, a network of width 768 learns the text by heart
EPOCHS = 20.0
FEWEST_STEPS = 1000  # a network that has made fewer has not learned to write
# Steps times positions, in batches of 64. About 40 minutes on one quiet core for whole rows; a
# position of text in blocks or of pairs takes up to 1.3 times as long.
MOST_ON_CPU = 8000 * 64
# With blocks of one token the text before says more than the noise hides, so what is learned at
# early times counts: -2 was better than -1 where the rule gives -0.9. Longer blocks were not tried.
ONE_TOKEN = 1.1  # how much lower the mean of the law of times is
# A CPU finds less of a large batch in its caches: 64 rows of 216 positions are 1.5 times as fast in
# four parts (benchmarks/micro_batches.py). Every part keeps some rows, which devices can share.
POSITIONS_AT_ONCE = 4096
FEWEST_ROWS = 8
# Pairs in four buckets need 0.56 (German and English) and 0.74 (summaries) of the positions of
# whole rows, in three 0.59 and 0.76, in six 0.54 and 0.72. Compilation takes longer with each.
BUCKETS = 4
T5_WIDTH = 512  # of the latents of a T5-small
VOCABULARY = 512, 32_768  # the smallest and the largest; a byte-level BPE begins with 259


class Facts(NamedTuple):
    """What the rule needs to know of the training data.

    Attributes:
      texts: number of texts or pairs.
      tokens: of all texts together; of pairs, of the targets. source_tokens: of the sources.
      target: tokens that 98% of the texts have at most. source: that 95% of the sources have at
        most; 0 without sources.
      rows: number of rows, if they are there already, otherwise 0.
    """

    texts: int
    tokens: int
    target: int
    source: int
    source_tokens: int = 0
    rows: int = 0


def by_rule(flat):
    """The keys that a config leaves to the rule, a list; `flat` is {"section.key": value}."""
    return [key for key in KEYS if key in flat and flat[key] is None]


def choose(flat, facts, on_cpu):
    """The values of the keys that a config leaves to the rule.

    Args:
      flat: the config as {"section.key": value}; None: by rule. Its other values are kept, and what
        is chosen fits them.
      facts: the `Facts` of the data; None: unknown.
      on_cpu: whether the training runs on a CPU, not on an accelerator.

    Returns:
      {"section.key": value} of all keys of `by_rule`.

    Raises:
      UserError: a value depends on the data, and `facts` is None.
    """
    values = dict(flat)
    _check_known(values, facts, on_cpu)
    _choose_data(values, facts, on_cpu)
    _choose_network(values, facts, on_cpu)
    _choose_training(values, facts, on_cpu)
    return {key: values[key] for key in by_rule(flat)}


def _check_known(values, facts, on_cpu):
    if facts is not None:
        return
    unknown = ["data.vocab_size"]
    if values["data.source_field"]:
        unknown += ["data.source_length", "data.length"]
    elif values["data.packing"] == "rows":
        unknown += ["data.length"]
    if not on_cpu:
        unknown += ["model.width"]
    unknown = [f"config.{key}" for key in unknown if values[key] is None]
    if unknown:
        raise UserError(
            f"config.data.path is empty, and the rule needs the data to choose {', '.join(unknown)}"
            ": name the data, or set these keys"
        )


def _fill(values, chosen):
    """Sets the keys of `chosen` that have no value yet."""
    for key, value in chosen.items():
        if values[key] is None:
            values[key] = value


def _choose_data(values, facts, on_cpu):
    """Vocabulary: see `vocabulary`; the tokenizer of pairs is trained on both halves. Lengths: what
    nearly all texts need, up to what attention and steps can afford.
    """
    if facts is not None:
        _fill(values, {"data.vocab_size": vocabulary(facts.tokens + facts.source_tokens)})
    target = 0 if facts is None else _rounded_up(facts.target + 1, 64 if on_cpu else 256)
    if values["data.source_field"]:
        if facts is not None:
            source = _rounded_up(facts.source + 1, 192 if on_cpu else 512)
            if values["data.length"] is not None:  # the user's, of which the targets need a part
                source = max(min(source, values["data.length"] - min(target, 8)), 2)
            _fill(values, {"data.source_length": source})
        _fill(values, {"data.length": values["data.source_length"] + target})
    else:
        rows = values["data.packing"] == "rows" or values["data.kind"] == "unicode_names"
        length = max(target, 16) if rows else 64 if on_cpu else 128
        _fill(values, {"data.source_length": 0, "data.length": length})


def vocabulary(tokens):
    """The size of the vocabulary for a number of tokens: the power of two nearest to 2.3 times its
    root, so 4,096 for 3.2 million.
    """
    nearest = 2 ** round(math.log2(max(2.3 * math.sqrt(tokens), 1)))
    return min(max(nearest, VOCABULARY[0]), VOCABULARY[1])


def _rounded_up(tokens, most):
    return min(-(-tokens // 8) * 8, most)


# (width, depth, width of a head, bottleneck, control tokens of each kind). The first is that of
# configs/quickstart.py, the last that of ELF-B.
NETWORKS = ((128, 4, 32, 64, 1), (384, 6, 64, 128, 4), (768, 12, 64, 128, 4))


def _choose_network(values, facts, on_cpu):
    """A network of NETWORKS by platform and data; what the user has not set fits the width.

    The latents are three quarters as wide, at most 256: 96 was better than 128 for width 128.
    Without a loop over the layers a CPU is faster.
    """
    if values["model.width"] is None:
        large = facts is not None and facts.tokens >= LARGE
        values["model.width"] = NETWORKS[0 if on_cpu else 2 if large else 1][0]
    width = values["model.width"]
    fitting = [one for one in NETWORKS if one[0] <= width] or [NETWORKS[0]]
    _, depth, head, bottleneck, control = fitting[-1]
    _fill(
        values,
        {
            "model.depth": depth,
            "model.heads": _heads(width, head),
            "model.bottleneck": bottleneck,
            "model.time_tokens": control,
            "model.guidance_tokens": control,
            "model.mode_tokens": control,
            "encoder.width": min(max(round(0.75 * width / 32) * 32, 32), 256),
        },
    )
    _fill(values, {"model.unroll": values["model.depth"] if on_cpu else 1})
    latents = T5_WIDTH if values["encoder.kind"] == "t5" else values["encoder.width"]
    mean = time_mean(values["data.vocab_size"], latents, values["objective.noise_scale"])
    if values["model.block_length"] == 1:
        mean = round(mean - ONE_TOKEN, 1)
    _fill(values, {"objective.time_mean": mean})


def _heads(width, head):
    """The number of heads nearest below width / head that gives them an even width."""
    counts = range(max(width // head, 1), 0, -1)
    return next((count for count in counts if width % (2 * count) == 0), 1)


def time_mean(vocab_size, width, noise_scale):
    """The mean of the law of times: log(s sqrt(2 ln V / C)) - 0.7, rounded to a tenth.

    A Gaussian vector of width C, seen through noise at time t, has the signal-to-noise ratio
    (t / (s (1 - t)))^2 and carries C / 2 times that many nats while the ratio is small. ln V nats
    tell one of V tokens from the others, so t / (1 - t) = s sqrt(2 ln V / C) is where a token can
    be told by its own latent alone. Training is for the times before. 0.7 fits what was measured:
    -1 is best for C = 96 and V = 4,096, where this gives -0.9; published is -1.5 for C = 512 and
    V = 32,100, where this gives -1.6.

    Args:
      vocab_size: V. width: C. noise_scale: s.
    """
    odds = noise_scale * math.sqrt(2 * math.log(vocab_size) / width)
    return round(math.log(odds) - 0.7, 1) if odds > 0 else -1.5


def _choose_training(values, facts, on_cpu):
    """Batches, duration, rate and average.

    The learning rate falls with the square of the width: 0.08 was better than 0.04 for width 128,
    and 0.01 was used for 384. More than 0.08 was not tried. The average of the weights reaches over
    a thirtieth of the steps.
    """
    _fill(values, {"train.batch_size": 64 if on_cpu else 128})
    _fill(values, {"train.length_buckets": _buckets(values)})
    _fill(values, {"train.accumulate": _micro_batches(values) if on_cpu else 1})
    _choose_duration(values, facts, on_cpu)
    steps = _steps(values, facts)
    rate = 0.08 * min(128 / values["model.width"], 1) ** 2
    ema = min(max(1 - 30 / steps, 0.99), 0.9999) if steps else 0.999
    every = min(max(round(steps / 10), 100), 5000) if steps else 1000
    _fill(
        values,
        {
            "optimizer.learning_rate": float(f"{rate:.2g}"),
            "optimizer.ema": round(ema, 4),
            "train.validate_every": every,
            "train.checkpoint_every": every,
        },
    )


def _buckets(values):
    """BUCKETS for pairs whose padding can be cut off, where the batch divides; else 1."""
    is_whole = values["method"] == "elf" and not values["model.block_length"]
    left_to_right = reads_from_left(values["method"], values["model.block_length"])
    hides = values["model.hide_padding"] and not is_whole
    can_cut = hides if values["data.pad_source"] else left_to_right
    whole = values["train.batch_size"] % (BUCKET_PARTS * (values["train.accumulate"] or 1)) == 0
    pairs = bool(values["data.source_field"])
    return BUCKETS if pairs and can_cut and whole else 1


def _micro_batches(values):
    """The number of parts, a power of two, in which a batch has few positions at once on a CPU."""
    parts, rows, buckets = 1, values["train.batch_size"], values["train.length_buckets"]
    unit = BUCKET_PARTS if buckets > 1 else 1  # what has to divide
    most = buckets * POSITIONS_AT_ONCE / _positions(values)  # rows of a part
    while rows > most * parts and rows % (2 * parts * unit) == 0:
        if rows < 2 * parts * FEWEST_ROWS * buckets:
            break
        parts *= 2
    return parts


def _choose_duration(values, facts, on_cpu):
    """20 epochs, within bounds. If the user has set a unit, the others are zero."""
    given = any(values[key] for key in DURATION)
    zero = dict(zip(DURATION, (0, 0.0, 0), strict=True))
    steps, epochs, _ = DURATION
    if not given and values[epochs] is None:
        steps_of = values | zero | {epochs: EPOCHS}
        made = _steps(steps_of, facts)
        most = round(MOST_ON_CPU / _positions(values), -2) if on_cpu else math.inf
        bounded = int(max(min(made, most), FEWEST_STEPS)) if made else 0
        if bounded == made or values[steps] is not None:
            values[epochs] = EPOCHS
        else:
            values[steps] = bounded
    _fill(values, zero)


def _positions(values):
    """Positions of a row that a step computes: with blocks, those of the target twice."""
    length = values["data.length"]
    if not values["model.block_length"]:
        return length
    return 2 * length - (values["data.source_length"] if values["data.pad_source"] else 0)


def _steps(values, facts):
    """The steps of the training; 0 if they depend on data that is not known."""
    steps, epochs, examples = (values[key] or 0 for key in DURATION)
    if not epochs:
        return steps or examples // values["train.batch_size"]
    if facts is None:
        return 0
    return max(int(epochs * _rows(values, facts) / values["train.batch_size"]), 1)


def _rows(values, facts):
    packing = values["data.packing"]
    whole = values["data.source_field"] or values["data.kind"] == "unicode_names"
    if facts.rows:
        return facts.rows
    if packing == "rows" or (packing == "auto" and whole):
        return facts.texts
    return max(facts.tokens // values["data.length"], 1)
