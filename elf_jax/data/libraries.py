"""Data sets by name, read through the libraries that keep them: TensorFlow Datasets (without
TensorFlow) and Hugging Face `datasets`.

Both libraries give documents by number. An object of this module can be sent to another process:
it takes its settings along and opens the data there again.
"""

import pathlib

from elf_jax.core.errors import UserError
from elf_jax.data.fields import Missing, field_names, find_field, top_key
from elf_jax.data.split import TRAIN, VALIDATION

FIRST = 1000  # documents, at most, among which there must be one with a value


class _Library:
    """What both libraries have in common.

    Attributes:
      has_validation: whether the config names a validation split or data set.
      pretokenized: whether the documents are token ids.

    Args:
      settings: config section `data`.

    Raises:
      UserError: no data set is named, or training and validation are the same split.
    """

    pretokenized = False

    def __init__(self, settings):
        if not settings.path:
            raise UserError(
                f"config.data.path is empty: name the data set for config.data.kind={settings.kind}"
            )
        self.settings = settings
        self.has_validation = bool(settings.validation_path or settings.validation_split)
        self._check_apart()
        self._open, self._versions = {}, {}

    def __getstate__(self):
        return {**self.__dict__, "_open": {}}

    def _check_apart(self):
        s = self.settings
        same = s.validation_path in ("", s.path) and s.validation_split in ("", s.split)
        if self.has_validation and same:
            raise UserError(
                f"config.data.validation_split is {s.split!r}, which is trained on: name another "
                "split, or leave it empty to split a part off"
            )

    def _name(self, side):
        """(data set, split) of a side."""
        s = self.settings
        if side == TRAIN:
            return s.path, s.split
        return s.validation_path or s.path, s.validation_split or s.split

    def _data(self, side):
        if side not in self._open:
            self._open[side] = self._load(*self._name(side))
        return self._open[side]

    def _sides(self):
        return [TRAIN, VALIDATION] if self.has_validation else [TRAIN]

    def size(self, side):
        """Number of documents of a side."""
        return len(self._data(side))

    def _fields(self):
        return [name for name in (self.settings.field, self.settings.source_field) if name]


class TensorFlowDatasets(_Library):
    """Data sets of `tfds.data_source`, by a name such as wmt14_translate/de-en or by the directory
    of one version, which holds dataset_info.json. They must be in array_record format, because
    documents are read by number.
    """

    def _load(self, name, split):
        import tensorflow_datasets as tfds

        try:
            if pathlib.Path(name, "dataset_info.json").is_file():
                return tfds.builder_from_directory(name).as_data_source(split=split)
            return tfds.data_source(name, split=split)
        except Exception as error:  # the code of a data set may raise anything
            raise UserError(
                f"tfds cannot read split {split!r} of {name!r} ({_first_line(error)}): check "
                "config.data.path and config.data.split, and that TFDS_DATA_DIR holds it in "
                "array_record format or that it can be downloaded"
            ) from None

    def revision(self):
        """Text that changes with the data: full names with versions, and sizes."""
        names = [
            f"{self._data(side).dataset_info.full_name}:{self.size(side)}" for side in self._sides()
        ]
        return " ".join(names)

    def read(self, side, start, stop):
        """Documents `start` to `stop` of a side.

        Returns:
          (texts, sources), two lists of strings; without a source field the second is of Nones.

        Raises:
          UserError: a field that is missing or holds no text.
        """
        documents = self._data(side).__getitems__(list(range(start, stop)))
        columns = [
            [self._text(document, name) for document in documents] for name in self._fields()
        ]
        return columns[0], columns[1] if len(columns) > 1 else [None] * len(documents)

    def _text(self, document, name):
        value = find_field(document, name)
        if not isinstance(value, bytes | str):
            raise _no_field(self.settings, name, document, value)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class HuggingFace(_Library):
    """Data sets of the `datasets` library, by a name on the hub (with a configuration:
    NAME:CONFIGURATION) or by a directory that `save_to_disk` made.

    A field that holds lists of integers is taken for token ids: the data set is pre-tokenised.
    """

    def __init__(self, settings):
        super().__init__(settings)
        values = [self._first_value(name) for name in self._fields()]
        self.pretokenized = all(isinstance(value, list) for value in values)

    def _first_value(self, name):
        """The first value of a field that is not null, among the first documents."""
        document, value = {}, Missing
        for document in self._data(TRAIN).select(range(min(FIRST, self.size(TRAIN)))):
            value = find_field(document, name)
            if value is not None and value is not Missing:
                break
        if not isinstance(value, str | list):
            raise _no_field(self.settings, name, document, value)
        return value

    def _load(self, name, split):
        try:
            import datasets
        except ImportError:
            raise UserError(
                "config.data.kind=hf needs the datasets library: pip install -e '.[hf]'"
            ) from None
        try:
            if pathlib.Path(name).is_dir():
                data = datasets.load_from_disk(name)
            else:
                path, _, configuration = name.partition(":")
                data = datasets.load_dataset(path, configuration or None)
        except Exception as error:  # the network or a data set may raise anything
            raise UserError(
                f"datasets cannot load {name!r} ({_first_line(error)}): give a name on the hub, "
                "NAME:CONFIGURATION, or a directory made by save_to_disk as config.data.path; "
                "JSON lines and Parquet files are read with config.data.kind=jsonl"
            ) from None
        if isinstance(data, dict):
            if split not in data:
                raise UserError(
                    f"{name!r} has no split {split!r} (splits there: {', '.join(data)}): set "
                    "config.data.split and config.data.validation_split"
                )
            data = data[split]
        self._versions[name, split] = data._fingerprint
        columns = [top_key(field, data.column_names) for field in self._fields()]
        there = [column for column in dict.fromkeys(columns) if column in data.column_names]
        # Other columns are not read. If one is missing, all stay, so that the error can list them.
        return data.select_columns(there) if len(there) == len(set(columns)) else data

    def revision(self):
        """Text that changes with the data: the library's own fingerprints, and sizes."""
        names = [f"{self.size(side)}:{self._versions[self._name(side)]}" for side in self._sides()]
        return " ".join(names)

    def read(self, side, start, stop):
        """Documents `start` to `stop` of a side.

        Returns:
          (texts, sources), two lists of strings, or of lists of token ids if pre-tokenised; without
          a source field the second is of Nones.

        Raises:
          UserError: a field that is missing, or holds neither text nor token ids.
        """
        data = self._data(side)[start:stop]
        columns = [self._column(data, name) for name in self._fields()]
        return columns[0], columns[1] if len(columns) > 1 else [None] * len(columns[0])

    def _column(self, data, name):
        first = top_key(name, data)
        rows = [{first: value} for value in data.get(first, [])]
        values = [find_field(row, name) for row in rows]
        kind = list if self.pretokenized else str
        # Null is an empty text, which is dropped later. So is a field of a record that is null.
        values = [kind() if value is None or value is Missing else value for value in values]
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong or first not in data:
            raise _no_field(self.settings, name, data, wrong[0] if wrong else Missing)
        return values


LIBRARIES = {"tfds": TensorFlowDatasets, "hf": HuggingFace}  # by config.data.kind


def _no_field(settings, name, document, value):
    fault = f"is a {type(value).__name__}, not text"
    if value is Missing or value is None:
        fault = "is missing" if value is Missing else f"is null in the first {FIRST:,} documents"
    return UserError(
        f"{settings.path}: field {name!r} {fault} (fields there: {field_names(document)}): set "
        "config.data.field and config.data.source_field"
    )


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
