"""Filling gaps: what stays, what may be written where, the order, the faults, the command."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax import commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.allowed import SAMPLERS
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, Never
from elf_jax.generation.fill import Counts, Filler, describe, fill
from elf_jax.generation.generate import jit_sampler, scales
from elf_jax.generation.lines import sample_id
from elf_jax.methods.registry import METHODS, build_method
from tests.generation.test_answers import command
from tests.methods.test_every_method import SIZES, mesh_of, random_params
from tests.methods.tracing import traced_samplers
from tests.tiny import save_random_weights, tiny_config, write_book

ODD = "naïve e\u0301 \u05e9\u05dc\u05d5\u05dd \U0001f408\u200d\u2b1b\tend\r\nof"
TEMPLATES = ["___ was ___ and [[2]]", "", "no gap \\___", "[[3]]", f"{ODD}[[1]]___{ODD}", "a ___"]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Models with random weights: of names, one in a row, and of a book, one stream."""
    root = tmp_path_factory.mktemp("fill")
    names = {"data.tokenizer": "words", "data.packing": "rows", "sample.batch_size": 4}
    names = tiny_config(**{**names, "optimizer.ema": 0.0})
    book = {
        "method": "mdlm",
        "sample.sampler": "ancestral",
        "optimizer.ema": 0.0,
        "data.kind": "text",
        "data.path": str(write_book(root / "book.txt")),
    }
    book |= {"data.length": 96, "data.pad": "pad", "sample.batch_size": 4, "fill.gap": 3}
    names = save_random_weights(names, root / "names")
    return {"names": names, "book": save_random_weights(tiny_config(**book), root / "book")}


@pytest.fixture(scope="module")
def book(workdirs):
    return load_trained(workdirs["book"])


@pytest.fixture(scope="module")
def names(workdirs):
    return load_trained(workdirs["names"])


RUNS = {}  # compiled samplers of the models


def filled(trained, templates, **keys):
    # Models with other weights, or with another config of the training, share a sampler.
    run = RUNS.setdefault((trained.method, trained.config.sample.sampler), jit_sampler(trained))
    lines = ((f"line {number}", text) for number, text in enumerate(templates, 1))
    keys = {"seed": 0, "counts": Counts(), "run": run, **keys}
    return [record for batch in fill(trained, lines, **keys) for record in batch]


def preferring(trained, token):
    """The model with one token that is by far the likeliest everywhere."""
    params = jax.tree.map(jnp.asarray, trained.params)
    params["unembed"]["bias"] = params["unembed"]["bias"].at[token].add(1e4)
    return dataclasses.replace(trained, params=params)


def taught(trained):
    """The model with the config of one that has learned the padding at the end of gaps."""
    config = trained.config.copy_and_resolve_references()
    config.data.given.ends = 0.5
    return dataclasses.replace(trained, config=config)


def test_text_stays_and_gaps_are_filled(book):
    records = filled(book, TEMPLATES, samples=2)
    assert [record["template"] for record in records] == [t for t in TEMPLATES for _ in range(2)]
    assert [record["sample"] for record in records] == [0, 1] * len(TEMPLATES)
    assert records[2]["text"] == "" and records[4]["text"] == "no gap ___"
    first, second = records[8:10]
    assert first["text"] == f"{ODD}{''.join(first['gaps'])}{ODD}" and len(first["gaps"]) == 2
    assert first["gaps"] != second["gaps"] and all(second["gaps"])
    a, b, c = records[0]["gaps"]
    assert records[0]["text"] == f"{a} was {b} and {c}"
    assert a == a.strip() and b == b.strip() and c == c.strip()


def test_a_sample_depends_on_seed_place_and_number_only(book):
    alone = filled(book, TEMPLATES)
    several = filled(book, TEMPLATES, samples=3)
    assert several[::3] == alone
    assert filled(book, TEMPLATES[:1]) == alone[:1]
    assert filled(book, TEMPLATES, seed=1) != alone
    same = filled(book, ["[[4]]"] * 3, samples=3)
    assert len({record["text"] for record in same}) == 9
    ids = {int(sample_id(place, number)) for place in range(1000) for number in range(100)}
    assert len(ids) == 100_000 and int(sample_id(7, 0)) == 7


