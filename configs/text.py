"""Your own text, unconditional: plain text or JSON lines.

Paper:     ELF, arXiv 2605.10938, unconditional generation, at small size.
Command:   python main.py --config=configs/text.py --config.data.path='books/*.txt'
Hardware:  a laptop, one GPU or one TPU chip: sizes fit the data and the machine by a rule
           (docs/data.md), and a line says what was chosen. Set a key to choose it yourself.
Duration:  20 epochs, on a CPU at most about 40 minutes.
To fill:   --config=configs/text.py:elf_fill, see docs/filling.md; the same for other methods.
Expect:    depends on the text. Train a scorer on it (--mode=train_scorer) and compare Gen. PPL and
           entropy with those of held-out real text.

What differs from the published setting: instead of T5's, a tokenizer trained on your text and a
frozen embedding from its co-occurrences (for a contextual encoder set config.encoder.kind=t5 and
name a pretrained one, or train one with --mode=pretrain_encoder); sizes that fit the data; a
learning rate that falls to zero; an average of the weights that warms up; and the network also
reads tokens from noisy latents (objective.token_weight, see docs/research.md).
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(variant: str = "elf") -> ConfigDict:
    """Returns the config of a method, or with _fill after its name that of a method that learns to
    fill gaps.
    """
    config = defaults.get_config()
    config.data.kind = "text"
    config.data.tokenizer = "bpe"
    presets.small(config)
    config.objective.decode_noise_scale = 5.0
    config.objective.token_weight = 0.5
    presets.use_variant(config, variant)
    return config.lock()
