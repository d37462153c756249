"""A scorer from scratch: it learns, and its held-out perplexity is its Gen. PPL of that text."""

import json
import math
import random
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.data.dataset import load_dataset
from elf_jax.evaluation.scorer import generative_perplexity, load_scorer
from elf_jax.training import scorer as module
from elf_jax.training.metrics_log import read_metrics
from elf_jax.training.scorer import left_aligned, train_scorer
from tests.tiny import tiny_config

TINY = {
    "data.kind": "jsonl",
    "data.packing": "rows",
    "data.tokenizer": "words",
    "data.length": 16,
    "data.validation_fraction": 0.2,
    "mesh.data": 2,
    "train.validation_batches": 100,
    "scorer.depth": 1,
    "scorer.width": 16,
    "scorer.heads": 2,
    "scorer.steps": 40,
    "scorer.batch_size": 32,
    "scorer.warmup_steps": 5,
    "scorer.learning_rate": 0.03,
}


def config_of(path, **keys):
    """A config for texts that count upwards from one of the numbers one to ten."""
    words = "one two three four five six seven eight nine ten".split()
    rng = random.Random(0)
    texts = []
    for _ in range(300):
        start = rng.randrange(10)
        texts.append(" ".join((words * 2)[start : start + rng.randint(3, 8)]))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tiny_config(**{**TINY, "data.path": str(path), **keys})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorer")
    config = config_of(root / "texts.jsonl")
    return config, root / "run", train_scorer(config, root / "run")


def test_it_learns_and_scores_as_it_was_validated(trained):
    config, workdir, summary = trained
    dataset = load_dataset(config.data, workdir / "tokenizer")
    assert summary["validation_nll"] < 0.7 * math.log(len(dataset.tokenizer))
    config.scorer.path = str(workdir / "scorer")
    scorer = load_scorer(config.scorer, sharding.make_mesh(config.mesh))
    assert len(dataset.tokenizer) == len(scorer.tokenizer)
    real = [example.text for example in dataset.validation_examples]
    numbers = generative_perplexity(scorer, real)
    assert numbers["scored_tokens"] == summary["validation_tokens"]
    assert numbers["gen_ppl"] == pytest.approx(summary["validation_perplexity"], rel=1e-4)
    mixed = [" ".join(reversed(text.split())) for text in real]
    assert generative_perplexity(scorer, mixed)["gen_ppl"] > 2 * numbers["gen_ppl"]
    assert json.loads((workdir / "scorer" / "training.json").read_text()) == summary


@pytest.mark.parametrize("name, is_orthogonal", [("muon", True), ("adamw", False)])
def test_the_optimizer_is_that_of_the_config(name, is_orthogonal):
    """Muon's update of a kernel is nearly orthogonal, that of AdamW is not."""
    keys = {"scorer.optimizer": name, "scorer.warmup_steps": 1, "scorer.learning_rate": 0.5}
    optimizer, schedule = module._make_optimizer(tiny_config(**keys))
    values = jax.random.normal(jax.random.key(0), (16, 16))
    grads = {"mlp": {"kernel": values}, "token_embedding": {"embedding": values}}
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert schedule(0) == 0.5
    sizes = jnp.linalg.svdvals(updates["mlp"]["kernel"]) / 0.5
    assert (sizes.min() > 0.3 and sizes.max() < 1.5) == is_orthogonal
    rate = module.ADAM_SCALE if is_orthogonal else 1  # Adam's first step has the size of its rate
    embedding = updates["token_embedding"]["embedding"]
    np.testing.assert_allclose(jnp.abs(embedding), 0.5 * rate, rtol=1e-3)


def test_a_workdir_of_an_earlier_version_keeps_adamw(tmp_path):
    """There was no other optimiser when its config was written."""
    values = tiny_config().to_dict()
    assert values["scorer"].pop("optimizer") == "muon"
    write_json(tmp_path / "config.json", values)
    assert read_config(tmp_path).scorer.optimizer == "adamw"


