"""A token network with its parameters, as the function that losses and samplers call.

    predict(inputs, t) -> read,    read(function, *arrays) -> function(logits, *arrays)

Logits of all positions are the largest array of a language model, so they are never made at once.
`read` calls a function on the logits [B, c, V] of a part of the positions and on the same positions
of the arrays, and joins the results. It is a pytree, so a loop can carry it on. Losses and samplers
know only this interface. So an exact posterior can take the network's place (`reading`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from elf_jax.networks.tokens import TokenNetwork
from elf_jax.networks.vocabulary import in_parts


def reading(logits):
    """`predict` of a function (inputs, t) -> logits [B, L, V], without a network."""

    def read(values, function, *arrays):
        return function(values, *arrays)

    return lambda inputs, t=None: Partial(read, logits(inputs, t))


def restricted(predict, never):
    """`predict` without the tokens that a `Never` forbids; None forbids nothing."""
    if never is None:
        return predict
    return lambda inputs, t=None: Partial(_read_allowed, predict(inputs, t), never)


def _read_allowed(read, never, function, *arrays):
    def part(logits, where, *arrays):
        return function(never.forbid(logits, where), *arrays)

    return read(part, never.where, *arrays)


@dataclasses.dataclass(frozen=True)
class TokenPredictor:
    """A `TokenNetwork` without its parameters, which every call is given.

    Attributes:
      network: the network. parts: number of parts that the rows of a batch are split into over the
        devices; each device computes logits of its own rows.
    """

    network: TokenNetwork
    parts: int = 1

    def init(self, key, length):
        """New float32 parameters. They do not depend on `length`."""
        tokens, t = jnp.zeros((1, length), jnp.int32), jnp.zeros(1)
        return self.network.init(key, tokens, t, method="everything")["params"]

    def in_parts(self, function, *arrays, first=0):
        """The function, called on parts of the positions of the arrays [B, L, ...]; see
        `vocabulary.in_parts`.

        Args:
          first: the positions before this one are left out; the result is zero there.
        """
        rows = -(-len(arrays[0]) // self.parts)
        arrays = tuple(array[:, first:] for array in arrays)
        made = in_parts(function, arrays, self.network.vocab_size, rows)
        return jax.tree.map(lambda array: _with_zeros(array, first), made) if first else made

    def embed(self, params, inputs):
        """Text [B, L, D] of tokens [B, L] or of weights over the vocabulary [B, L, V]."""
        return self.network.apply({"params": params}, inputs, method="embed")

    def predict(
        self,
        params,
        is_given=None,
        is_dropped=None,
        temperature=None,
        dropout_key=None,
        ids=None,
        places=None,
        is_key=None,
        first=0,
    ):
        """The function (inputs, t) -> read.

        Args:
          params: of the network.
          is_given, is_dropped: [B, L] bool, see `TokenNetwork`.
          temperature: logits are divided by it; None: 1.
          dropout_key: JAX key for dropout; None: no dropout. ids: [B], names of the rows for it.
          places, is_key: see `Backbone`.
          first: logits of the positions before this one are not computed, and what is read there is
            zero. Nobody needs those of a condition.

        The inputs are tokens [B, L] integers or text [B, L, D] from `embed`. t is [B] float32; None
        for a network without time.
        """

        def read(hidden, function, *arrays):
            def part(hidden, *arrays):
                return function(self._logits(params, hidden, temperature), *arrays)

            return self.in_parts(part, hidden, *arrays, first=first)

        def call(inputs, t=None):
            how = is_given, is_dropped, dropout_key, ids, places, is_key
            return Partial(read, self._hidden(params, inputs, t, *how))

        return call

    def guided(
        self,
        params,
        is_given,
        cfg_scale,
        without=lambda inputs: inputs,
        temperature=None,
        is_key=None,
        first=0,
    ):
        """`predict` with classifier-free guidance on the condition (arXiv 2207.12598): the logits
        are u + c (conditional - u), where u are those of a second pass without the condition.

        Args:
          cfg_scale: c; 1 is no guidance. without: function from the inputs to those without the
            condition. The other arguments are as for `predict`.
        """

        def read(cond, uncond, function, *arrays):
            def part(cond, uncond, *arrays):
                cond, uncond = (self._logits(params, h, temperature) for h in (cond, uncond))
                return function(uncond + cfg_scale * (cond - uncond), *arrays)

            return self.in_parts(part, cond, uncond, *arrays, first=first)

        def call(inputs, t=None):
            cond = self._hidden(params, inputs, t, is_given, None, is_key=is_key)
            uncond = self._hidden(params, without(inputs), t, None, is_given, is_key=is_key)
            return Partial(read, cond, uncond)

        return call

    def _hidden(
        self,
        params,
        inputs,
        t,
        is_given,
        is_dropped,
        dropout_key=None,
        ids=None,
        places=None,
        is_key=None,
    ):
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        is_tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
        text = self.embed(params, inputs) if is_tokens else inputs
        inputs = text, t, is_given, is_dropped, ids
        how = dict(places=places, is_key=is_key)
        return self.network.apply({"params": params}, *inputs, **how, rngs=rngs)

    def _logits(self, params, hidden, temperature=None):
        logits = self.network.apply({"params": params}, hidden, method="logits")
        return logits if temperature is None else logits / temperature


def _with_zeros(array, first):
    return jnp.pad(array, [(0, 0), (first, 0)] + [(0, 0)] * (array.ndim - 2))
