"""Trajectories end with the samples, and their pieces are their texts."""

import itertools

import numpy as np
import pytest

from elf_jax.checkpoints.origins import workdir_origin
from elf_jax.checkpoints.trained import load_trained
from elf_jax.commands.shared import held_out
from elf_jax.data.tokenizer import decode
from elf_jax.generation import answers, fill, live, rewrite, trajectory
from elf_jax.generation.generate import generate, jit_sampler
from elf_jax.generation.states import Row, Writer, recorded_rewriting, recorded_run
from elf_jax.methods.method import Seen
from tests.tiny import pairs_config, save_random_weights, tiny_config, write_book, write_pairs

STEPS, SEED = 3, 5
ODD = "naïve e\u0301 \u05e9\u05dc\u05d5\u05dd \U0001f408\u200d\u2b1b\tend\r\nof"
TEMPLATES = ["___ small ___ and [[2]]", "no gap", "[[3]]", f"{ODD}[[1]]___{ODD}", "a ___"]


def model(root, config):
    config.sample.update({"steps": STEPS, "batch_size": 4})
    config.optimizer.ema = 0.0
    return load_trained(save_random_weights(config, root))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """ELF with a list of words, a name in each row."""
    keys = {"data.tokenizer": "words", "data.packing": "rows", "data.length": 32}
    return model(tmp_path_factory.mktemp("names"), tiny_config(**keys))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Masked diffusion with byte-level BPE, one stream."""
    root = tmp_path_factory.mktemp("book")
    data = {"data.kind": "text", "data.path": str(write_book(root / "book.txt"))}
    data |= {"data.length": 96, "data.pad": "pad", "fill.gap": 3, "method": "mdlm"}
    config = tiny_config(**data, **{"sample.sampler": "ancestral"})
    return model(root / "run", config)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return model(root / "run", pairs_config(write_pairs(root / "pairs.jsonl")))


@pytest.fixture(scope="module")
def run(names, book, pairs):
    """The `recorded_run` of each model, compiled once."""
    return {id(one): recorded_run(one) for one in (names, book, pairs)}


@pytest.fixture(scope="module")
def plain(names, book, pairs):
    """The `jit_sampler` of each model."""
    return {id(one): jit_sampler(one) for one in (names, book, pairs)}


def samples(trained, count, plain, rows=None):
    """Texts that nobody has watched."""
    tokens = generate(trained, count, SEED, rows, run=plain[id(trained)])
    return decode(trained.tokenizer, tokens)


def check(found, states):
    """What holds for every trajectory."""
    for one in found:
        assert len(one.states) == states
        assert [state.step for state in one.states] == list(range(1, states + 1))
        assert len(one.given) >= max(len(state.pieces) for state in one.states)
        evaluations = [state.evaluations for state in one.states]
        assert evaluations == sorted(set(evaluations))
        for state in one.states:
            assert len(state.pieces) == len(state.tokens)
            assert "".join(p for p in state.pieces if p is not None) == state.text
            assert [p is None for p in state.pieces] == [t == -1 for t in state.tokens]
            kinds = (state.step, state.evaluations, state.changed, *state.tokens)
            assert all(type(value) is int for value in kinds)
            assert type(state.time) is float and type(state.entropy) is float
            assert state.entropy >= 0


def test_texts_end_with_the_samples(names, run, plain):
    """Six samples: two batches, of which the last is only half full."""
    found = list(trajectory.texts(names, 6, SEED, run=run[id(names)]))
    check(found, STEPS)
    assert [one.sample for one in found] == list(range(6))
    assert [one.states[-1].text for one in found] == samples(names, 6, plain)
    tokens = generate(names, 6, SEED, run=plain[id(names)])
    assert [one.states[-1].tokens for one in found] == [row.tolist() for row in tokens]
    assert [state.evaluations for state in found[0].states] == [2, 3, 4]
    assert found[0].states[-1].time == 1.0 and not any(found[0].given)


def test_masks_are_shown_as_open(book, run, plain):
    found = list(trajectory.texts(book, 2, SEED, run=run[id(book)]))
    check(found, STEPS + 1)
    assert [one.states[-1].text for one in found] == samples(book, 2, plain)
    for one in found:
        for before, after in itertools.pairwise(one.states):
            assert after.tokens.count(-1) <= before.tokens.count(-1)
        assert one.states[0].tokens.count(-1) > 0 and None not in one.states[-1].pieces
        new = sum(state.changed for state in one.states)
        assert new >= len(one.states[-1].tokens)  # each position has got its token once


def test_held_out_pairs(pairs, run, plain):
    origin = workdir_origin(pairs.origin)
    dataset = held_out(pairs, origin, None)
    found = list(trajectory.texts(pairs, 5, SEED, dataset, run[id(pairs)]))
    check(found, STEPS)
    expected = samples(pairs, 5, plain, dataset.validation)
    assert [one.states[-1].text for one in found] == expected
    examples = dataset.validation_examples[:5]
    assert [(one.source, one.reference) for one in found] == [(e.source, e.text) for e in examples]


def test_answers_to_sources(pairs, run, plain):
    sources = ["abc", "", "fed", "a", "bb", "cafe"]
    counts = answers.Counts()
    found = list(trajectory.answers(pairs, iter(sources), SEED, counts, run[id(pairs)]))
    check(found, STEPS)
    made = answers.translate(pairs, sources, SEED, answers.Counts(), plain[id(pairs)])
    expected = list(itertools.chain(*made))
    assert [(one.source, one.states[-1].text) for one in found] == expected
    assert [one.sample for one in found] == list(range(6))
    assert counts.lines == 6 and counts.empty == 1
    assert list(trajectory.answers(pairs, [], SEED)) == []


@pytest.mark.parametrize("kind", ["names", "book"])
def test_filled_templates(kind, request, run, plain):
    trained = request.getfixturevalue(kind)
    lines = [(f"line {number}", text) for number, text in enumerate(TEMPLATES, 1)]
    found = list(trajectory.fills(trained, lines, SEED, samples=2, run=run[id(trained)]))
    made = fill.fill(trained, lines, SEED, fill.Counts(), 2, plain[id(trained)])
    records = list(itertools.chain(*made))
    last = [(one.template, one.sample, one.states[-1].text) for one in found]
    assert last == [(one["template"], one["sample"], one["text"]) for one in records]
    states = STEPS + (kind == "book")
    for one, record in zip(found, records, strict=True):
        check([one], states if record["gaps"] else 1)
        for state in one.states:
            assert len(state.pieces) <= len(one.given)
            assert all(
                piece is not None
                for piece, given in zip(state.pieces, one.given, strict=False)
                if given
            )
    changed = [one.states[0].changed for one in found if one.template == "[[3]]"]
    assert kind == "book" or changed == [3, 3]


TEXTS = [("line 1", "latin letter a"), ("line 2", " "), ("line 3", ODD), ("line 4", "</s>")]


@pytest.fixture(scope="module")
def live_rewriter(book):
    return live.jit_live_rewriter(book)


@pytest.mark.parametrize("kind", ["names", "book"])
def test_rewritten_texts(kind, request):
    """Rows that are looked at afterwards, and full rows of a stream while they are made."""
    trained = request.getfixturevalue(kind)
    if kind == "names":
        run = recorded_rewriting(trained)
    else:
        run = live.live_run(trained, request.getfixturevalue("live_rewriter"))
    plain = rewrite.jit_rewriter(trained)
    for strength in (0, 0.6):
        counts, expected = rewrite.Counts(), rewrite.Counts()
        found = list(trajectory.rewrites(trained, TEXTS, strength, SEED, counts, 2, run))
        made = rewrite.rewrite(trained, TEXTS, strength, SEED, 2, plain, expected)
        records = list(itertools.chain(*made))
        last = [(one.source, one.sample, one.states[-1].text) for one in found]
        assert last == [(one["source"], one["sample"], one["text"]) for one in records]
        assert counts == expected and counts.texts == len(TEXTS)
        first = 2 if kind == "names" else STEPS + 2  # the row is made full before
        for one in found:
            check([one], STEPS + (kind == "book") if one.source.strip() else 1)
            assert one.states[0].evaluations == (first if one.source.strip() else 0)
            assert not any(one.given)
            if kind == "book":
                assert {len(state.tokens) for state in one.states} == {len(one.given)}
            if not strength:
                assert len({state.text for state in one.states}) == 1
    assert any(None in state.pieces for one in found for state in one.states) == (kind == "book")


def test_a_rewriting_can_be_stopped_before_its_first_state(book, live_rewriter):
    def leave():
        raise live.Stopped

    told, run = [], live.live_run(book, live_rewriter, leave)
    with pytest.raises(live.Stopped):
        list(trajectory.rewrites(book, TEXTS, 0.6, SEED, None, 2, run, told.append))
    assert not told


def test_it_tells_of_each_state(names, run):
    told = []
    found = list(trajectory.texts(names, 3, SEED, run=run[id(names)], tell=told.append))
    assert [len(one.states) for one in (batch[0] for batch in told)] == list(range(1, STEPS + 1))
    assert told[-1] == found
    assert all(batch[1].states == found[1].states[: len(batch[1].states)] for batch in told)


def test_a_state_counts_what_is_shown():
    """EOS (1) ends a text, given positions are not sampled, open ones have no token."""
    row = Row(
        np.array([1, 2, 3, 4]),
        np.array([True, False, False, False]),
        lambda tokens: [None if token < 0 else f"<{token}>" for token in tokens],
        {"sample": 7},
    )
    writer = Writer(row, 1, [1, 3])
    for step, tokens in enumerate([[9, 1, 5, -1, 6], [9, 1, 5, 7, 1]]):
        tokens, entropy = np.array([tokens]), np.array([[8.0, 8.0, 2.0, 4.0, 6.0]])
        writer.add(Seen(np.int32(step), np.float32(0.5), tokens, tokens < 0, entropy), 0)
    first, second = writer.trajectory().states
    assert (first.tokens, first.changed, first.entropy) == ([1, 5, -1, 6], 2, 4.0)
    assert (second.tokens, second.changed, second.entropy) == ([1, 5, 7], 1, 3.0)
    assert first.text == "<1><5><6>" and first.pieces == ["<1>", "<5>", None, "<6>"]
    assert (second.evaluations, second.step, writer.trajectory().sample) == (3, 2, 7)


def test_what_a_page_shows_of_a_model(names):
    watched = trajectory.watched(names, "a name", iter([]))
    assert (watched.name, watched.method, watched.trajectories) == ("a name", "elf", [])
    assert watched.settings["steps"] == STEPS and "seed" in watched.settings
    assert set(watched.settings) <= {*names.method.settings.values(), "seed"}
