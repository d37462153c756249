"""Protocols over seeds: numbers are computed, kept and found again; missing parts are named."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest

from elf_jax.checkpoints.trained import load_trained
from elf_jax.checkpoints.weights import fingerprint
from elf_jax.core import config as config_module
from elf_jax.core import defaults
from elf_jax.core.checks import check_evaluation, resolve_metrics
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import RECORDS, SAMPLES, TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.evaluation import evaluate as module
from elf_jax.evaluation import kept_samples, tables
from elf_jax.evaluation.evaluate import evaluate
from elf_jax.evaluation.kept_samples import KeptSamples
from elf_jax.evaluation.metrics import references
from elf_jax.evaluation.pairs import held_out_pairs
from elf_jax.evaluation.protocols import make_protocol, protocols_of
from elf_jax.evaluation.records import Records
from elf_jax.evaluation.scorer import find_scorer, generative_perplexity, load_scorer
from elf_jax.generation.generate import generate_texts
from tests.tiny import pairs_config, save_random_scorer, save_random_weights, tiny_config

pytestmark = pytest.mark.usefixtures("share_programs")

TWO = {
    "one": {"steps": 2, "gamma": 1.0},
    "two": {"steps": 2, "gamma": 0.5, "guidance_scale": 2.0},
}
COUNT = 5


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A workdir of an unconditional model with random weights and a random scorer in it, its
    `TrainedModel` and its `Dataset`.
    """
    config = tiny_config(**{"evaluate.protocols": TWO, "evaluate.seeds": 2})
    workdir = save_random_weights(config, tmp_path_factory.mktemp("names") / "run")
    trained = load_trained(workdir)
    save_random_scorer(workdir / "scorer", trained.tokenizer)
    return workdir, trained, load_dataset(config.data, workdir / TOKENIZER)


@pytest.fixture(scope="module")
def evaluated(names):
    workdir, trained, dataset = names
    return evaluate(trained, dataset, workdir), read(workdir)


def read(workdir):
    return [json.loads(line) for line in (workdir / RECORDS).open(encoding="utf-8")]


def values(records, metric):
    return {(r["protocol"], r["seed"]): r["value"] for r in records if r["metric"] == metric}


def test_every_number_is_a_record_with_its_provenance(names, evaluated):
    workdir, trained, dataset = names
    numbers, records = evaluated
    found = values(records, "gen_ppl")
    runs = {(protocol, seed) for protocol in ("one", "two") for seed in (0, 1)}
    assert found.keys() == {*runs, (tables.REAL, None)} and len(set(found.values())) == 5
    record = next(r for r in records if r["metric"] == "gen_ppl" and r["protocol"] == "two")
    expected = {
        "step": 5,
        "weights": "ema",
        "weights_fingerprint": fingerprint(trained.params),
        "checkpoint": str(workdir),
        "sampler": "sde",
        "steps": 2,
        "gamma": 0.5,
        "guidance_scale": 2.0,
        "cfg_scale": 1.0,
        "time_grid": "logit_normal_quantile",
        "compute_dtype": "float32",
        "scorer": str(workdir / "scorer"),
        "n": COUNT,
        "split": "0.1 of the data, split off by a hash",
    }
    assert expected.items() <= record.items()
    assert record["scorer_revision"].startswith("sha256:")
    assert {"jax", "elf_jax"} <= record["packages"].keys() and {"device", "date"} <= record.keys()
    stored = json.loads((workdir / "evaluation.json").read_text())
    assert stored == json.loads(json.dumps(numbers))


def test_samples_are_kept_and_are_those_that_were_scored(names, evaluated):
    workdir, trained, dataset = names
    _, records = evaluated
    record = next(
        r for r in records if (r["metric"], r["protocol"], r["seed"]) == ("gen_ppl", "two", 1)
    )
    lines = (workdir / SAMPLES / record["samples"]).read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    settings = make_protocol("two", trained.config.sample, TWO["two"]).sample
    assert texts == generate_texts(trained.with_settings(settings), COUNT, 1)
    config = trained.config.copy_and_resolve_references()
    config.scorer.path = str(workdir / "scorer")
    scorer = load_scorer(config.scorer, trained.mesh)
    again = generative_perplexity(scorer, texts)
    assert again["gen_ppl"] == record["value"]
    assert values(records, "gen_entropy")["two", 1] == again["entropy"]


