"""The infilling benchmark in an evaluation and in a comparison."""

import json
import shutil

import numpy as np
import pytest

from elf_jax import commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import defaults
from elf_jax.core.checks import check_compare, check_evaluation
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import RECORDS, SAMPLES, TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.data.tokenizer import load_tokenizer
from elf_jax.evaluation import evaluate as module
from elf_jax.evaluation import kept_samples, tables
from elf_jax.evaluation.evaluate import Evaluation, evaluate
from elf_jax.evaluation.hidden import hide
from elf_jax.evaluation.protocols import protocols_of
from elf_jax.generation.generate import whole_rows
from tests.tiny import save_random_scorer, save_random_weights, tiny_config

pytestmark = pytest.mark.usefixtures("share_programs")

NAMES = "span_25,scattered_50"
METRICS = ("exact_tokens", "exact_spans", "rouge_l", "gen_ppl")
SAMPLERS = {"elf": "sde", "mdlm": "ancestral", "ar": "sample"}


def make(method, workdir, **keys):
    """(`TrainedModel` with random weights, its `Dataset`) of a workdir that is made."""
    keys = {"method": method, "sample.sampler": SAMPLERS[method], "data.packing": "rows", **keys}
    save_random_weights(tiny_config(**keys), workdir)
    trained = load_trained(workdir)
    return trained, load_dataset(trained.config.data, workdir / TOKENIZER)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, `TrainedModel`, `Dataset`) of a model with a random scorer."""
    workdir = tmp_path_factory.mktemp("infill") / "run"
    keys = {"evaluate.infill": NAMES, "evaluate.seeds": 2, "evaluate.num_samples": 6}
    trained, dataset = make("mdlm", workdir, **keys)
    save_random_scorer(workdir / "scorer", trained.tokenizer)
    return workdir, trained, dataset


@pytest.fixture(scope="module")
def evaluated(run):
    return evaluate(run[1], run[2], run[0])


def read(workdir):
    return [json.loads(line) for line in (workdir / RECORDS).open(encoding="utf-8")]


def test_the_numbers_are_those_of_the_kept_texts(run, evaluated):
    workdir, trained, dataset = run
    records = read(workdir)
    for name in NAMES.split(","):
        hidden = hide(name, dataset.validation, 6, trained.tokenizer)
        found = []
        for seed in (0, 1):
            (record,) = (
                r
                for r in records
                if (r["metric"], r["seed"]) == (hidden.metric("exact_tokens"), seed)
            )
            assert record["hidden"] == hidden.fingerprint and record["n"] == len(hidden)
            assert record["infill"] == name and record["sampler"] == "ancestral"
            lines = (workdir / SAMPLES / record["samples"]).read_text().splitlines()
            lines = [json.loads(line) for line in lines]
            assert lines[0].keys() == {"template", "hidden", "written", "text", "tokens"}
            written = np.concatenate([line["tokens"] for line in lines])
            assert np.mean(written == hidden.tokens[hidden.is_hidden]) == record["value"]
            assert not np.isin(written, hidden.special).any()
            found.append(record["value"])
            for line, gap in zip(lines, hidden.gaps(hidden.tokens), strict=True):
                gaps = [part.split("]]")[0] for part in line["template"].split("[[")[1:]]
                assert sum(map(int, gaps)) == len(gap) == len(line["tokens"])
        combined = evaluated["protocols"]["sample"][hidden.metric("exact_tokens")]
        assert combined == tables.combine(found)
        ends = {key: hidden.metric(key) for key in METRICS}
        assert {ends["gen_ppl"], hidden.metric("most_frequent")} <= evaluated["real"].keys()
        assert set(ends.values()) <= evaluated.keys()
        assert evaluated[f"{ends['gen_ppl']}_real"] == evaluated["real"][ends["gen_ppl"]]


def test_an_oracle_and_a_fool(run, tmp_path, monkeypatch):
    """Who writes what was hidden gets all of it, and Gen. PPL is that of the real texts."""
    workdir, trained, dataset = run
    benchmarks = [hide(name, dataset.validation, 6, trained.tokenizer) for name in NAMES.split(",")]
    vocabulary = trained.method.vocab_size
    for name, shift in (("oracle", 0), ("fool", 1)):
        shutil.copytree(workdir / "scorer", tmp_path / name / "scorer")

        def fill(trained, fields, *_, shift=shift):
            given = fields["is_cond"]
            (tokens,) = (
                hidden.tokens
                for hidden in benchmarks
                if np.array_equal(hidden.template()["is_cond"], given)
            )
            # Special tokens have the first ids.
            return np.where(given, tokens, 5 + (tokens - 5 + shift) % (vocabulary - 5))

        monkeypatch.setattr(kept_samples, "whole_rows", fill)
        numbers = evaluate(trained, dataset, tmp_path / name)
        exact = [numbers[f"infill_span_25_{key}"] for key in METRICS[:3]]
        if name == "oracle":
            assert exact == [1.0, 1.0, pytest.approx(100)]
            real = numbers["real"]["infill_span_25_gen_ppl"]
            assert numbers["infill_span_25_gen_ppl"] == pytest.approx(real)
        else:
            assert exact[:2] == [0.0, 0.0] and exact[2] < 100


def test_it_goes_on_where_it_stopped(run, evaluated, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    records, made = read(workdir), []
    fill = kept_samples.whole_rows

    def counted(trained, fields, seed, *args):
        made.append(seed)
        return fill(trained, fields, seed, *args)

    monkeypatch.setattr(kept_samples, "whole_rows", counted)
    monkeypatch.setattr(module, "held_out_losses_of", None)
    evaluate(run[1], run[2], workdir)
    assert made == [] and read(workdir) == records
    assert "infill span_25: " in capsys.readouterr().out
    lost = next(r for r in records if r.get("infill") == "span_25" and r["seed"] == 1)
    (workdir / SAMPLES / lost["samples"]).unlink()
    kept = [r for r in records if r.get("samples") != lost["samples"]]
    (workdir / RECORDS).write_text("".join(json.dumps(r) + "\n" for r in kept))
    again = evaluate(run[1], run[2], workdir)
    assert made == [1] and again["protocols"] == evaluated["protocols"]


def test_sources_of_pairs_stay(pairs_workdir, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(pairs_workdir, workdir)
    trained = load_trained(workdir)
    dataset = load_dataset(trained.config.data, workdir / TOKENIZER)
    evaluation = Evaluation(trained, dataset, workdir, num_samples=0, infill="span_50")
    (hidden,) = evaluation.hidden
    assert not np.any(hidden.is_hidden & hidden.fields["is_cond"])
    assert np.all(hidden.template()["is_cond"][hidden.fields["is_cond"]])
    numbers = evaluation.fill(protocols_of(trained.config)[0], 0)
    assert numbers.keys() == {hidden.metric(name) for name in METRICS[:3]}  # there is no scorer
    (file,) = (workdir / SAMPLES).glob("*.jsonl")
    lines = [json.loads(line) for line in file.open(encoding="utf-8")]
    assert len(lines) == len(hidden) <= len(dataset.validation)
    # The texts are the targets, without their sources.
    right = hidden.whole_texts(trained.tokenizer, hidden.tokens)
    assert set(right) <= {example.text for example in dataset.validation_examples}


def test_nothing_is_filled_unless_it_is_asked_for(run, tmp_path):
    assert defaults.get_config().evaluate.infill == defaults.get_config().compare.infill == ""
    config = run[1].config.copy_and_resolve_references()
    for section, check in (("evaluate", check_evaluation), ("compare", check_compare)):
        config[section].infill = "span"
        with pytest.raises(UserError, match=f"config.{section}.infill has 'span'"):
            check(config)
        config[section].infill = ""


@pytest.mark.parametrize("method", SAMPLERS)
def test_who_fills_anywhere(method, tmp_path):
    """A sample depends on what comes after a gap, or not, as the method says."""
    trained, dataset = make(method, tmp_path / "run")
    hidden = hide("span_25", dataset.validation, 0, trained.tokenizer)
    places = [np.flatnonzero(mask)[-1] for mask in hidden.is_hidden]
    fields = hidden.template()
    rows = whole_rows(trained, fields, seed=0)
    given = fields["is_cond"]
    assert np.array_equal(rows[given], fields["tokens"][given])
    assert not np.isin(rows[hidden.is_hidden], hidden.special).any()
    later = np.arange(rows.shape[1]) > np.array(places)[:, None]
    other = np.where(later & given, (fields["tokens"] + 1) % 200, fields["tokens"])
    changed = whole_rows(trained, {**fields, "tokens": other.astype(np.int32)}, seed=0)
    depends = not np.array_equal(changed[hidden.is_hidden], rows[hidden.is_hidden])
    assert depends == trained.method.fills_anywhere


def test_in_a_comparison(tmp_path):
    for method in ("mdlm", "ar"):
        make(method, tmp_path / method)
    save_random_scorer(tmp_path / "ar" / "scorer", load_tokenizer(tmp_path / "ar" / TOKENIZER))
    config = defaults.get_config()
    few = {"steps": (1, 2), "num_samples": 4, "seeds": 2, "temperature": (1.0,)}
    config.compare.update({**few, "frontier_steps": 1, "infill": "span_50"})
    workdirs = [str(tmp_path / method) for method in ("mdlm", "ar")]
    result = commands.compare(workdirs, config=config, output=str(tmp_path / "out"))
    mdlm, ar = result["models"]
    assert mdlm["fills_anywhere"] and not ar["fills_anywhere"]
    for point in (*mdlm["points"], *ar["points"]):
        assert point["infill"].keys() == {f"infill_span_50_{key}" for key in METRICS}
        assert point["infill"]["infill_span_50_exact_tokens"]["seeds"] == 2
    text = (tmp_path / "out" / "comparison.md").read_text()
    table = text.split("## Infilling")[1].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0][3:] == ["exact tokens", "exact spans", "ROUGE-L", "Gen. PPL"]
    names = ["mdlm", "mdlm", "ar (from the left)", "most frequent token", "real text"]
    assert [row[1] for row in cells[2:]] == names
    assert [row[2] for row in cells[2:]] == ["1", "2", "-", "", ""]
    assert "infill by ar: it sees only what is before a gap" in text
