"""Your own text, unconditional: plain text or JSON lines.

Paper:     ELF, arXiv 2605.10938, unconditional generation, at small size.
Command:   python main.py --config=configs/text.py --config.data.path='books/*.txt'
Hardware:  one GPU or TPU chip; on a laptop set --config.model.depth=4 --config.model.width=128.
Duration:  20 epochs; `--mode=compile` estimates the time of a step on your chip.
To fill:   --config=configs/text.py:elf_fill, see docs/filling.md; the same for other methods.
Expect:    depends on the text. Train a scorer on it (--mode=train_scorer) and compare Gen. PPL and
           entropy with those of held-out real text.

What differs from the published setting: instead of T5's, a tokenizer trained on your text and a
frozen embedding from its co-occurrences (for a contextual encoder set config.encoder.kind=t5 and
name a pretrained one, or train one with --mode=pretrain_encoder); a network of 14M parameters; a
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
    config.data.length = 128
    config.data.tokenizer = "bpe"
    presets.small(config)
    config.objective.decode_noise_scale = 5.0
    config.objective.token_weight = 0.5
    presets.use_variant(config, variant)
    return config.lock()