def test_means_and_standard_errors(evaluated):
    numbers, records = evaluated
    for protocol in ("one", "two"):
        found = [values(records, "gen_ppl")[protocol, seed] for seed in (0, 1)]
        shown = numbers["protocols"][protocol]["gen_ppl"]
        assert shown["mean"] == pytest.approx(np.mean(found)) and shown["seeds"] == 2
        assert shown["standard_error"] == pytest.approx(np.std(found, ddof=1) / 2**0.5)
    assert numbers["gen_ppl"] == numbers["protocols"]["one"]["gen_ppl"]["mean"]
    assert numbers["gen_ppl_real"] == values(records, "gen_ppl")[tables.REAL, None]
    assert numbers["validation_loss"] == values(records, "validation_loss")[None, 0]
    table = tables.grid(numbers["protocols"], numbers["real"])
    header, *rows = table.splitlines()
    assert header.split() == ["one", "two", "real", "text"]
    row = next(row for row in rows if row.split()[0] == "gen_ppl")
    assert row.count("±") == 2 and row.endswith(f"{numbers['gen_ppl_real']:.4f}")


def test_it_goes_on_where_it_stopped(names, evaluated, tmp_path, monkeypatch):
    numbers, records = evaluated
    workdir = tmp_path / "run"
    shutil.copytree(names[0], workdir)
    trained, dataset = load_trained(workdir), names[2]
    sampled = []
    make = kept_samples.generate

    def counted(trained, count, seed, *args):
        sampled.append((trained.config.sample.gamma, seed))
        return make(trained, count, seed, *args)

    monkeypatch.setattr(kept_samples, "generate", counted)
    evaluate(trained, dataset, workdir)
    # Nothing is sampled or scored again, although the workdir has moved.
    assert sampled == [] and read(workdir) == records
    lost = next(r["samples"] for r in records if (r["protocol"], r["seed"]) == ("two", 0))
    (workdir / SAMPLES / lost).unlink()
    kept = [r for r in records if r.get("samples") != lost]
    (workdir / RECORDS).write_text("".join(json.dumps(r) + "\n" for r in kept))
    again = evaluate(trained, dataset, workdir)
    assert sampled == [(0.5, 0)]
    assert again["protocols"] == numbers["protocols"]
    assert len(read(workdir)) == len(records)
    # With other weights, it samples again.
    other = jax.tree.map(lambda leaf: leaf * 2, trained.params)
    kept = KeptSamples(replace(trained, params=other), dataset, workdir)
    kept.get(protocols_of(trained.config)[0], 0, COUNT)
    assert sampled[1:] == [(1.0, 0)]


def update(config, keys):
    config = config.copy_and_resolve_references()
    config_module.update(config, keys)
    return config


