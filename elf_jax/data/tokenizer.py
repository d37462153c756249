"""Text to token ids and back: a tokenizer trained on the data, or one from a directory.

A trained one is byte-level BPE, which loses nothing, or words, which suits short texts from a
small vocabulary.
"""

import hashlib
import os
import pathlib
import shutil
import tempfile

import numpy as np
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, T5's order
TRAINED = ("bpe", "words")
TOKENIZER = "tokenizer"  # directory in the workdir
SENTINEL = "<extra_id_{}>"  # T5's name of the token that stands for the i-th hidden span


def get_tokenizer(settings, examples, directory):
    """The tokenizer saved in `directory`, or if there is none yet, the one that the config asks
    for.

    Args:
      settings: config section `data`.
      examples: training `Example`s, for a tokenizer that is trained.
      directory: where it is kept once `save_tokenizer` has put it there.

    Returns:
      A `transformers.PreTrainedTokenizerFast` with a pad and an EOS token.

    Raises:
      UserError: no tokenizer where the config points, or one without EOS.
    """
    if pathlib.Path(directory).is_dir():
        return load_tokenizer(directory)
    if settings.tokenizer in ("auto", *TRAINED):
        return train_tokenizer(settings, examples)
    return load_tokenizer(settings.tokenizer)


def load_tokenizer(path):
    """A tokenizer from a local directory, or by its name on the Hugging Face hub."""
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
    """A BPE or word tokenizer of at most settings.vocab_size tokens, trained on texts and
    sources.
    """
    special = [PAD, EOS, UNK]
    kind = settings.tokenizer
    if kind == "auto":
        kind = "words" if settings.kind == "unicode_names" else "bpe"
    # BPE begins with the 256 bytes, and its trainer would go over a smaller limit without a word.
    smallest = len(special) + (256 if kind == "bpe" else 1)
    if settings.vocab_size < smallest:
        raise UserError(
            f"config.data.vocab_size={settings.vocab_size} is too small: {kind} needs {smallest} "
            "or more"
        )
    if kind == "bpe":
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        # Every word carries its leading space, the first one too, so that a word is one token
        # wherever it stands.
        core = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
        core.normalizer = normalizers.Prepend(" ")
        pattern = tokenizers.Regex(r" ?[^\s\p{P}\p{S}]+| ?[\p{P}\p{S}]|\s")
        core.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
        core.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.WordLevelTrainer(
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


def encode(tokenizer, texts):
    """Token ids of each text without special tokens: a list of int32 arrays.

    A text that happens to spell a special token, such as "</s>", stays ordinary text.
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
    """The text of each row of token ids; padding is left out, other special tokens are shown."""
    pad = tokenizer.pad_token_id
    rows = [[int(token) for token in row if token != pad] for row in rows]
    return [
        tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for row in rows
    ]


def add_sentinels(tokenizer, count):
    """Gives the tokenizer the first `count` sentinels of T5 where it lacks them, behind its other
    tokens, whose ids stay as they are.

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
    """16 hexadecimal digits that tell tokenizers apart: of tokenizer.json and the ids of EOS and
    padding.
    """
    core = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    ids = f"{tokenizer.eos_token_id} {tokenizer.pad_token_id}"
    return hashlib.sha256(f"{core.to_str()} {ids}".encode()).hexdigest()[:16]


def pad_id(settings, tokenizer):
    """The token that fills what is left of a row (settings.pad)."""
    return tokenizer.eos_token_id if settings.pad == "eos" else tokenizer.pad_token_id


def vocab_size(tokenizer):
    """V, everywhere."""
    return len(tokenizer)


def save_tokenizer(tokenizer, directory):
    """Keeps the tokenizer in `directory`, whole or not at all; one that is there already stays."""
    if directory.is_dir():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=directory.parent, prefix=".tokenizer-")
    try:
        tokenizer.save_pretrained(scratch)
        os.chmod(scratch, 0o755)
        os.replace(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
