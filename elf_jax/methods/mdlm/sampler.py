"""Samplers of masked diffusion: ancestral (MDLM, arXiv 2406.07524, section 3.3), and by confidence
in blocks (LLaDA, arXiv 2502.09992, section 2.4).

    ancestral    from time t to s < t, a mask becomes a token with probability (t - s) / t; the
                 token is drawn from the prediction
    confidence   all masks get a candidate; those with the largest probability stay

A token that is there never changes again. B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.watching import UNWATCHED

LAST_TIME = 1e-5


def times(steps, start=1.0):
    """[steps + 1], from `start` down to LAST_TIME times `start`, evenly spaced."""
    return start * jnp.linspace(1.0, LAST_TIME, steps + 1)


def update_probabilities(p, z, t, s, mask_id):
    """The distribution of each token after a step from t to s, [B, L, V]; V has the mask.

    Args:
      p: [B, L, V], probabilities of the clean tokens. z: [B, L], the tokens. t, s: times, t > s.

    The samplers do not need it: they draw first whether to unmask, and then the token.
    """
    is_mask = jax.nn.one_hot(mask_id, p.shape[-1], dtype=bool)
    q = jnp.where(is_mask, s / t, p * (t - s) / t)
    kept = jax.nn.one_hot(z, p.shape[-1], dtype=p.dtype)
    return jnp.where((z == mask_id)[..., None], q, kept)


def ancestral(predict, z, steps, unmask, last, mask_id, uses_time=False, start=1.0, view=UNWATCHED):
    """Tokens [B, L] int32 of a sampler with `steps` steps and a last one.

    Args:
      predict: function (z, t) -> read, see `tokens.predictor`.
      z: [B, L] int32, masks and given tokens.
      unmask: function (step, read, z, t, s) -> z at time s; step is a traced integer.
      last: function (read, z, t) -> z without masks.
      uses_time: whether the network sees the time. If not, its prediction stays the same as long as
        no token of the batch changes, and is not computed again.
      start: the time of z, which has at most this share of masks.
      view: a `View`; it shows z.
    """
    rows, grid = len(z), times(steps, start)

    def prediction(read, z, t, is_new):
        def compute():
            return predict(z, jnp.full(rows, t))

        return compute() if uses_time else jax.lax.cond(is_new, compute, lambda: read)

    def step(carry, inputs):
        z, read, is_new, entropy = carry
        index, t, s = inputs
        read = prediction(read, z, t, is_new)
        entropy = view.entropy(read, z, entropy)
        after = unmask(index, read, z, t, s)
        shown = view.show(index, s, after, entropy)
        return (after, read, jnp.any(after != z), entropy), shown

    nothing = view.only(lambda: jnp.zeros(z.shape))
    carry = z, predict(z, jnp.full(rows, grid[0])), jnp.array(False), nothing
    inputs = jnp.arange(steps), grid[:-1], grid[1:]
    (z, read, is_new, entropy), shown = jax.lax.scan(step, carry, inputs)
    read = prediction(read, z, grid[-1], is_new)
    tokens = last(read, z, grid[-1])
    entropy = view.entropy(read, z, entropy)
    return view.result(tokens, shown, view.show(steps, 0.0, tokens, entropy))


def transfer_count(masks, steps, step):
    """How many of the masks of a block become tokens in a step: an equal number in each of `steps`
    steps, and one more in the first ones. All are integers or arrays of one shape.
    """
    return masks // steps + (step < masks % steps)


def by_confidence(predict, z, steps, block_length, candidates, mask_id, view=UNWATCHED):
    """Tokens [B, L] int32 of the sampler by confidence.

    Args:
      predict, z: as for `ancestral`.
      steps: in all. The blocks of a row get an equal number of steps, at least one.
      block_length: the masks of a row are unmasked in blocks of so many, from the left; 0: all of
        them are one block.
      candidates: function (step, read) -> (tokens, confidence), each [B, L].
      view: a `View`; it shows z. Its time is the share of the steps that are left.
    """
    length = z.shape[1]
    block_length = block_length or length
    is_mask = z == mask_id
    block = jnp.where(is_mask, (jnp.cumsum(is_mask, axis=1) - 1) // block_length, -1)
    blocks = jnp.maximum(jnp.max(block, axis=1) + 1, 1)
    each = jnp.maximum(steps // blocks, 1)  # [B], steps of a block

    def step(carry, index):
        z, entropy = carry
        read = predict(z, None)
        entropy = view.entropy(read, z, entropy)
        tokens, confidence = candidates(index, read)
        in_block = block == (index // each)[:, None]
        count = transfer_count(jnp.sum(in_block, axis=1), each, index % each)
        free = in_block & (z == mask_id)
        confidence = jnp.where(free, confidence, -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-confidence, axis=1), axis=1)
        chosen = free & (rank < count[:, None])
        z = jnp.where(chosen, tokens, z)
        left = view.only(lambda: 1 - (index + 1) / total)
        return (z, entropy), view.show(index, left, z, entropy)

    total = confidence_steps(steps, block_length, length)
    nothing = view.only(lambda: jnp.zeros(z.shape))
    (z, _), shown = jax.lax.scan(step, (z, nothing), jnp.arange(total))
    return view.result(z, shown)


def confidence_steps(steps, block_length, length):
    """How many steps `by_confidence` takes: at least one for each block of a row of L masks."""
    return max(steps, -(-length // (block_length or length)))