@pytest.fixture(scope="module")
def pairs(pairs_workdir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pairs") / "run"
    shutil.copytree(pairs_workdir, workdir)
    trained = load_trained(workdir)
    trained.config.evaluate.update({"num_samples": 0, "seeds": 1})
    return workdir, trained, load_dataset(trained.config.data, workdir / TOKENIZER)


def test_pairs_are_compared_with_their_references(pairs, capsys, monkeypatch):
    workdir, trained, dataset = pairs
    monkeypatch.setattr(module, "held_out_losses_of", lambda *_: {"validation_loss": 1.0})
    numbers = evaluate(trained, dataset, workdir)
    count = len(dataset.validation)
    (file,) = (workdir / SAMPLES).glob("*.jsonl")
    lines = [json.loads(line) for line in file.open(encoding="utf-8")]
    texts = [line["text"] for line in lines]
    real = [example.text for example in dataset.validation_examples]
    for name, value in {**references.bleu(texts, real), **references.rouge(texts, real)}.items():
        if not isinstance(value, str):
            assert numbers[name] == value, name
    lengths = sum(len(line["tokens"]) for line in lines) / sum(
        len(trained.tokenizer(one, add_special_tokens=False).input_ids) for one in real
    )
    assert numbers["length_ratio"] == pytest.approx(lengths)
    pairs = [pair for line in lines for pair in pairwise(line["tokens"])]
    assert numbers["repeated"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert 0 <= numbers["repeated_reference"] < 1
    assert "gen_ppl" not in numbers and "exact_match" in numbers
    records = {record["metric"]: record for record in read(workdir)}
    assert records["bleu"]["signature"] != records["bleu_lowercase"]["signature"]
    assert records["bleu"]["references"].startswith(f"references whole, 0 of {count} sources cut")
    assert records["bleu"]["samples"] == file.name
    assert "bootstrap over the pairs, 1,000 resamples" in records["rouge_l_low"]["interval"]
    assert [line["source"][::-1] for line in lines] == [line["reference"] for line in lines] == real
    printed = capsys.readouterr().out
    assert records["bleu"]["signature"] in printed and "references whole" in printed
    assert "({bleu_low:.2f} to {bleu_high:.2f})".format(**numbers) in printed
    assert "in brackets: 95%, bootstrap" in printed and "rouge_l_low" not in printed


def test_references_cut_in_preparing_are_counted(pairs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"source": "ab", "target": "x" * n}) + "\n" for n in (1, 90))
    )
    keys = {"data.prepared": str(tmp_path / "prepared"), "data.validation_path": str(path)}
    train = tmp_path / "train.jsonl"
    train.write_text("".join(f'{{"source": "c{x}", "target": "d{x}"}}\n' for x in "abcx"))
    config = pairs_config(train, **keys)
    dataset = load_dataset(config.data, tmp_path / TOKENIZER)
    trained = replace(pairs[1], config=config, tokenizer=dataset.tokenizer)
    found = held_out_pairs(trained, dataset, 2)
    assert "1 of 2 references cut to the row" in found.statement
    assert found.references[0] == "x" and 1 < len(found.references[1]) < 90


def test_what_is_missing_is_said_and_the_rest_reported(names, tmp_path, monkeypatch):
    _, trained, _ = names

    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    settings = defaults.get_config().scorer
    found, note = find_scorer(settings, tmp_path, trained.mesh)
    assert found is None and "train_scorer" in note and "gpt2-large" in note and "\n" not in note
    with pytest.raises(UserError, match="gpt2-large"):
        find_scorer(settings, tmp_path, trained.mesh, "gpt2-large")
    settings.path = ""
    assert find_scorer(settings, tmp_path, trained.mesh) == (None, "")
    (tmp_path / "scorer").mkdir()  # a scorer that exists but cannot be loaded is an error
    with pytest.raises(UserError):
        find_scorer(settings, tmp_path, trained.mesh)


def test_what_cannot_be_evaluated(names, tmp_path):
    _, trained, _ = names
    assert resolve_metrics("auto", False) == ("gen_ppl",)
    assert resolve_metrics("auto", True) == ("bleu", "rouge") and resolve_metrics("", True) == ()
    with pytest.raises(UserError, match="'bleu'"):
        resolve_metrics("gen_ppl,bleu", False)
    for key, value in {"evaluate.seeds": 0, "evaluate.num_samples": 0}.items():
        with pytest.raises(UserError, match=key):
            check_evaluation(update(trained.config, {key: value}))
    (tmp_path / RECORDS).write_text('{"metric": "x"}\n')
    with pytest.raises(UserError, match="line 1"):
        Records(tmp_path / RECORDS)


def test_fingerprints_tell_weights_apart():
    params = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    seen = {fingerprint(params)}
    for name, index, value in (("a", (0, 1), 1.0000001), ("b", 3, -1.0)):
        other = jax.tree.map(np.copy, params)
        other[name][index] = value
        seen.add(fingerprint(other))
    swapped = jax.tree.map(np.copy, params)
    swapped["a"] = swapped["a"][::-1].copy()
    assert len(seen | {fingerprint(swapped)}) == 4


def test_combining_seeds():
    assert tables.combine([2]) == {"mean": 2, "standard_error": None, "seeds": 1}
    assert tables.combine([1.0, None, 3.0])["standard_error"] == pytest.approx(1.0)
    assert tables.combine([None])["mean"] is None
    assert "empty" not in tables.table({"empty": 0, "x": 1.5})
