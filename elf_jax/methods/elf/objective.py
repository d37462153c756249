"""The training objective: denoise and decode losses, mixed in every batch (ELF, arXiv 2605.10938).

    loss = (1 - q) * denoise + q * decode,   q = 0.2 of the examples decode
    denoise: mean over channels of (v_hat - v_target)^2, then the mean over all loss positions of
      the batch
    decode:  cross-entropy, the mean over all loss positions of the batch

With a `token_weight` there is a third loss, which is not published: token_weight (1 - q) times the
cross-entropy of the rows that denoise. Their tokens are read by the head of decode mode, from the
same hidden states as the x-prediction.

A network with blocks (`blocks`) also reads the clean text, and next_weight times the cross-entropy
of the next token, of all rows, is added. That is autoregression, which is not published for ELF
either: it teaches the network what the text before a block says about the block.

With `rollout`, which is not published either, the rows with self-conditioning do not lie on the
path of their text, but where the network leads in one step from an earlier point of it, see
`first_pass`.

Every row has a role (`roles`): it decodes, or it denoises with self-conditioning or without it. One
forward and backward pass is enough for both losses, the no-gradient pass has only the
self-conditioned rows, and logits are computed only for decode rows.

The loss of a row is multiplied by the weight of its role and divided by the number of loss
positions in the whole batch. The expectation over the random choice is exactly the loss above, for
rows of any lengths.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.core import rng
from elf_jax.core.types import Batch
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.blocks import shifted
from elf_jax.methods.elf.roles import Split, draw_roles, spread, take


@flax.struct.dataclass
class Draws:
    """All random values of a batch of B rows.

    Attributes:
      is_decode, self_cond: [B] bool, the role of each row. If both are False, the row denoises
        without self-conditioning.
      weight: [B] float32, the factor that makes the mixed loss unbiased.
      t, w: [B], time and guidance scale. noise: [B, L, C] standard normal, of the path or of
        decode mode.
      decode_lambda: [B, L], data fraction of each token in decode mode.
      t_u: [B], time of the pass without gradient in a rollout, before t; None: no rollout.
    """

    is_decode: jax.Array
    self_cond: jax.Array
    weight: jax.Array
    t: jax.Array
    w: jax.Array
    noise: jax.Array
    decode_lambda: jax.Array
    t_u: jax.Array | None = None


class Dealt(NamedTuple):
    """The rows of a batch in the dealt order.

    Attributes:
      batch: the `Batch`; its tokens are -1 at the positions of a dropped condition.
      counted: [B, L] bool, the positions that count.
      ids: [B] integers that name the rows. keys: [B] JAX keys of the rows.
      x: [B, L, C], clean latents, zero at the positions of a dropped condition.
      draws: their `Draws`. split: the `Split` of a group.
    """

    batch: Batch
    counted: jax.Array
    ids: jax.Array
    keys: jax.Array
    x: jax.Array
    draws: Draws
    split: Split


class LossSums(NamedTuple):
    """Weighted sums over the loss positions: of both losses, of the cross-entropy of rows that
    denoise (0 without a token_weight), and of that of the next token (0 without blocks). And counts
    for the metrics: correct tokens, and tokens of decode rows.
    """

    denoise: jax.Array
    decode: jax.Array
    tokens: jax.Array
    next: jax.Array
    correct: jax.Array
    decoded: jax.Array


def draw(keys, split, length, latent_width, settings, cards=None):
    """All `Draws` of rows in the dealt order. Those of row i depend on keys[i] and on its card, not
    on other rows.

    Args:
      keys, split, cards: see `draw_roles`. length: L. latent_width: C.
      settings: config section `objective`.
    """

    def streams(name):
        return jax.vmap(lambda key: rng.stream(key, name))(keys)

    is_decode, self_cond, weight = draw_roles(streams("role"), split, cards)
    lambda_normal = rng.normal(streams("lambda"), (length,))
    t = flow.logit_normal(rng.normal(streams("time"), ()), settings.time_mean, settings.time_std)
    return Draws(
        is_decode=is_decode,
        self_cond=self_cond,
        weight=weight,
        t=t,
        w=flow.guidance_law(
            rng.uniform(streams("guidance")), settings.guidance_min, settings.guidance_max
        ),
        noise=rng.normal(streams("noise"), (length, latent_width)),
        decode_lambda=flow.logit_normal(lambda_normal, settings.lambda_mean, settings.lambda_std),
        t_u=t * rng.uniform(streams("rollout")) if settings.rollout else None,
    )


def mixed_loss(
    predictor,
    params,
    x,
    batch,
    loss_mask,
    draws,
    split,
    settings,
    dropout_key=None,
    ids=None,
    first=0,
    blocks=None,
):
    """Sums of the losses over a batch in the dealt order.

    Args:
      predictor: a `Predictor`. params: its parameters.
      x: [B, L, C], clean latents, zero at the positions of a dropped condition.
      batch: the `Batch`. loss_mask: [B, L] bool, where losses count.
      draws: the batch's `Draws`. split: the `Split` of a group.
      settings: config section `objective` (noise_scale, decode_noise_scale, t_eps, token_weight).
      dropout_key, ids: for dropout, see `Predictor.hidden`.
      first: no loss position is before it, so no logits are computed there. Blocks begin there.
      blocks: the `Blocks` that rows are written in; None: whole rows.

    Returns:
      `LossSums`. The loss is (denoise + decode + token_weight * tokens + next_weight * next) /
      (number of loss positions in the whole batch).
    """
    before, next_loss = None, jnp.zeros(())
    if blocks is not None:
        text = *shifted(x, batch.tokens), dropout_key, ids
        places = None if batch.places is None else np.asarray(batch.places)
        is_key = blocks.which_keys(batch)
        known, cache = predictor.read(params, *text, places=places, is_key=is_key)
        before = blocks.before_all(known, cache, first)
        counted = known[:, first:], batch.tokens[:, first:]
        cross_entropy, _ = predictor.next_losses(params, *counted, split.rows)
        next_loss = jnp.sum(cross_entropy * loss_mask[:, first:])
    is_cond, self_cond = batch.is_cond[..., None], draws.self_cond[:, None, None]
    clean = jnp.where(is_cond, x, 0.0)
    z, x_u = first_pass(predictor, params, x, clean, batch, draws, split, settings, before)
    x_prev = jnp.where(self_cond & ~is_cond, x_u, clean)

    # One pass with gradients for the rows of both modes. Then each head gets the rows of its mode.
    inputs = z, x_prev, draws.t, draws.w, draws.is_decode
    hidden = predictor.hidden(params, *inputs, dropout_key, ids, before)

    rows = 0, split.denoise
    x_hat = predictor.x_head(params, take(hidden, split, *rows))
    x_hat = spread(x_hat, split, *rows, len(x))
    v_hat, v_u, v = (flow.velocity(a, z, draws.t, settings.t_eps) for a in (x_hat, x_u, x))
    v_c = jax.lax.stop_gradient(v_hat)
    v_target = jnp.where(self_cond, flow.guided_target(v, v_c, v_u, draws.w), v)
    error = jnp.mean((v_hat - v_target) ** 2, axis=-1)
    args = hidden, error, batch.tokens, loss_mask, draws, split
    sums = loss_sums(predictor, params, *args, settings.token_weight > 0, first)
    return sums._replace(next=next_loss)


def first_pass(predictor, params, x, clean, batch, draws, split, settings, before=None):
    """The pass without gradient, x_u = net([z_u, 0], t_u), of the rows with self-conditioning.

    As published, z_u is z_t. In a rollout it is an earlier point of the path, and then z_t is where
    one step of the ODE leads from there. So the network learns to go on from its own mistakes.

    Args:
      clean: [B, L, C], the clean latents of conditions, zero elsewhere.
      before: of a network with blocks, the text `Before` them. Others: see `mixed_loss`.

    Returns:
      (the input latents z_t, x_u), [B, L, C] each. x_u is zero in the other rows.
    """
    rows, is_rollout = (0, split.self_cond), draws.t_u is not None
    z, t = noisy(x, batch.is_cond, draws, settings), draws.t
    z_u, t_u = z, t
    if is_rollout:
        t_u = draws.t_u
        z_u = noisy(x, batch.is_cond, draws.replace(t=t_u), settings)
    z_u, t_u, t, clean, w = (take(a, split, *rows) for a in (z_u, t_u, t, clean, draws.w))
    before = before and before.rows(lambda array: take(array, split, *rows))
    x_u = jax.lax.stop_gradient(predictor.denoise(params, z_u, clean, t_u, w, before))
    if is_rollout:
        step = z_u + flow.expand(t - t_u, z_u) * flow.velocity(x_u, z_u, t_u, settings.t_eps)
        moves = draws.self_cond[:, None, None] & ~batch.is_cond[..., None]
        z = jnp.where(moves, spread(step, split, *rows, len(x)), z)
    return z, spread(x_u, split, *rows, len(x))


def loss_sums(
    predictor, params, hidden, error, tokens, loss_mask, draws, split, reads_all=False, first=0
):
    """`LossSums` of a batch in the dealt order.

    Args:
      predictor, params, loss_mask, draws, split, first: see `mixed_loss`.
      hidden: [B, L, D], hidden states of rows of both modes.
      error: [B, L], of the rows that denoise. tokens: [B, L], the text.
      reads_all: whether the tokens of rows that denoise are read too.
    """
    weight = jnp.where(draws.is_decode, 0.0, draws.weight)[:, None] * loss_mask
    arrays = hidden, tokens, loss_mask, draws.is_decode[:, None], draws.weight[:, None]
    read = split.rows if reads_all else split.decode
    rows = split.rows - read, split.rows
    hidden, tokens, counted, is_decode, factor = (take(array, split, *rows) for array in arrays)
    hidden, tokens, counted = (array[:, first:] for array in (hidden, tokens, counted))
    cross_entropy, correct = predictor.token_losses(params, hidden, tokens, read)
    cross_entropy = cross_entropy * factor
    decoded = counted & is_decode
    return LossSums(
        denoise=jnp.sum(error * weight),
        decode=jnp.sum(cross_entropy * decoded),
        tokens=jnp.sum(cross_entropy * (counted & ~is_decode)) if reads_all else jnp.zeros(()),
        next=jnp.zeros(()),
        correct=jnp.sum(correct & decoded).astype(jnp.float32),
        decoded=jnp.sum(decoded).astype(jnp.float32),
    )


def noisy(x, is_cond, draws, settings):
    """The input latents: z_t with the clean condition in rows that denoise; in decode rows, latents
    with noise at all positions.
    """
    z_t = flow.interpolate(x, draws.noise, draws.t, settings.noise_scale)
    z_t = jnp.where(is_cond[..., None], x, z_t)
    z_decode = flow.interpolate(x, draws.noise, draws.decode_lambda, settings.decode_noise_scale)
    return jnp.where(draws.is_decode[:, None, None], z_decode, z_t)
