"""The training objective: denoise and decode losses, mixed in every batch (ELF, arXiv 2605.10938).

    loss = (1 - q) * denoise + q * decode,   q = 0.2 of the examples decode
    denoise: mean over channels of (v_hat - v_target)^2, then the mean over all loss positions of
      the batch
    decode:  cross-entropy, the mean over all loss positions of the batch

With a `token_weight` there is a third loss, which is not published: token_weight (1 - q) times the
cross-entropy of the rows that denoise. Their tokens are read by the head of decode mode, from the
same hidden states as the x-prediction.

Every row gets one of three roles: decode, denoise with self-conditioning, or denoise without it.
In a batch, every role gets a fixed number of rows (`make_split`). The rows draw cards
(`rng.cards`), and the card says the role. The rows of one device are a "group" and are put into the
order of their cards (`deal`). So one forward and backward pass is enough for both losses, the
no-gradient pass has only the self-conditioned rows, and logits are computed only for decode rows.

The rows of every role are spread evenly over the devices, and no row moves to another one. A group
has room for the largest number of rows that each role can have there (`part_of`). On 1, 2, 4 and 8
devices, or in as many micro-batches, the rows draw the same cards. So the losses are the same to
rounding. Where the batch does not divide like this, or there are more parts than 8, each part has
cards of its own (`rng.deck`): then the roles depend on the number of parts, and their expectation
does not.

The loss of a row is multiplied by (probability of its role x number of rows / rows with the role)
and divided by the number of loss positions in the whole batch. The expectation over the random
choice is exactly the loss above, for rows of any lengths. If there are too few rows for every role,
the role of one row is drawn at random, with weight 1.
"""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.core.types import Batch
from elf_jax.methods.elf import flow


@dataclasses.dataclass(frozen=True)
class Split:
    """How many rows of a group get each role. In the dealt order, the rows of a group are
    [self-conditioned | denoise without self-conditioning | decode].

    Attributes:
      rows: number of rows in a group.
      self_cond: so many rows at the start go through the no-gradient pass.
      denoise: so many rows at the start may denoise.
      decode: so many rows at the end may decode. If some rows may do either, because their number
        is not fixed or because the role of a single row is drawn, denoise + decode > rows.
      decode_fraction: q. self_cond_fraction: part of the denoising rows with self-conditioning.
    """

    rows: int
    self_cond: int
    denoise: int
    decode: int
    decode_fraction: float
    self_cond_fraction: float


def make_split(rows, decode_fraction, self_cond_fraction):
    """The `Split` of a group of `rows` rows that is nearest to the given fractions and gives every
    role at least one row. If one row is left for several roles, `draw_roles` draws its role.
    """

    def share(count, fraction):
        if fraction in (0.0, 1.0) or count == 0:
            return int(count * fraction)
        return min(max(round(count * fraction), 1), count - 1)

    drawn = rows == 1 and 0 < decode_fraction < 1
    decode = 1 if drawn else share(rows, decode_fraction)
    denoise = 1 if drawn else rows - decode
    lone = denoise == 1 and 0 < self_cond_fraction < 1
    self_cond = 1 if lone else share(denoise, self_cond_fraction)
    return Split(rows, self_cond, denoise, decode, decode_fraction, self_cond_fraction)


