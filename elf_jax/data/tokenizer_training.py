"""Trains tokenizers: a byte-level BPE, which loses nothing, or a list of words, which suits short
texts with few different words.
"""

import functools

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from elf_jax.core.errors import UserError
from elf_jax.data.cutting import cut_runs

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, in T5's order
TRAINED = ("bpe", "words")  # kinds that are trained on the data

LITTLE = 1_000_000  # characters; training on no more than these takes a moment
# Characters of a word that a BPE is trained on: more than a word of any language has. The time to
# train grows with the square of the longest word, and DNA is one word without an end.
LONGEST_WORD = 1024


def train_tokenizer(settings, examples):
    """Trains a tokenizer of at most settings.vocab_size tokens.

    If there is much text, it says how much: before it reads a list, otherwise after the reading.
    What follows is the longest part where there are many different words.

    Args:
      settings: config section `data`. examples: iterable of `Example`s; sources are used too.

    Raises:
      UserError: settings.vocab_size is too small for the kind of tokenizer.
    """
    special = [PAD, EOS, UNK]
    kind = settings.tokenizer
    if kind == "auto":
        kind = "words" if settings.kind == "unicode_names" else "bpe"
    # BPE begins with the 256 bytes. Its trainer would ignore a smaller limit.
    smallest = len(special) + (256 if kind == "bpe" else 1)
    if settings.vocab_size < smallest:
        raise UserError(
            f"config.data.vocab_size={settings.vocab_size} is too small: {kind} needs {smallest} "
            "or more"
        )
    make = _bpe if kind == "bpe" else _words
    core, trainer = make(
        vocab_size=settings.vocab_size, special_tokens=special, show_progress=False
    )
    texts = (text for example in examples for text in example if text is not None)
    announce = functools.partial(_announce, settings, kind)
    if isinstance(examples, list):
        texts = list(texts)
        announce(sum(map(len, texts)))
    else:
        texts = _counted(texts, announce)
    if kind == "bpe":
        texts = (piece for text in texts for piece in cut_runs(text, LONGEST_WORD))
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def _announce(settings, kind, size):
    if size > LITTLE:
        print(
            f"training a tokenizer ({kind}, at most {settings.vocab_size:,} tokens) on {size:,} "
            f"characters of {settings.path or settings.kind}",
            flush=True,
        )


def _counted(texts, announce):
    """Yields texts; calls `announce` with the number of their characters after the last one."""
    size = 0
    for text in texts:
        size += len(text)
        yield text
    announce(size)


def _bpe(**keys):
    """(tokenizer to train, its trainer); `keys` are for the trainer."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **keys)


def _words(**keys):
    """See `_bpe`."""
    core = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
    # Every word has a leading space, the first one too. So a word is the same token in every place.
    core.normalizer = normalizers.Prepend(" ")
    pattern = tokenizers.Regex(r" ?[^\s\p{P}\p{S}]+| ?[\p{P}\p{S}]|\s")
    core.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    core.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return core, trainers.WordLevelTrainer(**keys)
