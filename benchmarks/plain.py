"""The published training step and sampler, written plainly: what the benchmarks compare with.

The mathematics is that of `elf_jax/methods/elf` (ELF, arXiv 2605.10938). The programs do what those
of the published implementation do:

    network    layers one after another, each with its own parameters; attention with all scores
    step       each device draws one branch for all its rows: denoise (80%) or decode (20%). The
               denoise branch makes two passes without gradient over all rows: the estimate x_u,
               and the guided velocity, which repeats the trained pass. Rows without
               self-conditioning throw both away
    optimiser  `optax.contrib.muon`, one matrix after another
    sampler    one scan over the steps; the noise of a batch comes from one key

B batch, L text length, C latent width, D network width, V vocabulary.
"""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from elf_jax.methods.elf import flow
from elf_jax.networks.layers import ScalarEmbedder, rotary_angles
from elf_jax.training.optimizer import average


class Norm(nn.Module):
    """RMSNorm over the last axis."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def rotate(x, angles):
    """Rotary embedding of x [B, T, H, K], interleaved pairs."""
    cos, sin = (f(angles)[:, None, :].repeat(2, axis=-1) for f in (jnp.cos, jnp.sin))
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D]."""

    heads: int

    @nn.compact
    def __call__(self, x, angles):
        width = x.shape[-1] // self.heads
        qkv = nn.Dense(3 * x.shape[-1], name="qkv")(x).reshape(*x.shape[:2], 3, self.heads, width)
        q, k, v = (qkv[:, :, index] for index in range(3))
        q, k = rotate(Norm(name="q_norm")(q), angles), rotate(Norm(name="k_norm")(k), angles)
        scores = jnp.einsum("bthk,bshk->bhts", q, k) * width**-0.5
        out = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), v)
        return nn.Dense(x.shape[-1], name="out")(out.reshape(x.shape))


class MLP(nn.Module):
    """SwiGLU, [B, T, D]."""

    @nn.compact
    def __call__(self, x):
        hidden = int(4 * x.shape[-1] * 2 / 3)
        gate, value = jnp.split(nn.Dense(2 * hidden, name="in")(x), 2, axis=-1)
        return nn.Dense(x.shape[-1], name="out")(nn.silu(gate) * value)


class Block(nn.Module):
    """One layer, [B, T, D]."""

    heads: int

    @nn.compact
    def __call__(self, x, angles):
        x = x + Attention(self.heads, name="attn")(Norm(name="norm1")(x), angles)
        return x + MLP(name="mlp")(Norm(name="norm2")(x))


