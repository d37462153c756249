"""Data sets by name, from directories in the formats of TensorFlow Datasets and Hugging Face."""

import pickle
import sys
import types

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds

from elf_jax.core import defaults
from elf_jax.data import corpora
from elf_jax.data import tokenizer as tok
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example
from elf_jax.data.prepare import prepare
from tests.data.helpers import fails

PAIRS = [(f"haus nummer {i}", f"house number {i}") for i in range(30)]


class Pairs(tfds.core.GeneratorBasedBuilder):
    """Thirty pairs to train on and five to validate with."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"de": tfds.features.Text(), "en": tfds.features.Text()}
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30), "validation": self._generate_examples(5)}

    def _generate_examples(self, count):
        yield from ((i, {"de": de, "en": en}) for i, (de, en) in enumerate(PAIRS[:count]))


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    builder = Pairs(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


@pytest.fixture
def data(tmp_path):
    config = defaults.get_config()
    config.data.update({"tokenizer": "bpe", "vocab_size": 300})
    texts = [Example(side) for pair in PAIRS for side in pair]
    tok.save_tokenizer(tok.train_tokenizer(config.data, texts), tmp_path / "tokenizer")

    def make(**keys):
        config = defaults.get_config()
        values = {
            "prepared": str(tmp_path / "prepared"),
            "tokenizer": str(tmp_path / "tokenizer"),
            "field": "en",
            "source_field": "de",
            "source_length": 20,
            "length": 40,
        }
        config.data.update({**values, **keys})
        return config.data

    return make


def pairs(dataset, rows):
    decode = dataset.tokenizer.decode
    fields = rows.take(slice(None))
    return [
        (decode(t[c]), decode(t[v & ~c]))
        for t, c, v in zip(fields["tokens"], fields["is_cond"], fields["is_valid"], strict=True)
    ]


ENDED_BY_NUMBER = [(f"{de}</s>", f"{en}</s>") for de, en in PAIRS]
ENDED = sorted(ENDED_BY_NUMBER)


def test_tfds_directory(tfds_directory, data, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "UNIT_DOCUMENTS", 8)
    keys = {"kind": "tfds", "path": tfds_directory}
    settings = data(**keys, validation_split="validation")
    prepare(settings, workers=1)
    dataset = load_dataset(settings, tmp_path / "none")
    assert sorted(pairs(dataset, dataset.train)) == ENDED and len(dataset.validation) == 5
    assert dataset.validation_examples[0].text.startswith("house number")
    manifest = prepare(settings)  # checks the existing shards
    assert "1.2.0" in manifest["revision"] and len(manifest["units"]) == 5
    assert "tensorflow" not in sys.modules
    # Without a validation split, a part is held out. Every pair is on one of the two sides.
    monkeypatch.undo()
    dataset = load_dataset(data(**keys, prepared=str(tmp_path / "2"), validation_fraction=0.3), "-")
    both = pairs(dataset, dataset.train) + pairs(dataset, dataset.validation)
    assert sorted(both) == ENDED and 2 < len(dataset.validation) < 20


def test_tfds_mistakes(tfds_directory, data):
    keys = {"kind": "tfds", "path": tfds_directory}
    assert "split 'dev'" in fails(prepare, data(**keys, split="dev"))
    message = fails(prepare, data(**keys, field="fr"), workers=1)
    assert "field 'fr' is missing (fields there: de, en)" in message
    assert "nowhere" in fails(prepare, data(kind="tfds", path="nowhere_at_all"))
    assert "which is trained on" in fails(prepare, data(**keys, validation_split="train"))
    assert "set config.data.prepared" in fails(load_dataset, data(**keys, prepared=""), "-")


def hugging_face(directory, rows=30, **columns):
    data = datasets.Dataset.from_dict({name: values[:rows] for name, values in columns.items()})
    data.save_to_disk(directory)
    return str(directory)


def test_hugging_face_directory(data, tmp_path):
    translation = [{"de": de, "en": en} for de, en in PAIRS] + [{"de": "leer", "en": None}]
    splits = {
        "train": datasets.Dataset.from_dict({"translation": translation}),
        "test": datasets.Dataset.from_dict({"translation": translation[:4]}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "hub")
    keys = {"kind": "hf", "path": str(tmp_path / "hub"), "field": "translation.en"}
    settings = data(**keys, source_field="translation.de", validation_split="test")
    manifest = prepare(settings, workers=1)
    dataset = load_dataset(settings, tmp_path / "none")
    assert sorted(pairs(dataset, dataset.train)) == ENDED and len(dataset.validation) == 4
    assert manifest["empty"] == 1 and not manifest["pretokenized"]
    message = fails(prepare, data(**keys, prepared="-", split="dev"))
    assert "no split 'dev' (splits there: train, test)" in message
    message = fails(prepare, data(**keys | {"field": "en"}, prepared="-"))
    assert "field 'en' is missing (fields there: translation.de, translation.en)" in message
    assert "save_to_disk" in fails(prepare, data(kind="hf", path=str(tmp_path), prepared="-"))


def test_null_values_are_empty_wherever_they_are(data, tmp_path):
    """Also in the first document. And a name with a dot comes before a field in a field."""
    columns = {"de.x": [None, *(de for de, _ in PAIRS[1:])], "de": [{"x": "no"}] * 30}
    path = hugging_face(tmp_path / "hub", **columns, en=[en for _, en in PAIRS[:-1]] + [None])
    keys = {"kind": "hf", "path": path, "source_field": "de.x", "validation_fraction": 0.3}
    manifest = prepare(data(**keys), workers=1)
    dataset = load_dataset(data(**keys), tmp_path / "none")
    both = pairs(dataset, dataset.train) + pairs(dataset, dataset.validation)
    assert sorted(both) == sorted(ENDED_BY_NUMBER[1:-1]) and manifest["empty"] == 2
    path = hugging_face(tmp_path / "null", de=[None] * 30, en=["a"] * 30)
    message = fails(prepare, data(kind="hf", path=path, prepared=str(tmp_path / "2")))
    assert "field 'de' is null in the first 1,000 documents" in message


def test_pretokenised_rows_are_used_as_they_are(data, tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 200, rng.integers(1, 30)).tolist() + [1] for _ in range(40)]
    conditions = [rng.integers(3, 200, rng.integers(1, 30)).tolist() for _ in range(40)]
    path = hugging_face(tmp_path / "train", 40, input_ids=rows, condition_input_ids=conditions)
    held_out = hugging_face(tmp_path / "val", 6, input_ids=rows, condition_input_ids=conditions)
    keys = {"kind": "hf", "path": path, "validation_path": held_out, "field": "input_ids"}
    dataset = load_dataset(data(**keys, source_field="condition_input_ids"), "-")
    assert len(dataset.train) == 40 and len(dataset.validation) == 6 and dataset.whole
    fields = dataset.train.take(slice(None))
    for i, (row, condition) in enumerate(zip(rows, conditions, strict=True)):
        expected = (condition[:20] + row)[:40]
        assert fields["tokens"][i][fields["is_valid"][i]].tolist() == expected
        assert fields["is_cond"][i].sum() == min(len(condition), 20)
    assert dataset.summary["sources_cut"] == sum(len(c) > 20 for c in conditions)
    alone = load_dataset(data(**keys, source_field="", prepared=str(tmp_path / "2")), "-")
    assert not alone.whole and not alone.conditional
    small = {"prepared": str(tmp_path / "3"), "source_field": ""}
    message = fails(prepare, data(**keys, **small, tokenizer="bpe"), workers=1)
    assert "is pre-tokenised: set config.data.tokenizer" in message


def test_token_ids_of_another_vocabulary_are_refused(data, tmp_path):
    path = hugging_face(tmp_path / "train", 2, input_ids=[[5, 6], [900, 1]])
    settings = data(kind="hf", path=path, field="input_ids", source_field="")
    assert "token ids from 1 to 900" in fails(prepare, settings, workers=1)


def test_a_corpus_travels_to_workers(tfds_directory, data, tmp_path):
    path = hugging_face(tmp_path / "train", de=[pair[0] for pair in PAIRS], en=["x"] * 30)
    for kind, name in (("tfds", tfds_directory), ("hf", path)):
        settings = types.SimpleNamespace(**data(kind=kind, path=name).to_dict())
        corpus = corpora.open_corpus(settings)
        (unit,) = corpus.units()
        there, payload = pickle.loads(pickle.dumps((corpus, unit.payload)))
        examples = list(there.read(payload))
        assert len(examples) == 30 and examples == list(corpus.read(unit.payload))
