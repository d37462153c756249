"""Quickstart."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the quickstart's config."""
    config = base.get_config()
    with config.unlocked():
        pass
    config.data.source = "unicode_names"
    config.data.validation_fraction = 0.1
    config.data.length = 10
    config.data.pad = "eos"
    config.data.tokenizer = "words"

    config.encoder.width = 64
    config.model.depth = 4
    config.model.width = 128
    config.model.heads = 4
    config.model.bottleneck = 64
    config.model.time_tokens = 1
    config.model.guidance_tokens = 1
    config.model.mode_tokens = 1
    config.model.unroll = 4

    config.objective.time_mean = -0.7

    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "linear"
    config.optimizer.warmup.epochs = 0.0
    config.optimizer.warmup.steps = 50
    config.optimizer.ema = 0.995

    config.train.batch_size = 128
    config.train.duration.epochs = 0.0
    config.train.duration.steps = 1200
    config.train.max_minutes = 5.0
    config.train.log_every = 20
    config.train.validate_every = 200
    config.train.checkpoint_every = 400

    config.sample.num_samples = 16
    config.sample.batch_size = 250
    config.sample.steps = 64
    config.sample.gamma = 1.0
    config.sample.guidance_scale = 2.0

    config.evaluate.after_training = True
    config.evaluate.output = "quickstart.json"
    return config.lock()