class Network(nn.Module):
    """The network. `size` is an `elf_jax.networks.elf.ELF`, of which only the sizes are read."""

    size: nn.Module

    def setup(self):
        size, normal = self.size, nn.initializers.normal(0.02)
        self.self_cond_proj = nn.Dense(size.latent_width)
        self.text_in = nn.Dense(size.bottleneck, use_bias=False)
        self.text_out = nn.Dense(size.width)
        for name in ("time", "guidance", "mode"):
            shape = getattr(size, f"{name}_tokens"), size.width
            setattr(self, f"{name}_token", self.param(f"{name}_token", normal, shape))
        self.time_embedder = ScalarEmbedder(size.width)
        self.guidance_embedder = ScalarEmbedder(size.width)
        self.blocks = [Block(size.heads) for _ in range(size.depth)]
        self.final_norm = Norm()
        self.x_out = nn.Dense(size.latent_width)
        self.decode_proj = nn.Dense(size.latent_width)
        self.unembed = nn.Dense(size.vocab_size)

    def __call__(self, inputs, t, w, is_decode):
        """x-prediction [B, L, C], or logits [B, L, V] in decode mode.

        Args:
          inputs: [B, L, 2C], [z, x_prev]. t, w: [B]. is_decode: Python bool, of the whole batch.
        """
        size = self.size
        text = self.text_out(self.text_in(self.self_cond_proj(inputs)))
        time = self.time_token + self.time_embedder(t)[:, None]
        guidance = self.guidance_token + self.guidance_embedder(w)[:, None]
        mode = jnp.broadcast_to(self.mode_token * is_decode, (len(text), *self.mode_token.shape))
        x = jnp.concatenate([time, guidance, mode, text], axis=1)
        control = x.shape[1] - text.shape[1]
        angles = rotary_angles(control, text.shape[1], size.width // size.heads)
        for block in self.blocks:
            x = block(x, angles)
        x = x[:, control:]
        if is_decode:
            return self.unembed(nn.gelu(self.decode_proj(x)))
        return self.x_out(self.final_norm(x))


def from_ours(params):
    """The parameters of `Network` from those of `ELF`: the layers apart."""
    params = dict(params)
    blocks = params.pop("blocks")
    depth = len(jax.tree.leaves(blocks)[0])
    layers = {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(depth)}
    return params | layers


def optimizer(settings, schedule):
    """Clipping, then Muon for kernels and Adam for the rest and for `settings.adam_kernels`."""

    def dimensions(params):
        flat = traverse_util.flatten_dict(params, sep="/")
        adam = settings.adam_kernels or "^$"  # this one matches no name
        numbers = {
            name: optax.contrib.MuonDimensionNumbers(0, 1)
            if name.endswith("kernel") and not re.search(adam, name)
            else None
            for name in flat
        }
        return traverse_util.unflatten_dict(numbers, sep="/")

    muon = optax.contrib.muon(schedule, muon_weight_dimension_numbers=dimensions)
    return optax.chain(optax.clip_by_global_norm(settings.clip), muon)


def denoise_loss(network, law, params, x, batch, counted, key):
    """Mean denoise loss of a batch; every row of x [B, L, C] denoises."""
    keys = jax.random.split(key, 4)
    rows, is_cond = (len(x),), batch.is_cond[..., None]
    t = flow.logit_normal(jax.random.normal(keys[0], rows), law.time_mean, law.time_std)
    w = flow.guidance_law(jax.random.uniform(keys[1], rows), law.guidance_min, law.guidance_max)
    self_cond = jax.random.bernoulli(keys[2], law.self_cond_fraction, rows)[:, None, None]
    noise = jax.random.normal(keys[3], x.shape)
    z = jnp.where(is_cond, x, flow.interpolate(x, noise, t, law.noise_scale))
    clean = jnp.where(is_cond, x, 0.0)

    def predict(params, x_prev):
        inputs = jnp.concatenate([z, x_prev], axis=-1)
        return network.apply({"params": params}, inputs, t, w, False)

    fixed = jax.lax.stop_gradient(params)
    x_u = predict(fixed, clean)
    x_c = predict(fixed, jnp.where(is_cond, x, x_u))
    x_hat = predict(params, jnp.where(self_cond & ~is_cond, x_u, clean))
    v_hat, v_u, v_c, v = (flow.velocity(a, z, t, law.t_eps) for a in (x_hat, x_u, x_c, x))
    target = jnp.where(self_cond, flow.guided_target(v, v_c, v_u, w), v)
    error = jnp.mean((v_hat - target) ** 2, axis=-1)
    return jnp.sum(error * counted) / jnp.sum(counted)


def decode_loss(network, law, params, x, batch, counted, key):
    """Mean cross-entropy of a batch; every row of x [B, L, C] decodes."""
    keys = jax.random.split(key, 3)
    rows = (len(x),)
    w = flow.guidance_law(jax.random.uniform(keys[0], rows), law.guidance_min, law.guidance_max)
    normal = jax.random.normal(keys[1], x.shape[:2])
    data = flow.logit_normal(normal, law.lambda_mean, law.lambda_std)
    z = flow.interpolate(x, jax.random.normal(keys[2], x.shape), data, law.decode_noise_scale)
    inputs = jnp.concatenate([z, jnp.zeros_like(z)], axis=-1)
    logits = network.apply({"params": params}, inputs, jnp.ones(rows), w, True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.tokens)
    return jnp.sum(losses * counted) / jnp.sum(counted)


def make_step(method, transformation, settings, branch):
    """The step (state, frozen, batch, key) -> (state, loss) of one branch, to be jitted.

    Args:
      method: an `ELFMethod`. transformation: see `optimizer`. settings: `StepSettings`.
      branch: `denoise_loss` or `decode_loss`.
    """
    network = Network(method.predictor.network)

    def step(state, frozen, batch, key):
        key = jax.random.fold_in(key, state.step)
        keep = jnp.zeros(len(batch.tokens), bool)
        x = method.encoder.encode(
            frozen["encoder"], batch.tokens, batch.is_cond, batch.is_valid, keep
        )
        loss = partial(branch, network, method.law)
        value, grads = jax.value_and_grad(loss)(
            state.params, x, batch, settings.counted(batch), key
        )
        updates, opt_state = transformation.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = average(state.ema, params, settings.ema)
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return state, value

    return step


def make_sampler(method, settings, rows, length):
    """The function (params, key) -> tokens [rows, length] of unconditional sampling, to be jitted.

    Args:
      method: an `ELFMethod`. settings: config section `sample`.
    """
    law = method.law
    network, width = Network(method.predictor.network), method.encoder.width
    gamma = settings.gamma if settings.sampler == "sde" else 0.0
    w = jnp.full(rows, settings.guidance_scale, jnp.float32)

    def run(params, key):
        times = flow.time_grid(settings.time_grid, settings.steps, law.time_mean, law.time_std, key)

        def predict(z, x_prev, t, is_decode):
            inputs = jnp.concatenate([z, x_prev], axis=-1)
            return network.apply({"params": params}, inputs, jnp.full(rows, t), w, is_decode)

        def step(carry, inputs):
            (z, x_prev), (index, t, t_next) = carry, inputs
            noise = jax.random.normal(jax.random.fold_in(key, index), z.shape)
            strength = jnp.where(index < settings.steps - 1, gamma, 0.0)  # the last step has none
            z, t = flow.back_to_noise(z, noise, t, t_next, strength, law.noise_scale)
            x_hat = predict(z, x_prev, t, False)
            return (z + (t_next - t) * flow.velocity(x_hat, z, t, law.t_eps), x_hat), None

        z = law.noise_scale * jax.random.normal(key, (rows, length, width))
        steps = jnp.arange(settings.steps), times[:-1], times[1:]
        (z, _), _ = jax.lax.scan(step, (z, jnp.zeros_like(z)), steps)
        return jnp.argmax(predict(z, jnp.zeros_like(z), 1.0, True), axis=-1)

    return run
