"""A piece of text for each token: together they are the text, for all kinds of tokenizers."""

import random
import time

import numpy as np
import pytest
import tokenizers
import transformers

from elf_jax.data.examples import Example
from elf_jax.data.tokenizer import decode, encode
from elf_jax.data.tokenizer_training import train_tokenizer
from elf_jax.generation.pieces import OPEN, FilledTemplate, Splitter
from elf_jax.generation.templates import Pieces, parse
from tests.tiny import tiny_config

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
TEXTS = [
    "the sea was calm , and nobody spoke .",
    "  two  spaces,\nlines\tand tabs ",
    f"emoji \U0001f389 {FAMILY} \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 end",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd and \u0645\u0631\u062d\u0628\u0627",
    "na\u00efve e\u0301 \u65e5\u672c\u8a9e Stra\u00dfe",
]


def fast(core):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def trained(kind):
    config = tiny_config(**{"data.tokenizer": kind, "data.vocab_size": 320})
    return train_tokenizer(config.data, [Example(text) for text in TEXTS])


def unigram():
    """A tokenizer that writes spaces as T5's does."""
    core = tokenizers.Tokenizer(tokenizers.models.Unigram())
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    core.decoder = tokenizers.decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    core.train_from_iterator(
        TEXTS,
        tokenizers.trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>"
        ),
    )
    return fast(core)


def word_pieces():
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.decoder = tokenizers.decoders.WordPiece()
    special = ["<pad>", "</s>", "<unk>"]
    core.train_from_iterator(
        TEXTS, tokenizers.trainers.WordPieceTrainer(vocab_size=160, special_tokens=special)
    )
    return fast(core)


KINDS = {
    "bytes": lambda: trained("bpe"),
    "words": lambda: trained("words"),
    "unigram": unigram,
    "word pieces": word_pieces,
    "ByT5": transformers.ByT5Tokenizer,
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def tokenizer(request):
    return KINDS[request.param]()


def test_the_pieces_are_the_text(tokenizer):
    """Texts, and random tokens, some of which are no whole characters."""
    splitter, draw = Splitter(tokenizer), random.Random(0)
    rows = [ids.tolist() for ids in encode(tokenizer, TEXTS)]
    rows += [[draw.randrange(len(tokenizer)) for _ in range(n)] for n in (0, 1, 2, 5, 9, 30) * 20]
    for row in rows:
        pieces = splitter.split(row)
        assert len(pieces) == len(row)
        assert "".join(pieces) == decode(tokenizer, [row])[0]
        assert all(
            piece == ""
            for piece, token in zip(pieces, row, strict=True)
            if token == tokenizer.pad_token_id
        )


def test_a_word_is_the_piece_of_its_tokens(tokenizer):
    splitter = Splitter(tokenizer)
    row = encode(tokenizer, ["the sea was calm"])[0].tolist()
    pieces = splitter.split(row)
    for count in range(1, len(row)):
        assert "".join(pieces[:count]) == decode(tokenizer, [row[:count]])[0]


def test_open_positions_split_a_text_and_keep_its_spaces(tokenizer):
    splitter = Splitter(tokenizer)
    row = encode(tokenizer, ["the sea was calm"])[0].tolist()
    whole, half = splitter.split(row), len(row) // 2
    pieces = splitter.split([*row[:half], OPEN, OPEN, *row[half:]])
    assert pieces[half : half + 2] == [None, None]
    assert pieces[:half] + pieces[half + 2 :] == whole
    assert splitter.split([OPEN, OPEN]) == [None, None]


@pytest.mark.parametrize("kind", ["bytes", "ByT5"])
def test_a_character_of_several_tokens_is_the_piece_of_the_first(kind):
    tokenizer = KINDS[kind]()
    for sign in ("\U0001f408", FAMILY, "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "e\u0301"):
        row = encode(tokenizer, [f"a{sign}b"])[0].tolist()
        pieces = [piece for piece in Splitter(tokenizer).split(row) if piece]
        assert len(row) > 3 or sign == "e\u0301"
        assert "".join(pieces) == f"a{sign}b"
        assert any(piece.endswith(sign) for piece in pieces) or f"{sign}b" in pieces
    flags = "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7"
    row = encode(tokenizer, [flags])[0].tolist()
    assert [piece for piece in Splitter(tokenizer).split(row) if piece] in (
        [flags[:2], flags[2:]],
        [flags],
    )


@pytest.mark.parametrize("text", ["the ___ was ___ .", "___", " ___  ___ ", f"{FAMILY}___\n", "x"])
def test_the_text_of_a_template_stays_as_it_is(tokenizer, text):
    template, pieces = parse(text), Pieces(tokenizer)
    if not template.gaps:
        row = pieces.encode(text, True, True).tolist()
        assert "".join(Splitter(tokenizer).literal(row, text, True)) == text
        return
    last, eos, row, gaps, literals = len(template.gaps), tokenizer.eos_token_id, [], [], []
    filler = encode(tokenizer, ["sea was"])[0].tolist()
    for index, literal in enumerate(template.literals):
        literals.append(pieces.encode(literal, index == 0, index == last).tolist())
        row += literals[-1]
        if index < last:
            gaps.append(slice(len(row), len(row) + len(filler)))
            row += filler
    filled = FilledTemplate(Splitter(tokenizer), template, literals, gaps, eos)
    shown = filled.split(row)
    assert len(shown) == len(row)
    parts = "".join(shown)
    for literal in template.literals:
        assert literal.strip() in parts
    assert parts.startswith(template.literals[0]) and parts.endswith(template.literals[-1])
    opened = [OPEN if any(g.start <= at < g.stop for g in gaps) else t for at, t in enumerate(row)]
    holes = filled.split(opened)
    assert [piece is None for piece in holes] == [token == OPEN for token in opened]


def test_many_long_texts_are_fast():
    """8 samples of 64 states of 128 tokens, a tenth of which are parts of characters."""
    tokenizer, draw = KINDS["bytes"](), np.random.default_rng(0)
    words = np.concatenate(encode(tokenizer, TEXTS[:1] * 40 + TEXTS[2:3] * 2))
    splitter, begin = Splitter(tokenizer), time.process_time()
    for _ in range(8):
        row = draw.permutation(words)[:128]
        for _ in range(64):
            row = np.where(draw.random(128) < 0.05, draw.permutation(words)[:128], row)
            splitter.split(row.tolist())
    assert time.process_time() - begin < 5  # about 1 when nothing else runs
