"""Which positions of a training row are given, and how long its gaps are.

Each row gets one of five shapes. "#" is given, "." is hidden and learned.

    nothing   ....................
    prefix    ########............    to continue a text
    suffix    ............########    to begin a text
    ends      #####........#######    one gap
    spans     ##...####.#####..###    gaps anywhere

The shares of the shapes, and how much is hidden, are the law in config.data.given. It is about the
text of a row: all that is neither padding nor a condition already. The source of a pair stays a
condition. Rows of spans often begin or end with a gap. So the model also knows templates that are
shorter than a row, with nothing given after them.

Whoever fills a gap may not know how long its text will be. So half of the gaps with given text
after them are open: they get from 0 to `slack` positions more than their text needs, and at most as
many as the text has. These hold padding, which is learned like any token. After an open gap there
is a mark, one given padding token. So the model knows where padding may be. Without the mark it
would go for padding wherever it is unsure, also in gaps whose length is known. What comes after the
gap moves to the right, and what no longer fits into the row is cut. A gap at the end of the text is
open without a mark, and needs no more room.

B rows, L positions, G the greatest number of gaps of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from elf_jax.core import rng

SHAPES = ("prefix", "suffix", "ends", "spans")  # what is left is "nothing"
NOTHING = len(SHAPES)
# Shares of the rows of spans that begin and that end with a gap; others may do so by chance.
BEGIN, END = 0.25, 0.5


class Gaps(NamedTuple):
    """The gaps of B rows.

    Attributes:
      start, end: [B, G] int32, the first position of a gap and the first one after it, counted from
        the start of the text. They increase. Where start and end are equal there is no gap.
      slack: [B, G] int32, positions after the text of an open gap: padding, and last the mark. 0
        for gaps of known length.
      is_given: [B] bool, whether the text outside of the gaps is given. If not, there are no gaps.
    """

    start: jax.Array
    end: jax.Array
    slack: jax.Array
    is_given: jax.Array


def make_law(settings, pad_id):
    """The function (batch, key) -> batch in which positions are given and gaps have slack; None if
    the law gives nothing.

    Args:
      settings: config section `data.given`. pad_id: id of the token that fills gaps up.

    The rows of the `Batch` are the whole batch of a step. Row i depends on the key and on i alone.
    """
    if not any(settings[name] for name in SHAPES):
        return None

    def give(batch, key):
        keys = rng.per_example(key, jnp.arange(len(batch.tokens)))
        size = jnp.sum(_text(batch), axis=1, dtype=jnp.int32)
        return with_gaps(batch, draw_gaps(keys, size, settings), pad_id)

    return give


def draw_gaps(keys, size, settings):
    """The `Gaps` of texts of `size` [B] tokens, row i from keys[i] alone.

    Args:
      keys: [B] JAX keys. settings: config section `data.given`.
    """
    most = settings.most_spans if settings.spans else 1

    def uniforms(name, *shape):
        return rng.uniform(jax.vmap(lambda key: rng.stream(key, name))(keys), shape)

    shape = _shapes(uniforms("shape"), settings)
    share = settings.hidden_min + (settings.hidden_max - settings.hidden_min) * uniforms("hidden")
    # At least one token is hidden. Texts without tokens have no gap.
    hidden = jnp.clip(jnp.round(share * size).astype(jnp.int32), jnp.minimum(size, 1), size)
    shown = size - hidden
    count = jnp.where(_is(shape, "spans"), _few(uniforms("count"), most), 1)
    # Gaps are not empty and do not touch.
    count = jnp.minimum(count, jnp.minimum(hidden, shown + 1))
    gaps = _split(uniforms("gaps", most - 1), hidden, _ones(count, most))
    begins, ends = _edges(uniforms("edges", 2), shape, count)
    u = uniforms("between", most)
    between = _between(u, shown, count, begins, ends, _is(shape, "ends"), most)

    end = jnp.cumsum(between[:, :-1] + gaps, axis=1)
    slack = _slack(uniforms("slack", most), jnp.minimum(gaps, settings.slack))
    is_given = shape != NOTHING
    has_slack = is_given[:, None] & (gaps > 0) & (end < size[:, None]) & (settings.slack > 0)
    gaps = jnp.where(is_given[:, None], gaps, 0)
    return Gaps(end - gaps, end, jnp.where(has_slack, slack, 0), is_given)


def with_gaps(batch, gaps, pad_id):
    """A `Batch` with all text given but its gaps, and the slack of the gaps in place.

    Args:
      batch: a `Batch`; the text of a row has no holes. gaps: its `Gaps`. pad_id: see `make_law`.
    """
    text, length = _text(batch), batch.tokens.shape[1]
    first = jnp.argmax(text, axis=1).astype(jnp.int32)[:, None]
    moved = jnp.cumsum(gaps.slack, axis=1) - gaps.slack  # by the slack of the gaps before
    start, slack = first + gaps.start + moved, first + gaps.end + moved
    end = slack + gaps.slack

    position = jnp.arange(length, dtype=jnp.int32)[:, None]
    start, slack, end = (edges[:, None] for edges in (start, slack, end))  # [B, 1, G]
    is_gap = jnp.any((position >= start) & (position < end), axis=-1)
    is_filler = jnp.any((position >= slack) & (position < end - 1), axis=-1)
    is_mark = jnp.any((end > slack) & (position == end - 1), axis=-1)
    # Where each position comes from: as many places to the left as there is slack before it.
    origin = position[:, 0] - jnp.sum(jnp.clip(position - slack, 0, end - slack), axis=-1)

    def moved_right(array):
        return jnp.take_along_axis(array, origin, axis=1)

    is_given = moved_right(text) & ~is_gap & gaps.is_given[:, None]
    return batch.replace(
        tokens=jnp.where(is_filler | is_mark, jnp.int32(pad_id), moved_right(batch.tokens)),
        is_cond=moved_right(batch.is_cond) | is_given | is_mark,
        is_valid=(moved_right(batch.is_valid) & ~is_filler) | is_mark,
        is_filler=is_filler,
    )


def _text(batch):
    return batch.is_valid & ~batch.is_cond


def _shapes(u, settings):
    """[B] int32, indices into SHAPES or NOTHING, of uniforms u [B]."""
    bounds = jnp.cumsum(jnp.asarray([settings[name] for name in SHAPES], jnp.float32))
    return jnp.sum(u[:, None] >= bounds, axis=1, dtype=jnp.int32)


def _is(shape, name):
    return shape == SHAPES.index(name)


def _below(u, count):
    """Integers from 0 to count - 1 of uniforms u."""
    return jnp.minimum((u * count).astype(jnp.int32), count - 1)


def _slack(u, most):
    """Positions after the text of gaps, of uniforms u: 0 in half of them; the others are open and
    have 0 to `most` positions of padding, and their mark.
    """
    padding = _below(jnp.maximum(2 * u - 1, 0), most + 1)
    return jnp.where(u < 0.5, 0, padding + 1)


def _ones(count, most):
    """[B, most], 1 in the first `count` [B] columns and 0 in the others."""
    return (jnp.arange(most) < count[:, None]).astype(jnp.int32)


def _few(u, most):
    """Numbers of gaps from 1 to `most` of uniforms u; n has the probability of 1 / n, about."""
    return jnp.clip(jnp.exp(u * jnp.log(most + 1.0)).astype(jnp.int32), 1, most)


def _edges(u, shape, count):
    """Whether the texts begin and whether they end with a gap: [B] bool each, of uniforms u [B, 2].
    One gap is never at both ends.
    """
    spans = _is(shape, "spans")
    begins = _is(shape, "suffix") | (spans & (u[:, 0] < BEGIN))
    is_free = (count > 1) | ~begins
    return begins, _is(shape, "prefix") | (spans & (u[:, 1] < END) & is_free)


def _between(u, shown, count, begins, ends, has_both, most):
    """[B, G + 1], how many of the `shown` [B] tokens lie before each gap, and after the last one.

    Args:
      u: [B, G] uniforms. count: [B], numbers of gaps. begins, ends: see `_edges`.
      has_both: [B] bool, whether something is given at both ends. most: G.
    """
    place, last = jnp.arange(most + 1), count[:, None]
    has_text = (place >= begins[:, None]) & (place <= last - ends[:, None])
    is_inside = (place > 0) & (place < last)
    is_needed = is_inside | (has_both & (shown > 1))[:, None]
    return _split(u, shown, has_text.astype(jnp.int32), (has_text & is_needed).astype(jnp.int32))


def _split(u, total, parts, least=None):
    """[B, P] int32 with the sums `total` [B]: at least `least` in each part, and the rest is shared
    out at random.

    Args:
      u: [B, P - 1] uniforms. parts: [B, P], 1 in the parts that get something, which are next to
        each other. least: [B, P]; None: 1 in these parts.
    """
    least = parts if least is None else least
    rest = total - jnp.sum(least, axis=1)
    # Cuts at random places between the parts that get something; the others are empty.
    begun, left = (jnp.cumsum(parts, axis=1)[:, :-1] > 0), jnp.cumsum(parts[:, ::-1], axis=1)
    is_cut = begun & (left[:, ::-1][:, 1:] > 0)
    cuts = jnp.sort(jnp.where(is_cut, u, jnp.where(begun, 1.0, -1.0)), axis=1)
    cuts = jnp.clip((cuts * (rest[:, None] + 1)).astype(jnp.int32), 0, rest[:, None])
    ends = jnp.concatenate([cuts, rest[:, None]], axis=1)
    return jnp.diff(ends, axis=1, prepend=jnp.zeros_like(ends[:, :1])) + least
