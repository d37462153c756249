"""Tokenizers: text to token ids and back.

A tokenizer is read from a directory, or trained on the data (`tokenizer_training.py`). Most are
fast ones of the tokenizers library, with a tokenizer.json. Others are written in Python, such as
ByT5's.
"""

import hashlib
import json
import pathlib
import tempfile

import numpy as np
import tokenizers
import transformers

from elf_jax.core import checksums
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_downloaded, open_directory, read_json
from elf_jax.core.hub import resolve
from elf_jax.data.tokenizer_errors import encoding, told
from elf_jax.data.tokenizer_training import TRAINED, train_tokenizer

# What tokenizers treat in different ways: case, accents, spaces, digits, scripts, special tokens.
PROBE = "Straße ÀÉ abc  ABC\n\t1234 日本 🎉 </s>."
SENTINEL = "<extra_id_{}>"  # T5's name for the token that stands for the i-th hidden span

SPACE = "\u2581"  # how T5's tokenizer writes a space

# Files of a tokenizer: the one that makes most others needless, and the ends of all their names.
WHOLE = "tokenizer.json"
FILES = (".json", ".model", ".txt", ".bpe", ".tiktoken")


def get_tokenizer(settings, examples, directory):
    """The tokenizer in `directory`, or if there is none, the one that the config asks for.

    Args:
      settings: config section `data`.
      examples: training `Example`s to train a tokenizer on; None if they are not known.
      directory: where `save_tokenizer` keeps the tokenizer of a run.

    Returns:
      A tokenizer of transformers with a pad and an EOS token.

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
      UserError: there is none, it is damaged, it has no vocabulary or no EOS token, or its ids
        have gaps.
    """
    what = f"tokenizer (config.data.tokenizer; {' and '.join(TRAINED)} are trained on the data)"
    path = pathlib.Path(resolve(path, what))
    _check_downloaded(path)
    checksums.check_directory(path, lambda name: name.endswith(FILES))
    remedy = f"{' or '.join(TRAINED)}, or to a local directory with {WHOLE}"
    try:
        with told(f"no tokenizer at {str(path)!r}", f"set config.data.tokenizer to {remedy}"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
            vocabulary = tokenizer.get_vocab()
    except UserError:
        for name in (WHOLE, "tokenizer_config.json"):
            if (path / name).is_file():
                read_json(path / name, remedy="copy the file again")
        raise
    _check_vocabulary(path, tokenizer, vocabulary, remedy)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer at {str(path)!r} has no EOS token: set one in its config")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_vocabulary(path, tokenizer, vocabulary, remedy):
    # transformers makes a tokenizer without words if the files with the vocabulary are missing.
    if not set(vocabulary) - {SPACE, *tokenizer.all_special_tokens}:
        raise UserError(
            f"no tokenizer at {str(path)!r} (it has no vocabulary): set config.data.tokenizer to "
            f"{remedy}"
        )
    size, largest = vocab_size(tokenizer), max(vocabulary.values())
    if largest >= size:  # such an id would be outside the model
        raise UserError(
            f"the tokenizer at {str(path)!r} has {size} tokens, but ids up to {largest}: use a "
            "tokenizer whose ids have no gaps"
        )


def _check_downloaded(directory):
    """Raises UserError if a file that the tokenizer needs is a Git LFS pointer."""
    whole = (directory / WHOLE).is_file()
    for file in sorted(directory.glob("*")):
        needed = file.name == WHOLE if whole else file.name.endswith(FILES)
        if needed:
            check_downloaded(file)


def encode(tokenizer, texts):
    """Token ids of each text, without special tokens: a list of int32 arrays.

    If a text contains the name of a special token, such as "</s>", it stays ordinary text.

    Raises:
      UserError: a text that the tokenizer has no tokens for.
    """
    if not len(texts):
        return []
    with encoding():
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

    They are a hash of its tokenizer.json and of the ids of EOS and padding. In place of that file,
    a tokenizer without it has its class, its vocabulary and the ids of a short text.
    """
    text = core_text(tokenizer)
    if text is None:
        about = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), _files(tokenizer)]
        about.append(encode(tokenizer, [PROBE])[0].tolist())
        text = json.dumps(about)
    else:
        core = tokenizers.Tokenizer.from_str(text)
        core.no_padding()
        core.no_truncation()
        text = core.to_str()
    ids = f"{tokenizer.eos_token_id} {tokenizer.pad_token_id}"
    return hashlib.sha256(f"{text} {ids}".encode()).hexdigest()[:16]


def core_text(tokenizer):
    """The text of the tokenizer.json of a fast tokenizer; None if it is not one."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    return None if core is None else core.to_str()


def _files(tokenizer):
    """SHA-256 of the files with the vocabulary of a tokenizer that is written in Python."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            files = tokenizer.save_vocabulary(scratch) or ()
        except NotImplementedError:
            return []
        return [hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() for file in files]


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
            checksums.write(scratch)
