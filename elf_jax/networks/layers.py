"""Small parts of the networks: dense layer, norm, rotary embedding, scalar embedding, SwiGLU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

xavier = nn.initializers.xavier_uniform()
small_normal = nn.initializers.normal(0.02)


def normalize(x, scale, epsilon=1e-6):
    """x / rms(x) * scale over the last axis, in float32 (arXiv 1910.07467)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale


def product(x, kernel, mesh=None):
    """x [..., inputs] @ kernel [inputs, outputs], over the last axis of x.

    On CPUs the other axes of x are joined. Otherwise XLA writes gradients in a layout that it has
    to copy before the next product: the quickstart's blocks, forward and backward, take 1.25 times
    as long.
    """
    if mesh is None or mesh.devices.flat[0].platform != "cpu":
        return x @ kernel
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class Scale(nn.Module):
    """The scale of a norm, [width] float32. The caller computes the norm."""

    width: int

    @nn.compact
    def __call__(self):
        return self.param("scale", nn.initializers.ones, (self.width,), jnp.float32)


class Weights(nn.Module):
    """Kernel (in `dtype`) and bias (float32) of a dense layer. The caller computes the product."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, width_in):
        kernel = self.param("kernel", xavier, (width_in, self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return kernel.astype(self.dtype), bias


@jax.custom_vjp
def add_bias(y, bias):
    """y + bias over the last axis, in the dtype of y.

    The gradient of the bias is a sum over all positions; it is accumulated in float32.
    """
    return y + bias.astype(y.dtype)


def _add_bias_backward(_, d_y):
    return d_y, jnp.sum(d_y.astype(jnp.float32), axis=tuple(range(d_y.ndim - 1)))


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), None), _add_bias_backward)


class Dense(nn.Module):
    """x @ kernel + bias, computed in `dtype`; the parameters are float32. mesh: see `product`."""

    width: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = xavier
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width), jnp.float32)
        y = product(x.astype(self.dtype), kernel.astype(self.dtype), self.mesh)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (arXiv 1910.07467)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return normalize(x, scale, self.epsilon).astype(x.dtype)


class ScalarEmbedder(nn.Module):
    """Embeds a scalar, [B] float32 -> [B, width]: sinusoids, Dense, SiLU, Dense (ELF, arXiv
    2605.10938).

    Attributes:
      width: of the result.
      frequencies: number of sinusoids; the first half are cosines, the second half sines.
      max_period: the longest period is 2 pi times this, in units of the scalar.
      dtype: of the computation.
    """

    width: int
    frequencies: int = 256
    max_period: float = 10000.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, scalar):
        half = self.frequencies // 2
        rates = jnp.exp(-np.log(self.max_period) * jnp.arange(half, dtype=jnp.float32) / half)
        angles = scalar.astype(jnp.float32)[:, None] * rates
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1).astype(self.dtype)
        features = nn.Dense(self.width, dtype=self.dtype, kernel_init=small_normal, name="in")(
            features
        )
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=small_normal, name="out")(
            nn.silu(features)
        )


class SwiGLU(nn.Module):
    """silu(gate) * value with one joint input matrix [gate | value] (arXiv 2002.05202). mesh: see
    `product`.
    """

    hidden: int
    dtype: jnp.dtype = jnp.float32
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x, dropout):
        kernel, bias = Weights(2 * self.hidden, self.dtype, name="in")(x.shape[-1])
        # Two products instead of one. With one, the backward pass would have to join the two
        # gradients in memory.
        gate, value = (
            checkpoint_name(add_bias(product(x, part, self.mesh), shift), "mlp_in")
            for part, shift in zip(jnp.split(kernel, 2, -1), jnp.split(bias, 2), strict=True)
        )
        out = Dense(x.shape[-1], self.dtype, mesh=self.mesh, name="out")
        return out(dropout(nn.silu(gate) * value))


def rotary_angles(num_control, places, head_width, base=10000.0):
    """Angles of the rotary embedding (arXiv 2104.09864).

    Control positions have angle 0, so they are not rotated.

    Args:
      num_control: number of control positions.
      places: [L] numbers, the places of the text positions in their row, traced or not; or the
        number L of positions, which count from 0.
      head_width: K.

    Returns:
      [num_control + L, K / 2] float32, radians.
    """
    rates = base ** (-np.arange(0, head_width, 2, dtype=np.float32) / head_width)
    if isinstance(places, int):
        places = np.arange(places)
    angles = places.astype(np.float32)[:, None] * rates
    numbers = jnp if isinstance(angles, jax.Array) else np
    return numbers.concatenate([np.zeros((num_control, head_width // 2), np.float32), angles])


def rotate(x, angles):
    """Rotates the pairs (x_0, x_1), (x_2, x_3), ... of each head.

    Args:
      x: [B, T, H, K]. angles: [T, K / 2], radians.

    Returns:
      [B, T, H, K] in the dtype of x.
    """
    cos = jnp.cos(angles)[:, None, :].astype(x.dtype)
    sin = jnp.sin(angles)[:, None, :].astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return pairs.reshape(x.shape)
