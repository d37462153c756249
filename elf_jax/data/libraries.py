"""Data sets by name, through the libraries that keep them: TensorFlow Datasets (without
TensorFlow) and Hugging Face `datasets`.

Both give documents by number. A library object travels to other processes as its settings and
opens the data there again.
"""

import pathlib

from elf_jax.core.errors import UserError

TRAIN, VALIDATION = "train", "validation"


class _Library:
    """What both have in common: the sides, the fields, and how they travel."""

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

    def _name(self, part):
        """(data set, split) of a part."""
        s = self.settings
        if part == TRAIN:
            return s.path, s.split
        return s.validation_path or s.path, s.validation_split or s.split

    def _source(self, part):
        if part not in self._open:
            self._open[part] = self._load(*self._name(part))
        return self._open[part]

    def size(self, part):
        """Number of documents."""
        return len(self._source(part))

    def _fields(self):
        return [name for name in (self.settings.field, self.settings.source_field) if name]


class TensorFlowDatasets(_Library):
    """`tfds.data_source`: a name such as wmt14_translate/de-en, or a directory of one version
    with dataset_info.json; random access needs the array_record format.
    """

    def _load(self, name, split):
        import tensorflow_datasets as tfds

        try:
            if pathlib.Path(name, "dataset_info.json").is_file():
                return tfds.builder_from_directory(name).as_data_source(split=split)
            return tfds.data_source(name, split=split)
        except Exception as error:  # whatever a data set's own code may raise
            raise UserError(
                f"tfds cannot read split {split!r} of {name!r} ({_first_line(error)}): check "
                "config.data.path and config.data.split, and that TFDS_DATA_DIR holds it in "
                "array_record format or that it can be downloaded"
            ) from None

    def revision(self):
        """Full name with the version, and the sizes of the splits."""
        parts = [TRAIN, VALIDATION] if self.has_validation else [TRAIN]
        names = [f"{self._source(part).dataset_info.full_name}:{self.size(part)}" for part in parts]
        return " ".join(names)

    def read(self, part, start, stop):
        """(texts, sources or Nones) of the documents start to stop.

        Raises:
          UserError: a field that is missing or holds no text.
        """
        records = self._source(part).__getitems__(list(range(start, stop)))
        columns = [[self._text(record, name) for record in records] for name in self._fields()]
        return columns[0], columns[1] if len(columns) > 1 else [None] * len(records)

    def _text(self, record, name):
        value = _nested(record, name)
        if not isinstance(value, bytes | str):
            raise _no_field(self.settings, name, record, value)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class HuggingFace(_Library):
    """The `datasets` library: a hub name (with a configuration: NAME:CONFIGURATION), or a
    directory made by `save_to_disk`.

    A field of integers is taken for token ids: the data set is pre-tokenised.
    """

    def __init__(self, settings):
        super().__init__(settings)
        record = self._source(TRAIN)[0] if self.size(TRAIN) else {}
        values = [_nested(record, name) for name in self._fields()]
        for name, value in zip(self._fields(), values, strict=True):
            if not isinstance(value, str | list):
                raise _no_field(settings, name, record, value)
        self.pretokenized = all(isinstance(value, list) for value in values)

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
        except Exception as error:  # whatever the network or a data set may raise
            raise UserError(
                f"datasets cannot load {name!r} ({_first_line(error)}): give a name on the hub, "
                "NAME:CONFIGURATION, or a directory made by save_to_disk as config.data.path"
            ) from None
        if isinstance(data, dict):
            if split not in data:
                raise UserError(
                    f"{name!r} has no split {split!r} (splits there: {', '.join(data)}): set "
                    "config.data.split and config.data.validation_split"
                )
            data = data[split]
        self._versions[name, split] = data._fingerprint
        columns = [field.split(".")[0] for field in self._fields()]
        there = [column for column in dict.fromkeys(columns) if column in data.column_names]
        # Columns that are not asked for are not read; a missing one is told of by name later.
        return data.select_columns(there) if len(there) == len(set(columns)) else data

    def revision(self):
        """The fingerprints that the library keeps of its data, and the sizes."""
        parts = [TRAIN, VALIDATION] if self.has_validation else [TRAIN]
        names = [f"{self.size(part)}:{self._versions[self._name(part)]}" for part in parts]
        return " ".join(names)

    def read(self, part, start, stop):
        """(texts or ids, sources or Nones) of the documents start to stop.

        Raises:
          UserError: a field that is missing or holds neither text nor ids.
        """
        data = self._source(part)[start:stop]
        columns = [self._column(data, name) for name in self._fields()]
        return columns[0], columns[1] if len(columns) > 1 else [None] * len(columns[0])

    def _column(self, data, name):
        first, *rest = name.split(".")
        values = data.get(first, [])
        if rest:
            values = [_nested(value, ".".join(rest)) for value in values]
        kind = list if self.pretokenized else str
        values = [kind() if value is None else value for value in values]  # empty, and so dropped
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong or first not in data:
            raise _no_field(self.settings, name, data, wrong[0] if wrong else None)
        return values


def _nested(record, name):
    """The value at a dotted name, or None."""
    for key in name.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _no_field(settings, name, record, value):
    there = ", ".join(sorted(record)) or "none"
    fault = "is missing" if value is None else f"is a {type(value).__name__}, not text"
    return UserError(
        f"{settings.path}: field {name!r} {fault} (fields there: {there}): set config.data.field "
        "and config.data.source_field"
    )


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
