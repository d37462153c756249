"""Operations of ELF's matrix products, counted by hand."""

from elf_jax.methods.elf import roles

CONTROLS = 12  # positions of time, guidance and mode before the text


def block_flops(config):
    """(operations of the dense layers, of the attention) of one row in one block."""
    positions, width = config.data.length + CONTROLS, config.model.width
    hidden = int(4 * width * 2 / 3)
    dense = 2 * positions * (4 * width**2 + 3 * width * hidden)
    return dense, 4 * positions**2 * width  # scores and values


def input_flops(config, latent):
    """Operations of the layers before the blocks, of one row."""
    width, bottleneck = config.model.width, config.model.bottleneck
    return 2 * config.data.length * (2 * latent**2 + latent * bottleneck + bottleneck * width)


def step_flops(config, rows, latent, vocab):
    """Operations of a training step (three passes), without the encoder and the optimiser.

    Args:
      rows: of one device. latent: width of the latents. vocab: size of the vocabulary.
    """
    length, width, depth = config.data.length, config.model.width, config.model.depth
    split = roles.make_split(rows, 0.2, 0.5)
    dense, pairs = block_flops(config)
    gradient = rows * (3 * dense + 3.5 * pairs)  # 5 products backward for 2 forward
    recomputed = rows * 2 * (length + CONTROLS) * width**2  # the attention's output projection
    blocks = depth * (split.self_cond * (dense + pairs) + gradient + recomputed)
    inputs = input_flops(config, latent) * (split.self_cond + 3 * rows)
    x_head = 2 * length * width * latent * (split.self_cond + 3 * split.denoise)
    # The logits fit in one part, so they are not computed again.
    logits = 2 * length * (width * latent + latent * vocab) * 3 * split.decode
    return blocks + inputs + x_head + logits


def sampling_flops(config, latent, vocab):
    """Operations of sampling a batch: every step is one pass, then all tokens are decoded."""
    rows, length, steps = config.sample.batch_size, config.data.length, config.sample.steps
    width, depth = config.model.width, config.model.depth
    one_pass = depth * sum(block_flops(config)) + input_flops(config, latent)
    x_head, decode = width * latent, width * latent + latent * vocab
    return rows * ((steps + 1) * one_pass + 2 * length * (steps * x_head + decode))
