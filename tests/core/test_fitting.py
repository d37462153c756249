"""The rule of sizes: where it was measured, at the extremes, and beside what the user sets."""

import itertools

import pytest

from elf_jax.core import checks, fitting
from elf_jax.core.config import flatten, run_config_file, update
from elf_jax.core.errors import UserError
from elf_jax.core.fitting import Facts, choose, time_mean, vocabulary

TEXT = Facts(texts=40_000, tokens=3_200_000, target=250, source=0)
PAIRS = Facts(texts=27_788, tokens=770_000, target=30, source=29, source_tokens=850_000)
SMALLEST = Facts(texts=1, tokens=540, target=540, source=0)
LARGEST = Facts(texts=10**9, tokens=270 * 10**9, target=2000, source=3000, source_tokens=10**12)


def chosen(file, facts, on_cpu=True, **keys):
    """What the rule chooses for a shipped config with some keys; the whole config is checked."""
    file, _, variant = file.partition(":")
    config = run_config_file(f"configs/{file}.py" + (f":{variant}" if variant else ""))
    update(config, {"data.path": "x", **keys})
    values = choose(flatten(config), facts, on_cpu)
    update(config, values)
    checks.check(config)
    return values


def test_text_as_it_was_measured():
    whole = {
        "data.vocab_size": 4096,
        "data.length": 64,
        "data.source_length": 0,
        "encoder.width": 96,
        "model.depth": 4,
        "model.width": 128,
        "model.heads": 4,
        "model.bottleneck": 64,
        "model.time_tokens": 1,
        "model.guidance_tokens": 1,
        "model.mode_tokens": 1,
        "model.unroll": 4,
        "objective.time_mean": -0.9,
        "optimizer.learning_rate": 0.08,
        "optimizer.ema": 0.9962,
        "train.batch_size": 64,
        "train.length_buckets": 1,
        "train.accumulate": 1,
        "train.duration.steps": 8000,
        "train.duration.epochs": 0.0,
        "train.duration.examples": 0,
        "train.validate_every": 800,
        "train.checkpoint_every": 800,
    }
    assert chosen("text:elf_whole", TEXT) == whole == chosen("text:mdlm", TEXT)
    blocks = {
        "objective.time_mean": -2.0,
        "optimizer.ema": 0.9925,
        "train.accumulate": 2,
        "train.duration.steps": 4000,
        "train.validate_every": 400,
        "train.checkpoint_every": 400,
    }
    assert chosen("text", TEXT) == whole | blocks  # all positions count twice


def test_pairs_as_they_were_measured():
    """The vocabulary is that of both halves; each half has its quantile and its EOS."""
    values = chosen("seq2seq", PAIRS)
    assert values["data.vocab_size"] == 4096 and values["model.width"] == 128
    assert (values["data.source_length"], values["data.length"]) == (32, 64)
    assert values["objective.time_mean"] == -2.0  # in blocks of one token, measured
    for length in (0, 2):
        blocks = {"model.block_length": length}
        assert chosen("seq2seq", PAIRS, **blocks)["objective.time_mean"] == -0.9
    one_more = PAIRS._replace(source=32, target=32)
    values = chosen("seq2seq", one_more)
    assert (values["data.source_length"], values["data.length"]) == (40, 80)


def test_a_cpu_takes_large_batches_in_parts():
    """Few positions at once, a part for each of eight devices, and only whole parts."""

    def parts(on_cpu=True, **keys):
        names = {
            "rows": "train.batch_size",
            "length": "data.length",
            "source": "data.source_length",
            "buckets": "train.length_buckets",
        }
        keys = {"buckets": 1, **keys}
        keys = {names[name]: value for name, value in keys.items()}
        return chosen("seq2seq", PAIRS, on_cpu, **keys)["train.accumulate"]

    assert parts(length=152, source=88) == 4  # 64 rows of 216 positions, measured
    assert parts(length=152, source=88, on_cpu=False) == 1
    assert parts(length=152, source=88, buckets=4) == 1  # a bucket has fewer rows
    assert parts(length=256, source=128, buckets=4) == 2
    assert parts(length=256, source=128, buckets=4, rows=72) == 1  # which has no sixteen parts
    assert parts(length=152, source=88, rows=128) == 8
    assert parts(length=512, source=256) == 8  # 8 rows in each
    assert parts(length=512, source=256, rows=12) == 1
    assert parts(length=152, source=88, rows=40) == 4  # 10 rows in each
    assert parts(length=152, source=88, rows=42) == 2  # 21 do not divide
    assert parts(length=152, source=88, rows=63) == 1


def test_pairs_are_in_buckets_where_their_padding_can_be_cut_off():
    def buckets(file="seq2seq", facts=PAIRS, on_cpu=True, **keys):
        return chosen(file, facts, on_cpu, **keys)["train.length_buckets"]

    assert buckets() == buckets("seq2seq:ar") == buckets(on_cpu=False) == fitting.BUCKETS
    assert buckets("seq2seq:mdlm") == buckets("seq2seq:flm") == fitting.BUCKETS
    assert buckets("seq2seq:elf_whole") == buckets("text", TEXT) == 1
    assert buckets("seq2seq:elf_whole", **{"model.hide_padding": True}) == 1
    assert buckets("seq2seq:mdlm", **{"data.pad_source": False}) == 1
    assert buckets(**{"model.block_length": 0}) == 1
    assert buckets(**{"model.hide_padding": False}) == 1
    assert buckets(**{"model.hide_padding": False, "data.pad_source": False}) == fitting.BUCKETS
    assert buckets(**{"train.batch_size": 60}) == 1
    assert buckets(**{"train.accumulate": 16}) == 1
    values = chosen("seq2seq", PAIRS, **{"train.length_buckets": 2, "train.batch_size": 128})
    assert "train.length_buckets" not in values