def part_of(split, parts):
    """The `Split` of a group that is one of so many equal parts of the rows of `split`. The rows of
    a role are shared out evenly, so a group has room for their number over `parts`, rounded up.
    """

    def room(count):
        return -(-count // parts)

    counts = {name: room(getattr(split, name)) for name in ("self_cond", "denoise", "decode")}
    return dataclasses.replace(split, rows=split.rows // parts, **counts)


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
    """

    is_decode: jax.Array
    self_cond: jax.Array
    weight: jax.Array
    t: jax.Array
    w: jax.Array
    noise: jax.Array
    decode_lambda: jax.Array


class Dealt(NamedTuple):
    """The rows of a batch in the dealt order.

    Attributes:
      batch: the `Batch`. counted: [B, L] bool, the positions that count.
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
    """Weighted sums over the loss positions: of both losses, and of the cross-entropy of rows that
    denoise (0 without a token_weight). And counts for the metrics: correct tokens, and tokens of
    decode rows.
    """

    denoise: jax.Array
    decode: jax.Array
    tokens: jax.Array
    correct: jax.Array
    decoded: jax.Array


def deal(keys, split, cards=None):
    """A random order of the rows of every group, the dealt order: [G, B / G] int32, the index in
    the group of the row at each place.

    Args:
      keys: [B] JAX keys, one per row; B is a multiple of split.rows. G is B / split.rows.
      split: the `Split` of a group.
      cards: [B], see `rng.cards`; the order is theirs. None: each group draws its own.
    """
    values = rng.uniform(keys) if cards is None else cards
    return jnp.argsort(values.reshape(-1, split.rows), axis=1).astype(jnp.int32)


def permute(array, order):
    """Rows of `array` [B, ...] in the dealt order [G, B / G]. Rows stay in their group."""
    grouped = array.reshape(order.shape + array.shape[1:])
    index = order.reshape(order.shape + (1,) * (array.ndim - 1))
    return jnp.take_along_axis(grouped, index, axis=1).reshape(array.shape)


def draw_roles(keys, split, cards=None):
    """(is_decode, self_cond, weight), each [B], of rows that are already in the dealt order.

    Args:
      keys: [B] JAX keys. split: the `Split` of all rows that share a deck.
      cards: [B] in the dealt order. None: each group has its own deck.
    """
    q, p = split.decode_fraction, split.self_cond_fraction
    place = jnp.arange(len(keys)) % split.rows if cards is None else cards
    u = rng.uniform(keys, (2,))
    if split.denoise + split.decode > split.rows:
        is_decode = u[:, 0] < q
        weight = jnp.ones(len(keys))
    else:
        is_decode = place >= split.denoise
        weight = jnp.where(
            is_decode,
            q * split.rows / max(split.decode, 1),
            (1 - q) * split.rows / max(split.denoise, 1),
        )
    if split.denoise == 1 and 0 < p < 1:
        return is_decode, ~is_decode & (u[:, 1] < p), weight
    self_cond = place < split.self_cond
    plain = split.denoise - split.self_cond
    part = jnp.where(
        self_cond,
        p * split.denoise / max(split.self_cond, 1),
        (1 - p) * split.denoise / max(plain, 1),
    )
    return is_decode, ~is_decode & self_cond, weight * jnp.where(is_decode, 1.0, part)


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
    return Draws(
        is_decode=is_decode,
        self_cond=self_cond,
        weight=weight,
        t=flow.logit_normal(rng.normal(streams("time"), ()), settings.time_mean, settings.time_std),
        w=flow.guidance_law(
            rng.uniform(streams("guidance")), settings.guidance_min, settings.guidance_max
        ),
        noise=rng.normal(streams("noise"), (length, latent_width)),
        decode_lambda=flow.logit_normal(lambda_normal, settings.lambda_mean, settings.lambda_std),
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
):
    """Sums of the losses over a batch in the dealt order.

    Args:
      predictor: a `Predictor`. params: its parameters.
      x: [B, L, C], clean latents, zero at the positions of a dropped condition.
      batch: the `Batch`. loss_mask: [B, L] bool, where losses count.
      draws: the batch's `Draws`. split: the `Split` of a group.
      settings: config section `objective` (noise_scale, decode_noise_scale, t_eps, token_weight).
      dropout_key, ids: for dropout, see `Predictor.hidden`.
      first: no loss position is before it, so no logits are computed there.

    Returns:
      `LossSums`. The loss is (denoise + decode + token_weight * tokens) / (number of loss positions
      in the whole batch).
    """
    is_cond = batch.is_cond[..., None]
    self_cond = draws.self_cond[:, None, None]
    z = noisy(x, batch.is_cond, draws, settings)
    clean = jnp.where(is_cond, x, 0.0)

    # x_u = net([z, 0]), without gradient, only for the rows with self-conditioning.
    rows = 0, split.self_cond
    z_u, clean_u, t_u, w_u = (take(a, split, *rows) for a in (z, clean, draws.t, draws.w))
    x_u = jax.lax.stop_gradient(predictor.denoise(params, z_u, clean_u, t_u, w_u))
    x_u = spread(x_u, split, *rows, len(x))
    x_prev = jnp.where(self_cond & ~is_cond, x_u, clean)

    # One pass with gradients for the rows of both modes. Then each head gets the rows of its mode.
    inputs = z, x_prev, draws.t, draws.w, draws.is_decode
    hidden = predictor.hidden(params, *inputs, dropout_key, ids)

    rows = 0, split.denoise
    x_hat = predictor.x_head(params, take(hidden, split, *rows))
    x_hat = spread(x_hat, split, *rows, len(x))
    v_hat, v_u, v = (flow.velocity(a, z, draws.t, settings.t_eps) for a in (x_hat, x_u, x))
    v_c = jax.lax.stop_gradient(v_hat)
    v_target = jnp.where(self_cond, flow.guided_target(v, v_c, v_u, draws.w), v)
    error = jnp.mean((v_hat - v_target) ** 2, axis=-1)
    args = hidden, error, batch.tokens, loss_mask, draws, split
    return loss_sums(predictor, params, *args, settings.token_weight > 0, first)


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


def take(array, split, start, stop):
    """Rows start to stop of every group, [G * (stop - start), ...]. Rows stay on their device."""
    groups = array.shape[0] // split.rows
    grouped = array.reshape((groups, split.rows) + array.shape[1:])[:, start:stop]
    return grouped.reshape((groups * (stop - start),) + array.shape[1:])


def spread(array, split, start, stop, batch_size):
    """The inverse of `take`: [batch_size, ...] with zeros in the rows that were not taken."""
    shape = array.shape[1:]
    grouped = array.reshape((batch_size // split.rows, stop - start) + shape)
    padding = [(0, 0), (start, split.rows - stop)] + [(0, 0)] * len(shape)
    return jnp.pad(grouped, padding).reshape((batch_size,) + shape)