def test_stopping_and_resuming_changes_nothing(trained, tmp_path):
    config, workdir, _ = trained
    assert train_scorer(config, tmp_path, until=21) is None
    assert not (tmp_path / "scorer").exists()
    train_scorer(config, tmp_path)
    straight, resumed = (path / "scorer" / "model.safetensors" for path in (workdir, tmp_path))
    assert straight.read_bytes() == resumed.read_bytes()
    logs = [read_metrics(path / "scorer-training") for path in (workdir, tmp_path)]
    for line in logs[0] + logs[1]:
        del line["seconds"]
    assert logs[0] == logs[1]


def test_the_best_parameters_are_kept(trained):
    _, workdir, summary = trained
    losses = {
        m["step"]: m["validation_loss"]
        for m in read_metrics(workdir / "scorer-training")
        if "validation_loss" in m
    }
    assert len(losses) == 10  # the default: ten validations in a training
    assert summary["best_step"] == min(losses, key=losses.get)
    assert summary["validation_nll"] == min(losses.values())


def test_worse_parameters_do_not_take_the_place_of_the_best():
    run = SimpleNamespace(kept={}, state=None, remedy="lower it")
    for step, loss in enumerate([3.0, 1.0, 2.0], 1):
        params = {"w": np.float32(loss)}
        best = params if run.state is None else run.state.best
        run.state = module.ScorerState(step, params, None, None, best)
        module._keep_best(run, {"validation_loss": loss, "validation_tokens": 7.0})
    assert run.state.best["w"] == 1.0 and run.state.params["w"] == 2.0
    assert run.kept == {"validation_nll": 1.0, "validation_tokens": 7, "best_step": 2}
    with pytest.raises(UserError, match="not finite at step 3: lower it"):
        module._keep_best(run, {"validation_loss": math.nan})


def test_devices_change_no_losses(trained, tmp_path):
    config, _, _ = trained
    config = config.copy_and_resolve_references()
    config.mesh.data, config.scorer.steps, config.scorer.log_every = 1, 3, 1
    config.scorer.validate_every = 3
    train_scorer(config, tmp_path / "one")
    config.mesh.fsdp = 2
    train_scorer(config, tmp_path / "two")
    one, two = (read_metrics(tmp_path / name / "scorer-training") for name in ("one", "two"))
    for key in ("loss", "validation_loss"):
        values = [[entry[key] for entry in log if key in entry] for log in (one, two)]
        assert len(values[0]) == (3 if key == "loss" else 1)
        np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


def test_it_replaces_nothing_and_leaves_nothing_half_done(trained, tmp_path, monkeypatch):
    config, workdir, _ = trained
    with pytest.raises(UserError, match="is there already"):
        train_scorer(config, workdir)
    shutil.copytree(workdir / "scorer-training", tmp_path / "scorer-training")

    def broken(path, value):
        if path.name == "training.json":
            raise OSError("disk full")

    monkeypatch.setattr(module, "write_json", broken)
    with pytest.raises(OSError, match="disk full"):
        train_scorer(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scorer-training"]


def test_other_settings_are_refused_on_the_way(trained, tmp_path):
    config, workdir, _ = trained
    shutil.copytree(workdir / "scorer-training", tmp_path / "scorer-training")
    other = config.copy_and_resolve_references()
    other.scorer.width, other.scorer.log_every = 32, 7
    with pytest.raises(UserError, match=r"differs in scorer.width \(16 there, 32 now\):"):
        train_scorer(other, tmp_path)


@pytest.mark.parametrize(
    "key, value", [("length", 17), ("length", 1), ("heads", 3), ("steps", 0), ("batch_size", 3)]
)
def test_bad_settings(key, value, tmp_path):
    with pytest.raises(UserError, match=f"config.scorer.*{key}.*{value}"):
        train_scorer(tiny_config(**{**TINY, f"scorer.{key}": value}), tmp_path)


def test_targets_begin_at_position_zero():
    tokens = np.array([[1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]])
    cond = np.array([2, 0, 0])[:, None] > np.arange(6)
    valid = np.array([5, 6, 2])[:, None] > np.arange(6)
    fields = {"tokens": tokens, "is_cond": cond, "is_valid": valid}
    texts = left_aligned(fields, 4)
    np.testing.assert_array_equal(texts.lengths, [3, 4, 2])
    found = [list(row[:n]) for row, n in zip(texts.tokens, texts.lengths, strict=True)]
    assert found == [[3, 4, 5], [1, 2, 3, 4], [7, 8]]
