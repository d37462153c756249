"""Samplers of uniform-state diffusion (Duo, arXiv 2506.10892, sections 2.2 and 4.2; UDLM, arXiv
2412.10193).

    ancestral    from time t to s < t, each token is drawn from the posterior; the last update goes
                 from t = 1e-5 to s = 0, where nothing is noise
    greedy_tail  in place of the last update: the likeliest token of the prediction. It makes text
                 more usual than the data, since a prediction that is exact does not see the token

Every token may change in every step. B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.mdlm.objective import mask_probability
from elf_jax.methods.mdlm.sampler import times
from elf_jax.methods.tokens.draws import categorical
from elf_jax.methods.watching import UNWATCHED


def weights(p_z, complement_t, complement_s, vocab_size):
    """The posterior of a token is a mixture of: the token z stays; a token from the prediction p; a
    uniform token. Their weights, which are not normalised.

        V alpha_t p_z + r - alpha_t,    alpha_s - alpha_t,    (1 - r) (1 - alpha_s)
        with r = alpha_t / alpha_s; the sum is V alpha_t p_z + 1 - alpha_t

    Args:
      p_z: probability of the token z itself. complement_t, complement_s: 1 - alpha at both times.
    """
    alpha_t, alpha_s = 1 - complement_t, 1 - complement_s
    gap = complement_t - complement_s
    stays = vocab_size * alpha_t * p_z + alpha_t * complement_s / alpha_s
    return stays, gap, gap / alpha_s * complement_s


def posterior(p, z, complement_t, complement_s):
    """q(token at time s | z at time t), [B, L, V]. The samplers do not need it: see `draw`.

    Args:
      p: [B, L, V], probabilities of the clean tokens. z: [B, L] integers.
      complement_t, complement_s: 1 - alpha at both times, scalars or [B, 1].
    """
    vocab_size = p.shape[-1]
    p_z = jnp.take_along_axis(p, z[..., None], axis=-1)[..., 0]
    stays, new, uniform = weights(p_z, complement_t, complement_s, vocab_size)
    new, uniform = (jnp.broadcast_to(one, z.shape)[..., None] for one in (new, uniform))
    q = stays[..., None] * jax.nn.one_hot(z, vocab_size, dtype=p.dtype)
    q = q + new * p + uniform / vocab_size
    return q / jnp.sum(q, axis=-1, keepdims=True)


def draw(log_p, z, u, tokens, complement_t, complement_s):
    """Tokens [B, L] int32 from the posterior, in stages: a coin chooses the part of the mixture,
    and then a token is drawn. See `tokens.draws` for why it is not one draw over the vocabulary.

    Args:
      log_p: [B, L, V], logarithms of probabilities; they need no normalisation.
      z: [B, L] integers. u: [B, L, 3], uniforms. tokens: [B, L] integers, uniform tokens.
      complement_t, complement_s: 1 - alpha at both times.
    """
    log_p = jax.nn.log_softmax(log_p)
    p_z = jnp.exp(jnp.take_along_axis(log_p, z[..., None], axis=-1)[..., 0])
    stays, new, uniform = weights(p_z, complement_t, complement_s, log_p.shape[-1])
    coin = u[..., 0] * (stays + new + uniform)
    # The rarest part comes first: near 0 uniforms are finer than near 1.
    moved = jnp.where(coin < uniform, tokens, categorical(log_p, u[..., 1:]))
    return jnp.where(coin < uniform + new, moved, z).astype(jnp.int32)


def ancestral(predict, z, steps, update, last, start=1.0, view=UNWATCHED):
    """Tokens [B, L] int32 of a sampler with `steps` steps and a last one.

    Args:
      predict: function (z, t) -> read, see `tokens.predictor`. It is called steps + 1 times.
      z: [B, L] int32, uniform and given tokens.
      update: function (step, read, z, complement_t, complement_s) -> z at time s.
      last: function (step, read, z, complement_t) -> tokens.
      start: the time of z. view: a `View`; it shows z.
    """
    rows, grid = len(z), times(steps, start)
    noise = mask_probability(grid)

    def step(z, inputs):
        index, t, s, *complements = inputs
        read = predict(z, jnp.full(rows, t))
        z = update(index, read, z, *complements)
        return z, view.show(index, s, z, view.entropy(read))

    clock = view.only(lambda: grid[1:])
    inputs = jnp.arange(steps), grid[:-1], clock, noise[:-1], noise[1:]
    z, shown = jax.lax.scan(step, z, inputs)
    read = predict(z, jnp.full(rows, grid[-1]))
    tokens = last(steps, read, z, noise[-1])
    return view.result(tokens, shown, view.show(steps, 0.0, tokens, view.entropy(read)))
