"""The exact conditionals of a toy distribution in place of the network."""

import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.methods.ar.sampler import Decoder
from elf_jax.methods.tokens.predictor import reading


def conditionals(toy):
    """List of log p(x_i | x_0 ... x_{i-1}), [V ** i, V] for each position i, prefixes in order."""
    tables = []
    for index in range(toy.length):
        table = toy.p.reshape(toy.vocab_size**index, toy.vocab_size, -1).sum(-1)
        tables.append(jnp.asarray(np.log(table / table.sum(-1, keepdims=True)), jnp.float32))
    return tables


def logits(tables, tokens):
    """log p(x_i | x_0 ... x_{i-1}) for tokens [B, L], [B, L, V]."""
    code, out = jnp.zeros_like(tokens[:, 0]), []
    for index, table in enumerate(tables):
        out.append(table[code])
        code = code * table.shape[1] + tokens[:, index]
    return jnp.stack(out, axis=1)


def predict(tables):
    """`predict` on inputs [start, x_0 ... x_{L-2}]."""
    return reading(lambda inputs, t: logits(tables, jnp.roll(inputs, -1, axis=1)))


def decoder(tables):
    """The `Decoder`. Its state is its inputs. Like a cache, it may have any at later positions."""

    def step(inputs, new, is_given, position):
        del is_given
        position = 0 if position is None else position
        inputs = jax.lax.dynamic_update_slice_in_dim(inputs, new, position, axis=1)
        values = logits(tables, jnp.roll(inputs, -1, axis=1))
        last = position + new.shape[1] - 1
        return jax.lax.dynamic_index_in_dim(values, last, 1, keepdims=False), inputs

    return Decoder(lambda rows: jnp.full((rows, len(tables)), 9, jnp.int32), step, row_axis=0)