def test_one_compilation_and_each_batch_at_once(names):
    taken, templates = [], ["letter ___", "", "a", "[[1]]", "___ a", "___"]
    lines = (taken.append(text) or ("", text) for text in templates)
    with traced_samplers() as traced:
        seen = [len(taken) for _ in fill(names, lines, 0, Counts())]
    assert seen == [4, 6] and len(traced) == 1


@pytest.mark.parametrize("which", ["pad_token_id", "eos_token_id", "unk_token_id"])
def test_no_gap_has_tokens_that_are_no_text(names, which):
    """Not even if the model would write nothing else."""
    token = getattr(names.tokenizer, which)
    model = preferring(names, token)
    name = names.tokenizer.convert_ids_to_tokens(token)
    templates = ["[[2]] letter [[1]]", "letter ___ a", "letter [[3]]"]
    for record in filled(model, templates):
        assert all(record["gaps"]) and name not in record["text"]
    two, one = filled(model, templates[:1])[0]["gaps"]
    assert len(two.split()) == 2 and len(one.split()) == 1
    # Where the padding of gaps is learned, it is allowed in ___ and in nothing else.
    is_padding = which == "pad_token_id"
    records = filled(taught(model), templates)
    assert records[1]["text"] == ("letter  a" if is_padding else records[1]["text"])
    assert [bool(text) for record in records for text in record["gaps"]] == [
        True,
        True,
        not is_padding,
        True,
    ]


def test_a_gap_at_the_end_may_end_earlier(names):
    model = preferring(names, names.tokenizer.eos_token_id)
    records = filled(model, ["letter ___", "letter ___ ___", "letter ___[[1]]"])
    assert [[bool(text) for text in record["gaps"]] for record in records] == [
        [False],
        [True, False],
        [True, True],
    ]
    assert records[0]["text"] == "letter "


def test_the_end_of_a_text_is_given(names, book):
    _, eos, length = names.tokenizer.pad_token_id, names.tokenizer.eos_token_id, 8
    fields, gaps = Filler.of(names, Counts()).layout(_parse("letter [[2]] a"))
    assert gaps == [slice(1, 3)]
    assert fields["is_cond"].tolist() == [True, False, False, True, True] + [False] * (length - 5)
    assert fields["tokens"][4] == eos
    fields, _ = Filler.of(book, Counts()).layout(_parse("[[2]] sea"))
    end = 2 + len(Filler.of(book, Counts()).pieces.encode(" sea", False, True))
    assert fields["is_cond"].tolist() == [2 <= index < end for index in range(96)]


def _parse(text):
    from elf_jax.generation.templates import parse

    return parse(text)


def test_gaps_share_the_room(names):
    filler = Filler.of(names, Counts())
    for template, sizes in {
        "letter ___": [6],
        "letter ___ a ___": [2, 2],
        "letter [[3]] a ___": [3, 2],
        "___ letter ___ a ___": [1, 1, 1],
    }.items():
        gaps = filler.layout(_parse(template))[1]
        assert [gap.stop - gap.start for gap in gaps] == sizes, template


@pytest.mark.parametrize(
    "template, given, gaps",
    [
        ("letter ___ a", "# . . . . | # E", [4]),  # "E": the end of the text
        ("letter [[2]] a", "# . . # E . . .", [2]),
        ("letter ___", "# . . . . . | E", [5]),
        ("___ a [[1]]", ". . . . | # . E", [4, 1]),
    ],
)
def test_an_open_gap_has_a_mark_after_it(names, template, given, gaps):
    """As in training, see `training/given.py`. It takes a position of the row."""
    filler = Filler.of(taught(names), Counts())
    fields, found = filler.layout(_parse(template))
    assert [gap.stop - gap.start for gap in found] == gaps
    pad, eos = names.tokenizer.pad_token_id, names.tokenizer.eos_token_id
    marks = {pad: "|", eos: "E"}
    pairs = zip(fields["tokens"], fields["is_cond"], strict=True)
    assert [marks.get(int(token), "#") if on else "." for token, on in pairs] == given.split()
    assert not fields["never"].where[fields["is_cond"]].any()


