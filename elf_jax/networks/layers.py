"""The small parts that networks are made of: norm, rotary embedding, scalar embedding, SwiGLU."""

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


class Scale(nn.Module):
    """The scale of a norm that is computed elsewhere, [width] float32."""

    width: int

    @nn.compact
    def __call__(self):
        return self.param("scale", nn.initializers.ones, (self.width,), jnp.float32)


class Weights(nn.Module):
    """Kernel and bias of a dense layer that is computed elsewhere, in `dtype`."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, width_in):
        kernel = self.param("kernel", xavier, (width_in, self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (arXiv 1910.07467)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return normalize(x, scale, self.epsilon).astype(x.dtype)


class ScalarEmbedder(nn.Module):
    """Embeds a scalar: sinusoids of its raw value, Dense, SiLU, Dense.

    Call with [B] float32; returns [B, width].
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
    """silu(gate) * value with one joint input matrix [gate | value] (arXiv 2002.05202)."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, dropout):
        gate_value = nn.Dense(2 * self.hidden, dtype=self.dtype, kernel_init=xavier, name="in")(x)
        gate_value = checkpoint_name(gate_value, "mlp_in")
        gate, value = jnp.split(gate_value, 2, axis=-1)
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="out")(
            dropout(nn.silu(gate) * value)
        )


def rotary_angles(num_control, length, head_width, base=10000.0):
    """Angles of the rotary embedding (arXiv 2104.09864), [num_control + length, head_width / 2]
    float32.

    Control positions have angle 0, which is the identity; text positions count from 0.
    """
    rates = base ** (-np.arange(0, head_width, 2, dtype=np.float32) / head_width)
    angles = np.arange(length, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.zeros((num_control, head_width // 2), np.float32), angles])


def rotate(x, angles):
    """Rotates the interleaved pairs (x_0, x_1), (x_2, x_3), ... of [B, T, H, K] by angles
    [T, K / 2], in the dtype of x.
    """
    cos = jnp.cos(angles)[:, None, :].astype(x.dtype)
    sin = jnp.sin(angles)[:, None, :].astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return pairs.reshape(x.shape)
