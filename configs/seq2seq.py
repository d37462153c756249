"""Your own pairs: translation, summaries, anything with a source and a target in JSON lines.

Paper:     ELF, arXiv 2605.10938, conditional generation, at small size.
Command:   python main.py --config=configs/seq2seq.py --config.data.path=pairs.jsonl
           with --config.data.source_field and --config.data.field naming the two fields.
Hardware:  one GPU or TPU chip; on a laptop set --config.model.depth=4 --config.model.width=128.
Duration:  20 epochs; `--mode=compile` estimates the time of a step on your chip.
Expect:    depends on the data; --mode=evaluate prints BLEU and ROUGE on the held-out part.

To fine-tune a trained model on your pairs, add --checkpoint=PATH|NAME and use its config. What
differs from the published setting: the same as in configs/text.py, and what docs/research.md found.
All targets begin at the same place (data.pad_source, for all methods). Source tokens have the mean
vectors of the target tokens that translate them (encoder.kind=aligned). The network also reads
tokens from noisy latents (objective.token_weight), and learns to go on from its own mistakes
(objective.rollout). Guidance on the condition is stronger, and samples get much noise on the way.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(method: str = "elf") -> ConfigDict:
    """Returns the config for a method."""
    config = defaults.get_config()
    config.data.kind = "jsonl"
    config.data.source_field = "source"
    config.data.field = "target"
    config.data.length = 128
    config.data.source_length = 64
    config.data.pad_source = True
    config.data.tokenizer = "bpe"
    config.data.pad = "eos"
    presets.small(config)
    config.encoder.kind = "aligned"
    config.objective.decode_noise_scale = 1.0
    config.objective.condition_dropout = 0.1
    config.objective.token_weight = 0.5
    config.objective.rollout = True
    config.objective.time_mean = -1.0
    config.sample.sampler = "sde"
    config.sample.gamma = 4.0
    config.sample.steps = 64
    config.sample.guidance_scale = 1.0
    config.sample.cfg_scale = 3.0
    presets.use_method(config, method)
    return config.lock()