def test_templates_that_are_too_long(names, book):
    message = r"line 2: the template has 9 tokens or more \(2 of text, 6 of gaps, 1 of the end\)"
    with pytest.raises(UserError, match=f"{message}, and the model has room for 8: shorten it"):
        filled(names, ["letter ___", "letter [[6]] a"])
    with pytest.raises(UserError, match="line 1: .* 97 tokens or more .*, and the .* for 96"):
        filled(book, ["[[97]]"])
    with pytest.raises(UserError, match="9 tokens or more .2 of text, 6 of gaps, 1 of the end"):
        filled(taught(names), ["letter [[4]] ___ a"])
    assert filled(book, ["[[96]]"])
    with pytest.raises(UserError, match="line 1: .*1000000000"):
        filled(book, ["[[99999999999999999999]]"])
    with pytest.raises(UserError, match=r"line 1: \[\[0\]\] is a gap of 0 tokens"):
        filled(book, ["[[0]]"])


def test_what_a_user_is_told(names):
    counts = Counts()
    lines = ["letter ___ a", "letter zzz [[1]]", "", "zzz", "letter ___"]
    filled(names, lines, counts=counts)
    assert counts == Counts(templates=5, open=1, unknown=1)
    note = describe(counts, names.config)
    assert note.startswith("note: each ___ that does not end a template has 8 tokens, ")
    assert "1 of 5 templates have words" in note
    assert describe(Counts(templates=3, open=2), taught(names).config) == ""


def test_a_gap_after_a_space_begins_with_a_word(book):
    """Not with a part of a word, which would go on with the word before the space."""
    model = preferring(book, book.tokenizer.get_vocab()["e"])
    after, inside = filled(model, ["the [[3]] was", "the[[3]] was"])
    assert inside["text"] == "theeee was"
    first, rest = after["gaps"][0][:-2], after["gaps"][0][-2:]
    assert rest == "ee" and first != "e" and after["text"] == f"the {first}ee was"


@pytest.mark.parametrize("sampler", SAMPLERS["ar"])
def test_ar_only_continues(names, sampler):
    keys = {"method": "ar", "sample.sampler": sampler, **SIZES}
    config = tiny_config(**{**keys, "data.packing": "rows"})
    size = len(names.tokenizer)
    method, frozen = build_method(config, size, mesh_of(1), eos_id=names.tokenizer.eos_token_id)
    params = random_params(method, 8)
    changes = {"method": method, "frozen": frozen, "params": params, "mesh": mesh_of(1)}
    model = dataclasses.replace(names, config=config, **changes)
    for text in ("letter ___ a", "___ letter", "letter [[2]]."):
        with pytest.raises(UserError, match="line 1: there is text after .* only continues a text"):
            filled(model, [text])
    model = preferring(model, names.tokenizer.eos_token_id)
    records = filled(model, ["letter ___", "letter [[2]]", "[[3]]"])
    assert records[0]["text"] == "letter "
    assert [len(record["gaps"][0].split()) for record in records] == [0, 2, 3]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_forbidden_tokens_in_every_method(name):
    """Rows whose likeliest tokens are forbidden at some positions; with guidance."""
    size, banned, group = 20, (1, 5), (2, 3)
    draw = np.random.default_rng(0)
    is_given = draw.random((8, 8)) < (0 if name == "ar" else 0.3)
    tokens = draw.integers(6, size, (8, 8)).astype(np.int32)
    where = ~is_given[..., None] & (draw.random((8, 8, 3)) < 0.5)
    for sampler in ("sample", "beam") if name == "ar" else SAMPLERS[name][:1]:
        keys = {"sample.sampler": sampler, "sample.steps": 2, "sample.cfg_scale": 1.5}
        config = tiny_config(**{"method": name, **SIZES, **keys})
        method, frozen = build_method(config, size, mesh_of(1))
        params = random_params(method, 8)
        params["unembed"]["bias"] = params["unembed"]["bias"].at[jnp.array(banned)].add(99.0)
        params["unembed"]["bias"] = params["unembed"]["bias"].at[jnp.array(group)].add(50.0)
        run = jax.jit(method.sampler(config.sample, 8))
        given = Batch(tokens, is_given, is_given, never=Never(where, banned, group))
        inputs = params, frozen, jnp.arange(8), given, jax.random.key(0)
        found = np.asarray(run(*inputs, scales(method, config.sample)))
        for index, token in enumerate(banned):
            assert not (found == token)[where[..., index]].any(), sampler
        assert not np.isin(found, group)[where[..., -1]].any(), sampler
        assert np.isin(found, banned)[~is_given & ~where[..., :2].all(axis=-1)].all()
        assert np.isin(found, group)[where[..., :2].all(axis=-1) & ~where[..., -1]].all()


