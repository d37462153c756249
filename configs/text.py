"""Your own text, unconditional: plain text or JSON lines.

Paper:     ELF, arXiv 2605.10938, unconditional generation, at small size.
Command:   python main.py --config=configs/text.py --config.data.path='books/*.txt'
Hardware:  a laptop, one GPU or one TPU chip: sizes fit the data and the machine by a rule
           (docs/data.md), and a line says what was chosen. Set a key to choose it yourself.
Duration:  20 epochs, on a CPU at most about an hour if nothing else runs there.
Variants:  text.py:elf_whole writes all tokens at once, as published, and can rewrite and be
           distilled; text.py:elf_fill learns to fill gaps too, see docs/filling.md; text.py:mdlm
           and so on: the other methods, also with _fill.
Expect:    depends on the text. Train a scorer on it (--mode=train_scorer) and compare Gen. PPL and
           entropy with those of held-out real text.

What differs from the published setting: instead of T5's, a tokenizer trained on your text and a
frozen embedding from its co-occurrences (for a contextual encoder take text.py:elf_whole, set
config.encoder.kind=t5 and name a pretrained one, or train one with --mode=pretrain_encoder); sizes
that fit the data; a learning rate that falls to zero; an average of the weights that warms up; and
what docs/research.md found. The network also reads tokens from noisy latents
(objective.token_weight). ELF writes text from left to right, one token at a time
(model.block_length), each in 16 steps, which go towards the mean of all tokens by their
probabilities (sample.token_temperature; below 1 the text is more usual and less varied). One
learned table of words reads the text before, and is in both heads (model.token_table). ELF and ar
have dropout, because they learn a small text by heart in 20 epochs.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(variant: str = "elf") -> ConfigDict:
    """Returns the config of a method; with _fill after its name that of a method that learns to
    fill gaps; elf_whole is an ELF that writes all tokens at once.
    """
    config = defaults.get_config()
    config.data.kind = "text"
    config.data.tokenizer = "bpe"
    presets.small(config)
    config.objective.decode_noise_scale = 2.0
    config.objective.token_weight = 0.5
    config.optimizer.adam_scale = 1.0
    if variant == "elf":
        presets.word_by_word(config)
        config.sample.sampler = "ode"
        config.sample.steps = 16  # of each token
        config.sample.time_grid = "uniform"  # tokens are decided later than its law of times ends
        config.sample.guidance_scale = 1.0
        config.sample.token_temperature = 1.0
    if variant in ("elf", "ar", "ar_fill"):
        config.model.dropout = 0.1
    presets.use_variant(config, "elf" if variant == "elf_whole" else variant)
    return config.lock()
