"""ELF-B, the paper's model, for data of your own: the defaults as they are.

Paper:     ELF, arXiv 2605.10938, unconditional generation.
Command:   python main.py --config=configs/base.py --config.data.path=book.txt
Hardware:  a GPU or TPU chip; configs/text.py and configs/quickstart.py suit a laptop.
Duration:  5 epochs; `--mode=compile` says what a step takes on your chip.
Expect:    depends on the data.

elf_jax/core/defaults.py lists every key, with a comment for each.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults


def get_config() -> ConfigDict:
    """Returns the default config."""
    return defaults.get_config()
