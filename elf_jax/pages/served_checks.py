"""Checks what a visitor of the served page sends. Each refusal is one sentence for the visitor.

What comes in is not trusted: programs may send anything in place of a number or a text.
"""

import math
import unicodedata

from elf_jax.core.errors import UserError

MOST_CHARACTERS = 20_000
SHOWN = 40  # characters of a wrong value that a message repeats
KEPT = "\n\r\t"  # control characters that a text may have


def check_values(settings, values):
    """{name: value} of the settings of a task, each with the type that its key has.

    Args:
      settings: list of `Setting`. values: what was sent for each of them.

    Raises:
      UserError: a value is missing, of another type, or not in its range.
    """
    if len(values) != len(settings):
        raise UserError(f"{len(settings)} settings are needed, and {len(values)} were sent")
    pairs = zip(settings, values, strict=True)
    return {setting.name: check_value(setting, value) for setting, value in pairs}


def check_value(setting, value):
    """The value of a `Setting`, with its type. Raises UserError."""
    wanted = type(setting.value)
    if setting.choices:
        known = [one for one in setting.choices if type(one) is type(value) and one == value]
        if not known:
            options = ", ".join(str(one) for one in setting.choices)
            raise UserError(f"{setting.label} is {shown(value)}: choose one of {options}")
        return known[0]
    bounds = f"{_text(setting.low)} to {_text(setting.high)}"
    kind = "a whole number" if wanted is int else "a number"
    if not _is_number(value) or (wanted is int and value != int(value)):
        raise UserError(f"{setting.label} is {shown(value)}: give {kind} from {bounds}")
    if not setting.low <= value <= setting.high:
        raise UserError(f"{setting.label} is {_text(value)}: give {kind} from {bounds}")
    return wanted(value)


def _is_number(value):
    """Whether a value is a finite number. JSON may have NaN and Infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def check_text(value, name):
    """A text that a visitor has sent.

    Args:
      value: anything. name: of the text, for messages, such as "the template".

    Raises:
      UserError: it is no text, empty, too long, or has characters that are no text.
    """
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name} is {shown(value)}: send a text")
    if not value or not value.strip():
        raise UserError(f"{name} is empty: write something")
    if len(value) > MOST_CHARACTERS:
        raise UserError(
            f"{name} has {len(value):,} characters, and this page takes at most "
            f"{MOST_CHARACTERS:,}: shorten it"
        )
    for place, character in enumerate(value, 1):
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and character not in KEPT):
            raise UserError(
                f"{name} has a control character, U+{ord(character):04X}, at place {place}: take "
                "it out"
            )
    return value


def check_lines(value, name, most):
    """The lines of a text, without those that are empty.

    Args:
      value, name: as for `check_text`. most: number of lines that are allowed.

    Raises:
      UserError: as for `check_text`, or there are too many lines.
    """
    text = check_text(value, name).replace("\r\n", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > most:
        raise UserError(
            f"{name} has {len(lines):,} lines, and this page takes at most {most:,}: send fewer"
        )
    return lines


def shown(value):
    """A value that was sent, as a message repeats it."""
    if value is None or value == "":
        return "empty"
    try:
        text = ascii(value) if not isinstance(value, str) or not value.isprintable() else value
    except (ValueError, RecursionError):  # a number with thousands of digits
        text = "too large to be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _text(number):
    """A number for people: 1,024 and 0.05."""
    try:
        return f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"
    except (ValueError, OverflowError):
        return "a huge number"
