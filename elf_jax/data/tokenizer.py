"""Tokenizers: text to token ids and back.

A tokenizer is read from a directory, or trained on the data. A trained one is either a byte-level
BPE, which loses nothing, or a list of words, which suits short texts with few different words.
"""

import hashlib
import pathlib

import numpy as np
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory
from elf_jax.core.hub import resolve

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, in T5's order
TRAINED = ("bpe", "words")  # kinds that are trained on the data
SENTINEL = "<extra_id_{}>"  # T5's name for the token that stands for the i-th hidden span


def get_tokenizer(settings, examples, directory):
    """The tokenizer in `directory`, or if there is none, the one that the config asks for.

    Args:
      settings: config section `data`.
      examples: training `Example`s to train a tokenizer on; None if they are not known.
      directory: where `save_tokenizer` keeps the tokenizer of a run.

    Returns:
      A `transformers.PreTrainedTokenizerFast` with a pad and an EOS token.

    Raises:
      UserError: no tokenizer where the config points, one without EOS, or one that would have to be
        trained without examples.
    """
    if pathlib.Path(directory).is_dir():
        return load_tokenizer(directory)
    if settings.tokenizer in ("auto", *TRAINED):
        if examples is None:
            raise UserError(f"there is no tokenizer in {str(directory)!r}: restore it")
        return train_tokenizer(settings, examples)
    return load_tokenizer(settings.tokenizer)


def load_tokenizer(path):
    """The tokenizer in a local directory, or with a name on the Hugging Face hub.

    Raises:
      UserError: there is none, or it has no EOS token.
    """
    what = f"tokenizer (config.data.tokenizer; {' and '.join(TRAINED)} are trained on the data)"
    path = resolve(path, what)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"no tokenizer at {str(path)!r} ({reason}): set config.data.tokenizer to "
            f"{' or '.join(TRAINED)}, or to a local directory with tokenizer.json"
        ) from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer at {str(path)!r} has no EOS token: set one in its config")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def train_tokenizer(settings, examples):
    """Trains a tokenizer of at most settings.vocab_size tokens.

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
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


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


def encode(tokenizer, texts):
    """Token ids of each text, without special tokens: a list of int32 arrays.

    If a text contains the name of a special token, such as "</s>", it stays ordinary text.
    """
    if not len(texts):
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
    )
    return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]


def decode(tokenizer, rows):
    """The text of each row of token ids: a list of strings.

    Padding is left out; other special tokens appear by name.
    """
    pad = tokenizer.pad_token_id
    rows = [[int(token) for token in row if token != pad] for row in rows]
    return [
        tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for row in rows
    ]


def add_sentinels(tokenizer, count):
    """Adds to the tokenizer those of T5's first `count` sentinels that it does not have.

    They come after its other tokens, which keep their ids.

    Returns:
      [count] int32, the ids of the sentinels.
    """
    names = [SENTINEL.format(index) for index in range(count)]
    known = tokenizer.get_vocab()
    missing = [
        tokenizers.AddedToken(name, special=True, normalized=False)
        for name in names
        if name not in known
    ]
    tokenizer.add_tokens(missing, special_tokens=True)
    return np.asarray(tokenizer.convert_tokens_to_ids(names), np.int32)


def fingerprint(tokenizer):
    """16 hexadecimal digits that change with the tokenizer.

    They are a hash of its tokenizer.json and of the ids of EOS and padding.
    """
    core = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    ids = f"{tokenizer.eos_token_id} {tokenizer.pad_token_id}"
    return hashlib.sha256(f"{core.to_str()} {ids}".encode()).hexdigest()[:16]


def pad_id(settings, tokenizer):
    """Id of the token that fills the rest of a row, as settings.pad says."""
    return tokenizer.eos_token_id if settings.pad == "eos" else tokenizer.pad_token_id


def vocab_size(tokenizer):
    """V: the number of tokens, including special and added ones."""
    return len(tokenizer)


def save_tokenizer(tokenizer, directory):
    """Writes the tokenizer to `directory`, whole or not at all. One that is there already stays."""
    if not pathlib.Path(directory).is_dir():
        with open_directory(directory) as scratch:
            tokenizer.save_pretrained(scratch)
