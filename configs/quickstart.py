"""Quickstart: names of Unicode characters, in five minutes on any machine.

Paper:     ELF, arXiv 2605.10938; the same objective, network and sampler, made small.
Command:   python main.py --config=configs/quickstart.py
Hardware:  two CPU cores, no accelerator, about 1.5 GB of memory.
Duration:  at most five minutes of training (then it stops), and half a minute of sampling.
Expect:    of 1,000 samples about 40% are real names of characters; 1.5% to 5% are names from the
           10% of the data that was held out.

What differs from the published setting: 1.4M parameters; words as tokens, and instead of T5 a
frozen embedding from their co-occurrences (with a Gaussian embedding the same training reaches
about a quarter as many real names); one token for each control signal instead of four; names padded
with EOS, as in the paper's conditional tasks; training times less close to noise, because the
latents are narrower; a learning rate that falls to zero, and an average of the weights that warms
up, because the training is short.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets


def get_config(variant: str = "elf") -> ConfigDict:
    """Returns the quickstart's config of a method, or with _fill after its name that of a method
    that learns to fill gaps.
    """
    config = defaults.get_config()
    config.data.kind = "unicode_names"
    config.data.validation_fraction = 0.1
    config.data.length = 10
    config.data.pad = "eos"

    config.encoder.kind = "cooccurrence"
    config.encoder.width = 64

    config.model.depth = 4
    config.model.width = 128
    config.model.heads = 4
    config.model.bottleneck = 64
    config.model.time_tokens = 1
    config.model.guidance_tokens = 1
    config.model.mode_tokens = 1
    config.model.unroll = 4

    config.objective.time_mean = -0.85
    config.objective.decode_noise_scale = 2.0

    config.optimizer.learning_rate = 0.03
    config.optimizer.adam_scale = 0.3
    config.optimizer.adam_kernels = "unembed"
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = defaults.duration(steps=50)
    config.optimizer.ema = 0.995
    config.optimizer.ema_warmup = True  # a validation at step 220 would see a third of step 0

    config.train.batch_size = 128
    config.train.duration = defaults.duration(steps=1100)
    config.train.max_minutes = 5.0
    config.train.log_every = 20
    config.train.validate_every = 220
    config.train.checkpoint_every = 550

    config.sample.num_samples = 16
    config.sample.batch_size = 250
    config.sample.steps = 64
    config.sample.gamma = 1.0
    config.sample.guidance_scale = 1.0

    config.evaluate.after_training = True
    config.evaluate.seeds = 1
    config.evaluate.output = "quickstart.json"
    config.scorer.path = ""
    presets.use_variant(config, variant)
    if config.method in ("ar", "mdlm", "llada", "duo"):
        config.optimizer.adam_scale = 1.0  # better for networks on tokens, see docs/comparison.md
    if config.method == "cdcd":
        # The learned law of times has few steps to adapt, so it begins with a shorter range.
        config.cdcd.embedding_width = 64
        config.cdcd.time_max = 60.0
        config.cdcd.warp_rate = 0.05
    return config.lock()