def test_the_published_law_of_times():
    assert time_mean(32_100, 512, 2.0) == -1.6  # published: -1.5
    assert time_mean(4096, 96, 4.0) > time_mean(4096, 96, 2.0) > time_mean(4096, 192, 2.0)


@pytest.mark.parametrize("file", ["text", "seq2seq"])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_smallest_and_the_largest_corpus(file, on_cpu):
    small, large = chosen(file, SMALLEST, on_cpu), chosen(file, LARGEST, on_cpu)
    assert small["data.vocab_size"] == 512 and large["data.vocab_size"] == 32_768
    assert small["train.duration.steps"] == fitting.FEWEST_STEPS
    # Longer rows, fewer steps: those of pairs have 256 positions, and those of a target twice.
    steps = 4000 if file == "text" else 1600
    whole = chosen(f"{file}:elf_whole", LARGEST, on_cpu)
    assert whole["train.duration.steps"] == (0 if not on_cpu else 8000 if file == "text" else 2000)
    assert large["train.duration.steps"] == (steps if on_cpu else 0)
    assert large["train.duration.epochs"] == (0 if on_cpu else 20)
    assert large["model.width"] == (128 if on_cpu else 768)
    assert small["model.width"] == (128 if on_cpu else 384)
    assert large["model.unroll"] == (4 if on_cpu else 1)
    assert large["optimizer.ema"] == (max(round(1 - 30 / steps, 4), 0.99) if on_cpu else 0.9999)
    if file == "seq2seq":
        assert large["data.source_length"] == (192 if on_cpu else 512)
        assert large["data.length"] - large["data.source_length"] == (64 if on_cpu else 256)


def test_more_data_never_gets_less():
    sizes = [TEXT._replace(tokens=10**n, texts=10**n // 80 + 1) for n in range(2, 12)]
    for on_cpu, key in itertools.product(
        (True, False), ("data.vocab_size", "model.width", "optimizer.ema")
    ):
        row = [chosen("text", facts, on_cpu)[key] for facts in sizes]
        assert row == sorted(row) and (row[0] < row[-1] or (key == "model.width" and on_cpu))
    counts = [vocabulary(tokens) for tokens in range(1, 10**7, 9973)]
    assert counts == sorted(counts) and vocabulary(3_200_000) == 4096


def test_keys_of_the_user_are_kept_and_the_others_fit_them():
    values = chosen("text", TEXT, **{"model.width": 384})
    assert "model.width" not in values
    assert values["optimizer.learning_rate"] == 0.0089 and values["encoder.width"] == 256
    assert (values["model.depth"], values["model.heads"], values["model.unroll"]) == (6, 6, 6)
    assert chosen("text", TEXT, **{"model.width": 200})["model.heads"] == 5  # of an even width
    keys = {"encoder.width": 512, "data.vocab_size": 32_100}
    assert chosen("text:elf_whole", TEXT, **keys)["objective.time_mean"] == -1.6
    values = chosen("text", TEXT, **{"train.duration.epochs": 1.0})
    assert values["train.duration.steps"] == 0 and values["train.validate_every"] == 100
    values = chosen("text", TEXT, **{"train.duration.epochs": 0.0, "train.duration.steps": 90})
    assert values["train.duration.examples"] == 0 and values["optimizer.ema"] == 0.99
    values = chosen("seq2seq", LARGEST, **{"data.length": 48})
    assert values["data.source_length"] == 40 and "data.length" not in values
    values = chosen("text", TEXT, **{"objective.time_mean": 0.0})  # zero is a value
    assert "objective.time_mean" not in values


def test_rows_with_one_text_each_are_as_long_as_the_texts():
    rows = TEXT._replace(target=41)
    assert chosen("text", rows, **{"data.packing": "rows"})["data.length"] == 48
    assert chosen("text", TEXT, **{"data.packing": "rows"})["data.length"] == 64
    assert chosen("text", TEXT, False, **{"data.packing": "rows"})["data.length"] == 256


def test_without_data_only_what_depends_on_it_is_missing():
    with pytest.raises(UserError) as error:
        chosen("text", None, on_cpu=False)
    assert "choose config.data.vocab_size, config.model.width: name" in str(error.value)
    with pytest.raises(UserError, match="vocab_size, config.data.source_length, config.data.leng"):
        chosen("seq2seq", None)
    values = chosen("text", None, False, **{"data.vocab_size": 8192, "model.width": 384})
    assert values["train.duration.epochs"] == 20 and values["model.depth"] == 6


def test_other_configs_leave_nothing_to_the_rule():
    for file in ("base", "owt", "quickstart", "wmt14_de_en", "xsum"):
        assert fitting.by_rule(flatten(run_config_file(f"configs/{file}.py"))) == []
    assert fitting.by_rule(flatten(run_config_file("configs/text.py"))) == list(fitting.KEYS)


def test_a_key_without_a_value_is_not_used():
    config = run_config_file("configs/text.py")
    with pytest.raises(UserError, match="config.data.length has no value"):
        checks.check(config)
    with pytest.raises(UserError, match="train.batch_size must be of type int, not 'many'"):
        update(config, {"train.batch_size": "many"})
