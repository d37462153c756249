"""Given positions of training rows: the law comes out, and gaps get their slack in the right place.

Rows are drawn as "#" (given), "." (hidden), "o" (padding of a gap), "|" (the mark after an open
gap) and " " (after the text).
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import allowed, checks, defaults, sharding
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, counted_positions
from elf_jax.methods.registry import build_method
from elf_jax.training import trainer
from elf_jax.training.begin import read_summary
from elf_jax.training.given import BEGIN, END, SHAPES, Gaps, make_law, with_gaps
from elf_jax.training.optimizer import make_schedule
from tests.command import program
from tests.test_learning import FLAGS
from tests.tiny import tiny_config, with_sizes
from tests.training.test_step import assert_same_metrics, steps_of

PAD = 7
EQUAL = {f"data.given.{name}": 0.2 for name in SHAPES}
FIGURES = {
    "nothing": r"\.+ *",
    "prefix": r"#+\.+ *",
    "suffix": r"\.+(o*\|)?#+ *",
    "ends": r"#+\.+(o*\|)?#+ *",
    "spans": r"#*(\.+(o*\|)?#+)*\.* *",
}


def law_of(**keys):
    keys = {f"data.given.{name}": value for name, value in keys.items()}
    return make_law(tiny_config(**{"data.length": 64, **EQUAL, **keys}).data.given, PAD)


def texts(sizes, length, source=0):
    """A `Batch` of rows with texts of these sizes after a source; token = 100 + place."""
    place, ends = np.arange(length), np.minimum(source + np.asarray(sizes), length)[:, None]
    tokens = np.where(place < ends, place + 100, 1).astype(np.int32)
    return Batch(tokens, np.broadcast_to(place < source, tokens.shape), place < ends)


def figures(batch, source=0):
    marks = np.full(batch.tokens.shape, " ")
    marks[batch.is_valid] = "."
    marks[batch.is_cond] = "#"
    marks[batch.is_cond & (batch.tokens == PAD)] = "|"
    marks[batch.is_filler] = "o"
    return ["".join(row[source:]) for row in marks]


def given(law, batch, seed=0):
    return jax.device_get(jax.jit(law)(batch, jax.random.key(seed)))


@pytest.fixture(scope="module")
def many():
    law = law_of(slack=0, hidden_min=0.2, hidden_max=0.6, most_spans=4)
    return figures(given(law, texts([40] * 4000, 40)))


def test_the_shares_of_the_shapes(many):
    """Each shape is a fifth; a row of spans may look like one of the others."""
    found = dict.fromkeys(FIGURES, 0)
    for row in many:
        found[next(name for name, figure in FIGURES.items() if re.fullmatch(figure, row))] += 1
    # 3.5 standard deviations.
    assert abs(found["nothing"] / 4000 - 0.2) < 0.022, found
    one_gap = sum(found[name] for name in ("prefix", "suffix", "ends"))
    several = 1 - np.log(2) / np.log(5)
    assert found["spans"] / 4000 == pytest.approx(0.2 * several, abs=0.018), found
    assert one_gap / 4000 == pytest.approx(0.8 - 0.2 * several, abs=0.027), found
    assert min(found[name] for name in ("prefix", "suffix")) / 4000 > 0.178, found


def test_only_one_shape():
    for name in SHAPES:
        keys = {f"data.given.{other}": float(other == name) for other in SHAPES}
        law = make_law(tiny_config(**{"data.length": 64, **keys}).data.given, PAD)
        for row in figures(given(law, texts([10, 20, 2, 3] * 20, 64))):
            assert re.fullmatch(FIGURES[name].replace("#+", "#*"), row), (name, row)


def test_how_much_is_hidden(many):
    """A share between 0.2 and 0.6 of 40 tokens, all equally often; 1 to 4 gaps."""
    rows = [row for row in many if "#" in row]
    hidden = np.array([row.count(".") for row in rows])
    assert hidden.min() == 8 and hidden.max() == 24
    assert hidden.mean() == pytest.approx(16, abs=0.3)
    counts = np.array([len(re.findall(r"\.+", row)) for row in rows])
    assert set(counts) == {1, 2, 3, 4}
    spans = np.bincount(counts)[2:] / len(rows)
    np.testing.assert_allclose(spans, np.log([3 / 2, 4 / 3, 5 / 4]) / np.log(5) / 4, atol=0.013)


def test_a_gap_may_be_anywhere(many):
    """The middle of the gap of `ends`, and the gaps of spans, reach all places."""
    ends = [row for row in many if re.fullmatch(FIGURES["ends"], row)]
    first = np.array([row.index(".") for row in ends])
    assert first.min() == 1 and first.max() > 25 and 10 < first.mean() < 14
    several = np.array([list(row) for row in many if len(re.findall(r"\.+", row)) > 1])
    share = np.mean(several == ".", axis=0)
    assert share.min() > 0.25 and share.max() < 0.65
    edges = np.mean(several == ".", axis=0)[[0, -1]]
    # By chance a text also begins or ends with a gap.
    assert (edges > [BEGIN, END]).all() and (edges < [BEGIN + 0.15, END + 0.15]).all()


def test_slack_is_put_at_the_ends_of_gaps():
    batch = Batch(*(np.array([row] * 2) for row in (np.arange(10, 20), [False] * 10, [True] * 10)))
    gaps = Gaps(
        start=np.array([[2, 5], [2, 5]]),
        end=np.array([[4, 6], [4, 6]]),
        slack=np.array([[2, 1], [0, 3]]),
        is_given=np.array([True, True]),
    )
    found = with_gaps(batch, jax.tree.map(jnp.asarray, gaps), PAD)
    assert figures(found) == ["##..o|#.|#", "##..#.oo|#"]
    first = [10, 11, 12, 13, PAD, PAD, 14, 15, PAD, 16]
    second = [10, 11, 12, 13, 14, 15, PAD, PAD, PAD, 16]
    np.testing.assert_array_equal(found.tokens, [first, second])
    assert not np.any(found.is_valid & found.is_filler)


@pytest.mark.parametrize("source", [0, 5])
def test_the_text_stays_in_order_and_only_gaps_before_given_text_get_slack(source):
    before = texts([1, 2, 3, 10, 30, 50, 60] * 60, 64, source)
    after, lengths = given(law_of(slack=3), before), []
    for row, figure in enumerate(figures(after, source)):
        assert figure.count("o") <= 3 * 16
        # Padding and the mark end a gap with given text after it, or the row is full.
        assert re.fullmatch(r"#*(\.+(o*\|)?#+)*\.*o*\|? *", figure), figure
        assert not re.search(r"o ", figure)
        lengths += [(len(gap), len(run)) for gap, run in re.findall(r"(\.+)((?:o*\|)?)#", figure)]
        kept = after.tokens[row][~np.isin(list("#" * source + figure), ["o", "|"])]
        np.testing.assert_array_equal(kept, before.tokens[row][: len(kept)])
        np.testing.assert_array_equal(after.tokens[row][after.is_filler[row]], PAD)
    gaps, slack = np.array(lengths).T
    assert (slack - 1 <= np.minimum(gaps, 3)).all() and (slack[gaps == 2] == 3).any()
    shares = np.bincount(slack[gaps >= 3]) / np.sum(gaps >= 3)
    np.testing.assert_allclose(shares, [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8], atol=0.08)
    np.testing.assert_array_equal(after.is_cond[:, :source], True)
    np.testing.assert_array_equal(after.tokens[:, :source], before.tokens[:, :source])


def test_what_counts():
    """Gaps with their padding; after the text only if padding counts at all."""
    batch = given(law_of(slack=3), texts([10, 20] * 40, 64))
    marks = np.array([list(row) for row in figures(batch)])
    np.testing.assert_array_equal(counted_positions(batch, False), np.isin(marks, [".", "o"]))
    np.testing.assert_array_equal(counted_positions(batch, True), ~np.isin(marks, ["#", "|"]))
    np.testing.assert_array_equal(batch.is_valid, np.isin(marks, ["#", "|", "."]))
    assert (marks == "o").any() and (marks == "|").any() and (marks == " ").any()


def test_a_row_depends_on_its_place_and_the_key_alone():
    law, sizes = law_of(), [30] * 8
    one = given(law, texts(sizes, 64))
    two = given(law, texts([30, *[5] * 7], 64))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    other = given(law, texts(sizes, 64), seed=1)
    assert len(set(figures(one))) > 4 and figures(one) != figures(other)


GIVEN = {  # `test_every_method` has given positions for all methods
    "method": "mdlm",
    "optimizer.name": "adamw",
    "data.pad": "pad",
    "tokens.condition_dropout": 0.3,
    **EQUAL,
    "data.given.slack": 2,
}


@pytest.fixture(scope="module")
def alone():
    return steps_of(32, **GIVEN)


@pytest.mark.parametrize(
    "keys",
    [{"mesh.data": 4, "mesh.fsdp": 2}, {"train.accumulate": 4}],
    ids=str,
)
def test_devices_and_micro_batches_change_no_losses(keys, alone):
    """The padding does not count here, so the number of counted positions must be the same too."""
    assert_same_metrics(alone, steps_of(32, **GIVEN, **keys))


def lowered(**keys):
    """The training step as text."""
    config = tiny_config(**{"optimizer.name": "adamw", "data.pad": "pad", **keys})
    mesh = sharding.make_mesh(config.mesh)
    method, frozen = build_method(config, 32, mesh)
    schedule = make_schedule(config.optimizer, 8, 0, 10)
    optimizer = trainer.make_optimizer(config.optimizer, schedule, jnp.float32, mesh)
    state, shardings = trainer.new_state(config, method, optimizer, mesh)
    step = trainer.jit_train_step(config, method, optimizer, schedule, mesh, shardings, PAD)
    rows = texts([5] * 8, 8)
    return step.lower(state, frozen, rows, jax.random.key(1)).as_text()


def test_without_given_positions_the_program_is_the_same():
    plain = lowered()
    off = {"data.given.slack": 3, "data.given.most_spans": 2, "data.given.hidden_max": 0.4}
    assert lowered(**off) == plain != lowered(**{"data.given.prefix": 0.1, "data.given.slack": 3})


@pytest.mark.parametrize("file", ["owt", "xsum", "wmt14_de_en", "quickstart", "text", "seq2seq"])
def test_shipped_configs_give_nothing(file):
    config = config_module.run_config_file(f"configs/{file}.py")
    assert make_law(config.data.given, PAD) is None


@pytest.mark.parametrize("file", ["quickstart", "text"])
@pytest.mark.parametrize("method", allowed.CHOICES["method"])
def test_the_variants_that_fill(file, method):
    whole = "_whole" if (file, method) == ("text", "elf") else ""
    plain, fill = (
        config_module.run_config_file(f"configs/{file}.py:{method}{end}")
        for end in (whole, "_fill")
    )
    if file == "text":
        config_module.update(fill, {"data.path": "book.txt"})
    checks.check(with_sizes(fill))
    with_sizes(plain)
    shares = [fill.data.given[name] for name in SHAPES]
    assert sum(shares) == pytest.approx(0.1 if method == "ar" else 0.5)
    one, two = config_module.flatten(plain), config_module.flatten(fill)
    changed = {key for key in one if one[key] != two[key]} - {"data.path", "evaluate.infill"}
    assert two["evaluate.infill"] == "span_25,span_50,scattered_25"
    assert all(key.startswith("data.given.") or "condition_dropout" in key for key in changed)
    with pytest.raises(UserError, match="no variant 'mdlm_fil'"):
        config_module.run_config_file(f"configs/{file}.py:mdlm_fil")


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"prefix": 0.6, "spans": 0.5}, "add up to 1.1"),
        ({"prefix": -0.1}, "data.given.prefix is -0.1; it must be 0 or more"),
        ({"hidden_min": 0.5, "hidden_max": 0.4}, "hidden_min is 0.5; it must not be above"),
        ({"spans": 0.5, "slack": 8}, "slack is 8; it must be below config.data.length=8"),
        ({"most_spans": 0}, "most_spans is 0; it must be 1 or more"),
    ],
)
def test_bad_laws(keys, message):
    config = tiny_config(**{f"data.given.{name}": value for name, value in keys.items()})
    with pytest.raises(UserError, match=message):
        checks.check(config)


def test_autoregression_only_continues():
    keys = {"method": "ar", "sample.sampler": "sample", "data.given.slack": 2}
    checks.check(tiny_config(**keys, **{"data.given.prefix": 0.5}))
    with pytest.raises(UserError, match="data.given.ends is 0.5, but ar can only continue"):
        checks.check(tiny_config(**keys, **{"data.given.ends": 0.5}))


def test_the_law_is_of_the_training_and_not_of_the_data(tmp_path):
    """Another law is another training in a workdir, but it has the same data."""
    keys = {"optimizer.name": "adamw"}
    fill = {"data.given.spans": 0.5, "data.given.slack": 2}
    summaries = []
    for name, law in (("plain", {}), ("fill", fill)):
        training, _ = trainer.train(tiny_config(**keys, **law), tmp_path / name, until=2)
        training.run.checkpoints.close()
        summaries.append(read_summary(tmp_path / name))
    assert summaries[0] == summaries[1]
    with pytest.raises(UserError, match=r"differs in data.given.slack .*data.given.spans \(0.5"):
        trainer.train(tiny_config(**keys), tmp_path / "fill", until=4)
    assert not config_module.is_of_data("data.given.spans")
    assert config_module.is_of_data("data.length")
    only = config_module.is_of_data
    assert config_module.check_same(tmp_path / "fill", tiny_config(**keys), only) == {}


def test_an_old_config_has_the_law_that_gives_nothing(tmp_path):
    values = defaults.get_config().to_dict()
    del values["data"]["given"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert config_module.check_same(tmp_path, defaults.get_config()) == {}


def test_both_sides_are_used():
    """ELF learns palindromes with gaps: the left half is read from the right one, and the end of a
    gap is found. In another process, see `test_learning.learned`.
    """
    done = program(["tests.training.given_run"], FLAGS)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert numbers["left half"] > 0.9 and numbers["gap"] > 0.9, numbers
    assert numbers["guided"] > 0.9, numbers