def test_pairs_have_no_templates(pairs_workdir):
    with pytest.raises(UserError, match="was trained on pairs .* takes no templates"):
        list(commands.fills(pairs_workdir, text="___"))


def test_the_command(workdirs, tmp_path, capsys, monkeypatch):
    book = f"--workdir={workdirs['book']}"
    command("--mode=fill", book, "--text=the ___ was\n[[2]]", "--num_samples=2")
    printed = capsys.readouterr()
    assert printed.out.count("the ") >= 2 and " was\n" in printed.out
    assert " has 3 tokens, " in printed.err and printed.err.count("\n") == 1
    lines = "a ___ b\r\n\n\\___\n___"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    command("--mode=fill", book, "--source=-", "--format=jsonl", "--gap=1", "--seed=3")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["template"] for record in records] == ["a ___ b", "", "\\___", "___"]
    assert records[2]["text"] == "___" and records[0]["text"].startswith("a ")
    seen = list(commands.fills(workdirs["book"], source=lines.split("\n"), gap=1, seed=3))
    assert [one["text"] for one in seen[1:]] == [one["text"] for one in records[1:]]
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "a\\n[[1]]"}\n{"text": ""}\n')
    command("--mode=fill", book, f"--source={file}", f"--output={tmp_path}/out.txt")
    out = (tmp_path / "out.txt").read_text().split("\n")
    assert len(out) == 3 and out[0].startswith("a ") and out[1] == ""


FAULTS = [
    ([], "name a text in --text, or a file"),
    (["--text=a", "--source=b"], "not both"),
    (["--text=a", "--strength=0.5"], "--strength is for --mode=rewrite"),
    (["--text=___", "--gap=0"], "config.fill.gap is 0; it must be 1 or more"),
    (["--text=[[99]]"], "--text: the template has 99 tokens or more"),
]


@pytest.mark.parametrize("flags, fault", FAULTS)
def test_faults_are_one_line(workdirs, capsys, flags, fault):
    with pytest.raises(SystemExit) as end:
        command("--mode=fill", f"--workdir={workdirs['book']}", *flags)
    printed = capsys.readouterr()
    assert end.value.code == 2 and fault in printed.err and printed.err.count("\n") == 1


def test_nothing_is_printed_of_a_batch_with_a_fault(workdirs, tmp_path, capsys):
    file = tmp_path / "in.txt"
    file.write_text("[[1]] a\n" * 5 + "[[99]]\n")  # in the second batch of 4
    with pytest.raises(SystemExit):
        command("--mode=fill", f"--workdir={workdirs['book']}", f"--source={file}")
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 4 and "in.txt line 6: the template" in printed.err
