"""Logits over the vocabulary, a few positions at a time.

Logits are by far the largest array of a language model: 16 rows of 1024 positions and 32,100 tokens
are 2 GB in float32. The functions here compute them for a part of the positions, reduce that part,
and go on to the next one. The backward pass computes the logits of each part again.

B batch, L length, D network width, V vocabulary, c positions of one part.
"""

import jax
import jax.numpy as jnp

LOGIT_BYTES = 128 * 2**20  # of float32 logits that one device holds at a time
TPU_LOGIT_BYTES = 4 * LOGIT_BYTES  # on TPUs, in the backward pass too


def loss_bytes(mesh):
    """LOGIT_BYTES for losses on a mesh.

    The backward pass computes the logits of every part again, and adds every part's gradient to
    that of the whole matrix. On TPUs this costs more than the logits of a larger part.
    """
    on_tpu = mesh is not None and mesh.devices.flat[0].platform == "tpu"
    return TPU_LOGIT_BYTES if on_tpu else LOGIT_BYTES


def token_losses(logits, hidden, tokens, vocab_size, rows=None, mesh=None):
    """Cross-entropy of tokens, and where the likeliest token is the right one.

    Args:
      logits: function from hidden states [B, c, D] to logits [B, c, V] float32.
      hidden: [B, L, D], hidden states.
      tokens: [B, L] integers, the right tokens.
      vocab_size: V.
      rows: see `in_parts`. mesh: the devices, see `loss_bytes`.

    Returns:
      (cross-entropy [B, L] float32 in nats, [B, L] bool that is True where no other token has a
      larger logit than the right one).
    """

    def losses(hidden, tokens):
        values = logits(hidden)
        right = jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]
        # No argmax: one pass without indices tells whether another logit is larger.
        return jax.nn.logsumexp(values, axis=-1) - right, right >= jnp.max(values, axis=-1)

    return in_parts(losses, (hidden, tokens), vocab_size, rows, loss_bytes(mesh))


def likeliest(logits, hidden, vocab_size, rows=None, never=None):
    """Tokens with the largest logit, [B, L] int32; arguments as in `token_losses`.

    Args:
      never: a `Never`, or None.
    """

    def best(hidden, *where):
        values = logits(hidden)
        values = never.forbid(values, *where) if where else values
        return jnp.argmax(values, axis=-1).astype(jnp.int32)

    arrays = (hidden,) if never is None else (hidden, never.where)
    return in_parts(best, arrays, vocab_size, rows)


def in_parts(function, arrays, vocab_size, rows=None, logit_bytes=None):
    """Calls a function on parts of the positions, one part after another, and joins the results.

    The parts are so small that float32 logits of one part take at most `logit_bytes` (or are those
    of one position). If all positions fit, the function is called once.

    Args:
      function: takes one part [B, c, ...] of each array; returns an array [B, c, ...] or a pytree
        of them. It must treat positions independently of each other.
      arrays: tuple of arrays [B, L, ...].
      vocab_size: V.
      rows: how many of the B rows one device holds. None: all of them.
      logit_bytes: None: LOGIT_BYTES.

    Returns:
      What the function returns, with L positions.
    """
    length = arrays[0].shape[1]
    positions = (rows or len(arrays[0])) * length
    parts = -(-positions * vocab_size * 4 // (logit_bytes or LOGIT_BYTES))
    if parts <= 1:
        return function(*arrays)
    size = -(-length // parts)
    parts = -(-length // size)

    def cut(array):
        padding = [(0, 0), (0, parts * size - length)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, padding)
        return array.reshape(len(array), parts, size, *array.shape[2:]).swapaxes(0, 1)

    def join(array):
        array = array.swapaxes(0, 1)
        return array.reshape(len(array), parts * size, *array.shape[3:])[:, :length]

    # The backward pass keeps the input of each part and nothing else.
    part = jax.checkpoint(lambda arrays: function(*arrays))
    return jax.tree.map(join, jax.lax.map(part, tuple(cut(array) for array in arrays)))
