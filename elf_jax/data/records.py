"""Records: objects with named fields, read from JSON lines or from the rows of Parquet files."""

import json

from elf_jax.core.errors import UserError
from elf_jax.data.fields import Missing, field_names, find_field, top_key
from elf_jax.data.opening import cannot_read, import_pyarrow, open_raw, signature
from elf_jax.data.text_files import decode_utf8

MANY = 1000  # bad lines without one good line: then the config is wrong, not the lines
BATCH = 64  # rows of a Parquet file that are in memory at once
PARQUET_BUFFER = 1 << 20  # bytes of a column that are read at once

MEND = "mend or remove the line"
SKIP = "set config.data.bad_lines=skip"
FIELDS = "set config.data.field and config.data.source_field"
FORM = "write one JSON object on every line, or set config.data.kind=text if it is plain text"


class BadLine(Exception):
    """A fault of one line (or row of a table).

    Attributes:
      remedy: what to do about it. of_all: what to do if the first line has it, as then all have.
    """

    def __init__(self, fault, of_all, remedy=MEND):
        super().__init__(fault)
        self.of_all, self.remedy = of_all, remedy


class BadLines:
    """What happens to bad lines: the first one is an error, or all are skipped and counted.

    Args:
      settings: config section `data`.

    Attributes:
      count: how many were skipped. good: whether there was a good line.
      first: the first `BadLine`, None without any.
    """

    def __init__(self, settings):
        self.skip = settings.bad_lines == "skip"
        self.count, self.first, self.good = 0, None, False

    def add(self, error, is_first):
        """Counts a `BadLine`; `is_first`: it is the first line of a file.

        Raises:
          UserError: bad lines are not skipped, or there are very many and not one good line.
        """
        if not self.skip:
            remedy = error.of_all if is_first else error.remedy
            more = "" if remedy == FIELDS else f", or {SKIP}"
            raise UserError(f"{error}: {remedy}{more}")
        self.count += 1
        self.first = self.first or error
        if self.count >= MANY:
            self.check()

    def check(self):
        """Raises UserError if there were bad lines and not one good line."""
        if self.count and not self.good:
            raise UserError(
                f"not one of {self.count:,} lines is good; {self.first}: {self.first.of_all}"
            )


def json_records(file, data, bad, first_line=1, first_byte=0):
    """Yields (line number, record) of JSON lines.

    Args:
      file, first_line, first_byte: where `data` was read from, for messages.
      data: bytes, whole lines. bad: a `BadLines`, for lines that are no JSON object.

    Raises:
      UserError: a bad line, or a file that is JSON but not JSON lines.
    """
    for number, line in enumerate(data.split(b"\n"), first_line):
        byte, first_byte = first_byte, first_byte + len(line) + 1
        if line.strip():
            try:
                yield number, parse_line(file, line, number, byte)
            except BadLine as error:
                bad.add(error, number == 1)


def parse_line(file, line, number, byte=0):
    """The record in a line of JSON.

    Args:
      line: bytes. file, number, byte: where the line begins.

    Raises:
      BadLine: it is not a JSON object in UTF-8. UserError: it is the first line, and shows that the
        whole file is something else.
    """
    try:
        text = decode_utf8(file, line, number, byte).removeprefix("\ufeff")
    except UserError as error:
        if number == 1 and (signature(line) or b"\0" in line):
            raise
        fault, _, remedy = str(error).rpartition(": ")
        raise BadLine(fault, remedy, remedy) from None
    try:
        values, fault = json.loads(text), "is not a JSON object"
    except (ValueError, RecursionError) as error:
        values, fault = None, f"is not valid JSON ({error})"
    if number == 1:
        _check_form(file, text.strip(), values)
    if not isinstance(values, dict):
        raise BadLine(f"{file} line {number} {fault}", FORM)
    return values


def _check_form(file, text, values):
    """Raises UserError if the first line of a file begins a JSON text of several lines."""
    is_list = isinstance(values, list) and values and isinstance(values[0], dict)
    if is_list or (values is None and text.startswith("[")):
        form, command = "one JSON array", "jq -c '.[]'"
    elif text == "{":
        form, command = "JSON with objects over several lines", "jq -c ."
    else:
        return
    raise UserError(
        f"{file} is {form}, not JSON lines: write one object on every line, for example with "
        f"{command} FILE > FILE.jsonl"
    )


def text_field(record, name, place):
    """The text in a field of a record.

    Args:
      name: of the field, see `find_field`. place: file and line, for messages.

    Raises:
      BadLine: the field is missing, or holds no text.
    """
    value = find_field(record, name)
    if isinstance(value, str):
        return _whole_characters(value, name, place)
    fault = "is missing" if value is Missing else f"is not a string but a {type(value).__name__}"
    if value is None:
        fault = "is null"
    fault = f"{place}: field {name!r} {fault} (fields there: {field_names(record)})"
    raise BadLine(fault, f"{MEND}, or {FIELDS}" if value is None else FIELDS)


def _whole_characters(value, name, place):
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair ({value[error.start]!a}), which is no character"
        raise BadLine(f"{place}: field {name!r} has {half}", MEND) from None
    return value


def parquet_records(file, names, remedy=FIELDS):
    """Yields (number of the first row, records) of consecutive rows of a Parquet file.

    A few rows at a time are in memory, with the columns of the fields `names` only. `remedy` is
    what to do if one of them is missing.

    Raises:
      UserError: the file cannot be read or has no rows, a field is missing, or pyarrow is.
    """
    pyarrow = import_pyarrow("Parquet files")
    from pyarrow.parquet import ParquetFile  # pyarrow alone does not import it

    first = 1
    try:
        with open_raw(file) as opened:
            # pre_buffer would read a column of a whole row group, often of the whole file, at once.
            table = ParquetFile(opened, buffer_size=PARQUET_BUFFER, pre_buffer=False)
            columns = _columns(file, table.schema_arrow, names, remedy)
            for batch in table.iter_batches(BATCH, columns=columns):
                records = batch.to_pylist()
                yield first, records
                first += len(records)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise cannot_read(file, error) from None
    if first == 1:
        raise UserError(f"{file} has no rows: remove it from the config, or fill it")


def _columns(file, schema, names, remedy):
    """The columns with the fields `names`. Raises UserError if one is missing."""
    record = {column.name: _form(column.type) for column in schema}
    for name in names:
        if find_field(record, name) is Missing:
            raise UserError(
                f"{file}: field {name!r} is missing (fields there: {field_names(record)}): {remedy}"
            )
    return list(dict.fromkeys(top_key(name, record) for name in names))


def _form(kind):
    """The type of a column: for a struct a dict of its fields, otherwise None."""
    if hasattr(kind, "num_fields") and str(kind).startswith("struct<"):
        return {kind.field(i).name: _form(kind.field(i).type) for i in range(kind.num_fields)}
    return None
