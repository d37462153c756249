"""The form of a manifest: its parts and their types. What is not of this form is damaged."""

from elf_jax.data.split import TRAIN, VALIDATION

CORPUS_PLACES = ("path", "validation_path")  # options that say only where the corpus is


def _is(*types):
    return lambda value: isinstance(value, types)


def _are_counts(counts):
    """Whether `counts` are those of a side: numbers, with all that are always there."""
    return {"documents", "tokens"} <= {*counts} and all(map(_is(int), counts.values()))


def _are_options(options):
    return all(isinstance(options[key], str) for key in CORPUS_PLACES)


def _are_sides(sides):
    return {*sides} <= {TRAIN, VALIDATION} and all(
        wrong_key(SHARD, part["shard"]) is None and _are_counts(part["counts"])
        for part in sides.values()
    )


# {key: function (value) -> whether it has the right form}.
SHARD = {"name": _is(str), "rows": _is(int), "bytes": _is(int), "sha256": _is(str)}
UNIT = {"number": _is(int), "empty": _is(int), "sides": _are_sides}
STARTED = {"options": _are_options, "revision": _is(str)}
MANIFEST = {
    **STARTED,
    "pretokenized": _is(bool),
    "dtype": lambda name: name in ("<u2", "<u4"),
    "counts": lambda counts: all(
        _are_counts(counts[side]) and "rows" in counts[side] for side in (TRAIN, VALIDATION)
    ),
    "empty": _is(int),
    "bad_lines": _is(int),
    "fill": _is(int, float),
    "units": lambda units: (
        isinstance(units, list) and not any(wrong_key(UNIT, one) for one in units)
    ),
    "fingerprint": _is(str),
}


def wrong_key(form, values):
    """The first key of a form that is missing in `values` or has a value of another form, or None.

    Args:
      form: one of the tables above. values: from a JSON file.
    """
    for key, is_whole in form.items():
        try:
            if not is_whole(values[key]):
                return key
        except (KeyError, TypeError, AttributeError):
            return key
    return None
