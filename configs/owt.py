"""OpenWebText, unconditional: `configs/owt.py` (ELF-B), `:elf_m`, `:elf_l`.

Paper:     ELF, arXiv 2605.10938, unconditional generation on OpenWebText.
Command:   launch/tpu_pod.sh train --type=v5p-64 --config=configs/owt.py:elf_b --workdir=gs://...
Hardware:  the published runs took TPU pods; ELF-B fits on one chip of any kind at a smaller batch.
Duration:  5 epochs (B), 4 (M), 3 (L) of 9.04B tokens: 95,300, 76,200 and 57,200 steps of 512 rows.
           docs/performance.md has the compiler's estimate of a step for every kind of chip.
Expect:    Gen. PPL 24.1 at unigram entropy 5.15 with 32 SDE steps, gamma 1.5, w 3 (published, B);
           M 21.7 at 5.18 and L 23.3 at 5.28 with 64 steps, gamma 1.0. Not reproduced here yet.

What differs from the published setting: every batch has examples of both losses, which gives the
same expectation and less variance; the time grid of sampling is the quantiles of the training law,
so it does not depend on a random draw.
"""

from ml_collections import ConfigDict

from elf_jax.core import defaults, presets

# (depth, width, heads, epochs, remat, unroll). remat: with it the model fits into 16 GiB of a chip
# at 8 rows on each chip. unroll: a fifth fewer cycles on TPUs, but more than twice the time to
# compile; not tried for the larger models.
SIZES = {
    "b": (12, 768, 12, 5.0, "matmuls", 12),
    "m": (24, 1056, 16, 4.0, "full", 1),
    "l": (32, 1280, 16, 3.0, "full", 1),
}


def get_config(variant: str = "elf") -> ConfigDict:
    """Returns the config of a method and a size: elf or elf_b, elf_m, elf_l, mdlm, mdlm_m, ..."""
    method, _, size = variant.partition("_")
    size = size or "b"
    config = defaults.get_config()
    config.data.kind = "hf"
    config.data.path = "Skylion007/openwebtext"
    config.data.prepared = "data/owt"
    config.data.tokenizer = "google-t5/t5-small"
    config.data.packing = "documents"
    config.data.length = 1024

    config.encoder.kind = "t5"
    config.encoder.path = "google-t5/t5-small"
    config.encoder.std = 0.2

    if size not in SIZES:
        raise ValueError(f"no size {size!r} in configs/owt.py: add one of {', '.join(SIZES)}")
    model = config.model
    model.depth, model.width, model.heads, epochs, model.remat, model.unroll = SIZES[size]

    config.train.batch_size = 512
    config.train.duration = defaults.duration(epochs=epochs)
    config.distill.steps = (16, 8, 4, 2, 1)
    config.distill.duration = defaults.duration(epochs=1.0)
    config.optimizer.warmup = defaults.duration(epochs=0.5)
    if size != "b":
        config.sample.steps, config.sample.gamma = 64, 1.0
    with config.unlocked():
        for name, steps, gamma in (("sde32", 32, 1.5), ("sde64", 64, 1.0)):
            config.evaluate.protocols[name] = ConfigDict(
                {"sampler": "sde", "steps": steps, "gamma": gamma, "guidance_scale": 3.0}
            )
    presets.published(config, method)
    return config.lock()
