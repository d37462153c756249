"""ELF-B, the paper's model, on your own data. All values are the defaults.

Paper:     ELF, arXiv 2605.10938, unconditional generation.
Command:   python main.py --config=configs/base.py --config.data.path=book.txt
Hardware:  a GPU or TPU chip. For a laptop use configs/text.py or configs/quickstart.py.
Duration:  5 epochs; `--mode=compile` estimates the time of a step on your chip.
Expect:    depends on the data.

elf_jax/core/defaults.py lists all keys, each with a comment.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(method: str = "elf") -> ConfigDict:
    """Returns the default config for a method."""
    config = defaults.get_config().unlock()
    presets.use_method(config, method)
    return config.lock()
