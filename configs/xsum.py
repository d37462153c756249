"""XSum: one-sentence summaries of news articles with ELF-B.

Paper:     ELF, arXiv 2605.10938, conditional generation.
Command:   python main.py --config=configs/xsum.py
Hardware:  any; the published run took a TPU pod. docs/performance.md has the compiler's estimates.
Duration:  100 epochs of 204,045 articles: 39,900 steps of 512 rows of 1088.
Expect:    ROUGE-1/2/L 36.0/12.2/27.8 (published). Not reproduced here yet.

What differs from the published setting: every batch has examples of both losses; the time grid of
sampling is the quantiles of the training law.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(method: str = "elf") -> ConfigDict:
    """Returns the config for a method."""
    config = defaults.get_config()
    config.data.kind = "tfds"
    config.data.path = "xsum"
    config.data.source_field = "document"
    config.data.field = "summary"
    config.data.validation_split = "validation"
    config.data.prepared = "data/xsum"
    config.data.tokenizer = "google-t5/t5-small"
    config.data.length = 1088
    config.data.source_length = 1024
    presets.conditional(config)
    config.model.remat = "matmuls"
    config.model.unroll = config.model.depth  # see configs/owt.py
    presets.published(config, method)
    return config.lock()
