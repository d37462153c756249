"""Settings that several configs share. Each function changes a config in place."""

from ml_collections import ConfigDict

from elf_jax.core.defaults import duration


def conditional(config):
    """Sets what the two conditional tasks of the paper have in common."""
    config.data.packing = "rows"
    config.data.pad = "eos"
    config.encoder.kind = "t5"
    config.encoder.path = "google-t5/t5-small"
    config.encoder.std = 0.2
    config.objective.decode_noise_scale = 1.0
    config.objective.condition_dropout = 0.1
    config.train.batch_size = 512
    config.train.duration = duration(epochs=100.0)
    config.optimizer.warmup = duration(steps=5000)
    config.sample.sampler = "ode"
    config.sample.steps = 64
    config.sample.guidance_scale = 1.0
    config.sample.cfg_scale = 2.0
    with config.unlocked():
        config.evaluate.protocols.ode64 = ConfigDict(
            {"sampler": "ode", "steps": 64, "guidance_scale": 1.0, "cfg_scale": 2.0}
        )
    config.evaluate.num_samples = 0
    config.sweep.guidance_scale = (1.0,)
    config.sweep.cfg_scale = (1.0, 1.5, 2.0, 3.0)
    config.sweep.gamma = ()


def small(config):
    """Sets a small network on a frozen embedding of the data, for a corpus of a few megabytes."""
    config.encoder.kind = "cooccurrence"
    config.encoder.width = 256
    config.model.depth = 6
    config.model.width = 384
    config.model.heads = 6
    config.optimizer.learning_rate = 0.01
    config.optimizer.adam_scale = 0.3
    config.optimizer.adam_kernels = "unembed"
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = duration(steps=100)
    config.optimizer.ema = 0.999
    config.optimizer.ema_warmup = True  # 20 epochs of a small corpus are few steps
    config.train.batch_size = 128
    config.train.duration = duration(epochs=20.0)
    config.train.validate_every = 1000
    config.train.checkpoint_every = 1000
