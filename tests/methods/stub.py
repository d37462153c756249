"""The stub network and the categorical rule of the golden numbers of the rivals."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.methods.tokens.predictor import reading

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "rivals"


class Group(dict):
    """The arrays of an .npz whose names begin with `prefix`, floats as float64."""

    def __init__(self, name, prefix):
        super().__init__()
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            for key in arrays.files:
                if key.startswith(f"{prefix}/"):
                    value = arrays[key]
                    is_float = np.issubdtype(value.dtype, np.floating)
                    self[key.removeprefix(f"{prefix}/")] = (
                        value.astype(float) if is_float else value
                    )

    def __getattr__(self, name):
        return jnp.asarray(self[name])


def stub_logits(net, inputs, tau=None):
    """logits = h A + mean over positions of h C + P + tau b; h is one-hot tokens or soft."""
    vocab_size = net["A"].shape[0]
    h = jax.nn.one_hot(inputs, vocab_size, dtype=float) if inputs.ndim == 2 else inputs
    logits = h @ net["A"] + jnp.mean(h @ net["C"], axis=1, keepdims=True) + net["P"]
    return logits if tau is None else logits + jnp.asarray(tau)[:, None, None] * net["b"]


def stub(net):
    """`predict` of the stub network."""
    return reading(lambda inputs, t=None: stub_logits(net, inputs, t))


def published_draw(p, u):
    """The rule by which the published code draws tokens: argmax p / (1e-10 - log(u + 1e-10))."""
    return jnp.argmax(p / (1e-10 - jnp.log(u + 1e-10)), axis=-1).astype(jnp.int32)


def agree(ours, theirs, tolerance):
    """Whether the largest error is at most `tolerance` times the largest value."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    error = np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30)
    assert ours.shape == theirs.shape and error <= tolerance, error
    return True
