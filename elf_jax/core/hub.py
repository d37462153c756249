"""Finds pretrained files: in a local directory, or in a repository on the Hugging Face hub."""

import pathlib
import re

from elf_jax.core.errors import UserError

# Weights as safetensors, configs, tokenizers. Pickled weights are never downloaded.
FILES = ("*.safetensors", "*.json", "*.model", "*.txt")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve(name_or_path, what, **patterns):
    """The local directory of `name_or_path`.

    Args:
      name_or_path: a local directory, which is returned as it is, or a name on the hub such as
        "google-t5/t5-small", which is downloaded once and then found in the hub's cache.
      what: what is looked for, for the message, such as "T5 encoder (config.encoder.path)".
      **patterns: which files to download: allow_patterns or ignore_patterns, each a list. Without
        them, FILES.

    Returns:
      A pathlib.Path.

    Raises:
      UserError: there is no such directory, and the hub has no such name or cannot be reached.
    """
    path = pathlib.Path(name_or_path)
    if path.is_dir() and str(name_or_path):
        return path
    if not _HUB_NAME.fullmatch(str(name_or_path)):
        raise UserError(
            f"no {what} at {str(name_or_path)!r}: give a local directory, or a name on the "
            "Hugging Face hub such as google-t5/t5-small"
        )
    try:
        import huggingface_hub

        patterns = patterns or {"allow_patterns": list(FILES)}
        return pathlib.Path(huggingface_hub.snapshot_download(str(name_or_path), **patterns))
    except Exception as error:  # the hub's client, the network and the disk raise many types
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise UserError(
            f"no {what} at {str(name_or_path)!r}: there is no such directory, and the download "
            f"from the Hugging Face hub failed ({reason}): point at a local copy of its files"
        ) from None
