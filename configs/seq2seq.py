"""Your own pairs: translation, summaries, anything with a source and a target in JSON lines.

Paper:     ELF, arXiv 2605.10938, conditional generation, at small size.
Command:   python main.py --config=configs/seq2seq.py --config.data.path=pairs.jsonl
           with --config.data.source_field and --config.data.field naming the two fields.
Hardware:  a laptop, one GPU or one TPU chip: sizes fit the data and the machine by a rule
           (docs/data.md), and a line says what was chosen. Set a key to choose it yourself.
Duration:  20 epochs, on a CPU at most about an hour if nothing else runs there.
Variants:  seq2seq.py:elf_whole writes all tokens at once, as published; seq2seq.py:mdlm and so on:
           the other methods.
Expect:    depends on the data; --mode=evaluate prints BLEU and ROUGE on the held-out part.

To fine-tune a trained model on your pairs, add --checkpoint=PATH|NAME and use its config. What
differs from the published setting: the same as in configs/text.py, and what docs/research.md found.
All targets begin at the same place (data.pad_source, for all methods). Source tokens have the mean
vectors of the target tokens that translate them (encoder.kind=aligned). The network also reads
tokens from noisy latents (objective.token_weight). ELF writes its targets from left to right, one
token at a time (model.block_length), each in 4 steps with much noise on the way, and each step goes
towards the likeliest word (sample.token_temperature). One learned table of words reads the text
before, and is in both heads (model.token_table). ELF and ar have dropout, because they learn a few
pairs by heart in 20 epochs. Only elf_whole sees the padding of sources (model.hide_padding). So for
the others pairs of like length are computed together, without most of their padding
(train.length_buckets).
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(variant: str = "elf") -> ConfigDict:
    """Returns the config of a method; elf_whole is an ELF that writes all tokens at once."""
    config = defaults.get_config()
    config.data.kind = "jsonl"
    config.data.source_field = "source"
    config.data.field = "target"
    config.data.pad_source = True
    config.data.tokenizer = "bpe"
    config.data.pad = "eos"
    presets.small(config)
    config.encoder.kind = "aligned"
    config.objective.decode_noise_scale = 1.0
    config.objective.condition_dropout = 0.1
    config.objective.token_weight = 0.5
    config.optimizer.adam_scale = 1.0
    config.sample.sampler = "sde"
    config.sample.gamma = 4.0
    config.sample.steps = 64
    config.sample.guidance_scale = 1.0
    config.sample.cfg_scale = 2.0
    if variant == "elf":
        presets.word_by_word(config)
        config.sample.steps = 4  # of each token
        config.sample.cfg_scale = 1.0
        config.sample.token_temperature = 0.1
    if variant in ("elf", "elf_whole", "ar"):
        config.model.dropout = 0.1
    config.model.hide_padding = variant != "elf_whole"
    presets.use_method(config, "elf" if variant == "elf_whole" else variant)
    return config.lock()
