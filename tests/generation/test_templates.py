"""Templates: what is a gap, what is text, and the tokens at the borders."""

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from elf_jax.core.errors import UserError
from elf_jax.data.examples import Example
from elf_jax.data.tokenizer import encode
from elf_jax.data.tokenizer_training import train_tokenizer
from elf_jax.generation.templates import Pieces, Template, fit, parse
from tests.tiny import tiny_config

TEXTS = [
    "The cat sat by the door, and it's unable to leave until dawn.",
    '(The door) was open; the cat-flap, too: "open" - not shut!',
    "a b  c   d e",
    "able x-ray of the un-able cat's paw 12345 67",
]
ODD = "naïve e\u0301 \u200f\u05e9\u05dc\u05d5\u05dd \U0001f408\u200d\u2b1b\tend\r\nof  line"


def bpe():
    """A byte-level BPE."""
    data = tiny_config(**{"data.tokenizer": "bpe", "data.vocab_size": 400}).data
    return train_tokenizer(data, [Example(text) for text in TEXTS * 3])


def words():
    """A list of words; each has the space before it."""
    data = tiny_config(**{"data.tokenizer": "words"}).data
    return train_tokenizer(data, [Example(text) for text in TEXTS])


def t5():
    """Like T5's: unigrams with a sign for the space, which the tokenizer adds at the start."""
    core = tokenizers.Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence(
        [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(TEXTS * 3, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


KINDS = {"bpe": bpe, "words": words, "t5": t5}


@pytest.fixture(scope="module", params=KINDS)
def pieces(request):
    return Pieces(KINDS[request.param]())


@pytest.mark.parametrize(
    "text, literals, gaps",
    [
        ("The ___ sat.", ("The ", " sat."), (None,)),
        ("___", ("", ""), (None,)),
        ("_______", ("", ""), (None,)),
        ("a__b __init__", ("a__b __init__",), ()),
        ("[[12]]___[[003]]", ("", "", "", ""), (12, None, 3)),
        ("un___able [[2]]", ("un", "able ", ""), (None, 2)),
        (r"\___ \[[3]] \\___ \\\[[4]]", ("___ [[3]] \\", r" \[[4]]"), (None,)),
        (r"C:\new\\x [[a]] [[ 3 ]] [3]", (r"C:\new\\x [[a]] [[ 3 ]] [3]",), ()),
        (f"[[99999999999999]]{'9' * 5000}", ("", "9" * 5000), (10**9,)),
        ("", ("",), ()),
        (f"{ODD}___{ODD}", (ODD, ODD), (None,)),
    ],
)
def test_what_is_a_gap(text, literals, gaps):
    assert parse(text) == Template(literals, gaps)


def test_a_gap_of_nothing():
    with pytest.raises(UserError, match=r"\[\[00\]\] is a gap of 0 tokens.*write \\\[\[00\]\]"):
        parse("a [[00]] b")


def test_the_text_around_gaps_stays():
    template = parse(rf"{ODD}[[2]] \___ ___")
    assert template.filled(["x", "y"]) == f"{ODD}x ___ y"


SPACES = [
    ("The ", "cat", " sat by the door, and it's unable"),
    ("The cat ", "sat by", " the door, and it's unable"),
    ("", "The", " cat sat by the door"),
    ("The cat sat by the ", "door", ""),
]
SIGNS = [
    ("(The ", "door", ") was open; the cat"),
    ("was open; the ", "cat", "-flap, too"),
    ("(", "The door", ") was open"),
    ("to leave until ", "dawn", "."),
]


@pytest.mark.parametrize("before, gap, after", SPACES + SIGNS)
def test_tokens_at_borders_are_those_of_the_whole_text(pieces, before, gap, after):
    is_t5 = isinstance(pieces.tokenizer.backend_tokenizer.model, models.Unigram)
    if (before, gap, after) in SIGNS and is_t5:
        pytest.skip("its tokens have words and signs together")
    whole = encode(pieces.tokenizer, [before + gap + after])[0].tolist()
    first = pieces.encode(before, True, False).tolist()
    last = pieces.encode(after, False, True).tolist()
    end = len(whole) - len(last)
    assert whole[: len(first)] == first and whole[end:] == last
    middle = pieces.decode(whole[len(first) : end], not before)
    assert middle.strip() == gap
    assert (middle[0] == " ") == before.endswith(" ")  # the space is the gap's


def test_a_gap_inside_a_word(pieces):
    for text in ("able", " able"):
        tokens = pieces.encode(text, False, True).tolist()
        assert pieces.decode(tokens, False) == text
    assert pieces.encode(" ", False, False).size == 0


def test_tokens_of_any_text():
    pieces = Pieces(bpe())
    for text in (ODD, "\n\nx", "  y", "\t", "\r\n", "\u0301", "...", "'s", "(", "\n(a"):
        tokens = pieces.encode(text, False, True).tolist()
        assert pieces.decode(tokens, False) == text


@pytest.mark.parametrize(
    "text, before, after, expected",
    [
        (" a ", "x", "y", " a "),
        (" a ", "x ", "\ty", "a"),
        (" a ", "", "", "a"),
        ("\u00a0a\n", "x", "", "\u00a0a"),
        (" a ", None, None, " a "),
        ("  ", "x ", "y", ""),
    ],
)
def test_spaces_at_borders_are_those_of_the_template(text, before, after, expected):
    assert fit(text, before, after) == expected
