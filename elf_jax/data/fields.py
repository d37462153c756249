"""Fields of a record, by names such as text or translation.en."""

SHOWN = 20  # names in a message, at most


class Missing:
    """What `find_field` returns for a field that is not there."""


def find_field(record, name):
    """The value of a field of a record, or `Missing`.

    A key that is called `name` comes first, even with dots in it. Otherwise a.b is the field b of
    the record in the field a.

    Args:
      record: a dict; anything else has no fields.
    """
    if not isinstance(record, dict):
        return Missing
    if name in record:
        return record[name]
    first, dot, rest = name.partition(".")
    return find_field(record.get(first), rest) if dot else Missing


def top_key(name, keys):
    """The one of a record's keys that holds the field `name`, as `find_field` finds it."""
    return name if name in keys else name.partition(".")[0]


def field_names(record):
    """The names of a record's fields, as a config names them: text for messages."""
    names = []
    for key, value in record.items():
        inner = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
        names += inner or [str(key)]
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more or "none"
