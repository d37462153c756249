"""The numbers in tests/golden on this device: how far its results are from the published code's.

    python -m benchmarks.session.goldens

The forward pass, five losses with their gradients, seven samplers and the T5 encoder are computed
with several kinds of arithmetic:

    float32, highest    products in full float32: every tolerance of the tests must hold, or the
                        part fails
    bfloat16            as in training, with each attention that takes it
    float32, default    products as the device makes them, on NVIDIA GPUs in TF32

Each line has the largest deviation over its tolerance, and all deviations beside.
"""

import argparse
import concurrent.futures
import os
import pathlib
import sys
import traceback
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks.session import results
from elf_jax.core import defaults, processes, sharding
from elf_jax.core.types import Batch, counted_positions
from elf_jax.latents.encoder import Encoder, attention_mask
from elf_jax.methods.elf import flow, objective, roles
from elf_jax.methods.elf.decode import decode_tokens
from elf_jax.methods.elf.predictor import Condition, Predictor
from elf_jax.methods.elf.published import from_published
from elf_jax.methods.elf.sampler import sample
from elf_jax.networks.elf import ELF
from elf_jax.networks.t5 import T5Config, T5Encoder

GOLDEN = pathlib.Path(__file__).parents[2] / "tests" / "golden"
# What is compared -> the largest deviation that the tests on the CPU allow in float32.
TOLERANCES = {
    "forward": 1e-5,
    "loss": 1e-5,
    "gradient": 2e-4,
    "latents": 2e-4,
    "tokens": 0.0,
    "encoder": 1e-5,
}
LOSSES = ("denoise_uncond", "denoise_cond", "denoise_late", "decode_uncond", "decode_cond")
SAMPLERS = (
    "ode_sc1",
    "ode_sc3",
    "sde_sc3",
    "ode_cond_cfg2",
    "sde_cond_cfg2_sc2",
    "ode_uniform40_sc2",
    "sde_uniform8_gamma20",
)
EXACT = "float32, highest"
THREADS = 8  # programs that are compiled at once


class Arithmetic(NamedTuple):
    """How products are computed: the type, JAX's precision of float32, the attention."""

    dtype: jnp.dtype
    precision: str | None
    attention: str


def golden(name):
    """The arrays of a file of reference numbers, {name: array}."""
    return dict(np.load(GOLDEN / f"{name}.npz"))


def relative(ours, reference):
    """The largest difference over the largest reference number."""
    return float(np.max(np.abs(np.asarray(ours) - reference)) / np.max(np.abs(reference)))


def predictor_of(how):
    """The reference's tiny network: width 48, depth 4, 4 heads, C 32, V 64, bottleneck 8."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    sizes = {"latent_width": 32, "vocab_size": 64, "depth": 4, "width": 48, "heads": 4}
    return Predictor(
        ELF(**sizes, bottleneck=8, attention=how.attention, dtype=how.dtype, mesh=mesh)
    )


def reference_encoder(golden, dtype=jnp.float32):
    """(network, parameters) of encoder.npz, where each layer has its own subtree."""
    data = golden("encoder")
    config = T5Config(*(int(size) for size in data["config"]))
    names = {
        **{f"self_attention/{m}/kernel": f"layer_0/SelfAttention/{m}/kernel" for m in "qkvo"},
        "feed_forward/wi/kernel": "layer_1/DenseReluDense/wi/kernel",
        "feed_forward/wo/kernel": "layer_1/DenseReluDense/wo/kernel",
        "self_attention/norm/scale": "layer_0/layer_norm/weight",
        "feed_forward/norm/scale": "layer_1/layer_norm/weight",
    }
    layers = range(config.num_layers)
    flat = {
        f"blocks/{ours}": np.stack([data[f"params/encoder/block_{i}/{theirs}"] for i in layers])
        for ours, theirs in names.items()
    }
    bias = "params/encoder/block_0/layer_0/SelfAttention/relative_attention_bias/rel_embedding"
    flat["relative_bias"] = data[bias]
    flat["embed/embedding"] = data["params/shared/embedding"]
    flat["final_norm/scale"] = data["params/encoder/final_layer_norm/weight"]
    return T5Encoder(config, dtype), traverse_util.unflatten_dict(flat, sep="/")


def encoder(how):
    """The deviation of the T5's output."""
    data, (network, params) = golden("encoder"), reference_encoder(golden, how.dtype)
    mask = attention_mask(data["is_cond"], data["is_valid"], np.zeros(4, bool))
    ours = jax.jit(network.apply)({"params": params}, data["input_ids"], mask)
    return {"encoder": relative(ours, data["output"])}


def forward(how):
    """The deviation of x-prediction and logits."""
    data, predictor, params = golden("forward"), predictor_of(how), from_published(golden("params"))

    @jax.jit
    def both(params, x, t, w):
        z, x_prev = jnp.split(x, 2, axis=-1)
        ones = jnp.ones(len(x))
        hidden = predictor.network.apply({"params": params}, x, ones, w, ones > 0)
        x_hat = predictor.denoise(params, z, x_prev, t, w)
        return x_hat, predictor.logit_head(params, hidden)

    ours = both(params, data["x"], data["t"], data["w"])
    pairs = zip(ours, (data["denoise_x_pred"], data["decode_logits"]), strict=True)
    return {"forward": max(relative(*pair) for pair in pairs)}


def latents(how, data):
    """Clean latents of a batch of a loss, by the reference's T5."""
    network, params = reference_encoder(golden, how.dtype)

    def raw(params, tokens, groups):
        return network.apply({"params": params}, tokens, groups.mask())

    fields = (data[key] for key in ("input_ids", "is_cond", "is_valid", "label_drop"))
    return jax.jit(Encoder("t5", 32, raw, 0.0, 0.2).encode)(params, *fields)


def loss(how, name):
    """The deviations of a loss and of its gradient."""
    data, predictor = golden(f"loss_{name}"), predictor_of(how)
    law = defaults.get_config().objective
    decode = name.startswith("decode")
    normal = jnp.asarray(data["decoder_lambda_normal"])
    draws = objective.Draws(
        is_decode=jnp.full(4, decode),
        self_cond=jnp.asarray(data["self_cond_mask"]) & (not decode),
        weight=jnp.ones(4),
        t=jnp.asarray(data["t"]),
        w=jnp.asarray(data["w"]),
        noise=jnp.asarray(data["decoder_noise" if decode else "noise"]),
        decode_lambda=flow.logit_normal(normal, law.lambda_mean, law.lambda_std),
    )
    split = roles.Split(*((4, 0, 0, 4, 1.0, 0.5) if decode else (4, 4, 4, 0, 0.0, 0.5)))
    batch = Batch(*(jnp.asarray(data[key]) for key in ("input_ids", "is_cond", "is_valid")))
    mask = counted_positions(batch, pad_in_loss=name.endswith("_cond"))

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(params, x):
        sums = objective.mixed_loss(predictor, params, x, batch, mask, draws, split, law)
        return (sums.denoise + sums.decode) / jnp.sum(mask)

    value, grads = value_and_gradient(from_published(golden("params")), latents(how, data))
    reference = from_published({k[5:]: v for k, v in data.items() if k.startswith("grad/")})
    found = jax.tree.map(gradient_deviation, dict(grads), dict(reference))
    return {
        "loss": abs(float(value) / float(data["loss"]) - 1),
        "gradient": max(jax.tree.leaves(found)),
    }


def gradient_deviation(ours, reference):
    """The largest difference over the largest entry. Differences below 1e-9 do not count, because
    some entries are zero.
    """
    difference = np.max(np.abs(np.asarray(ours) - reference))
    return float(max(difference - 1e-9, 0.0) / max(np.max(np.abs(reference)), 1e-30))


def sampler(how, name):
    """The deviation of a sampler's latents, and the share of tokens that differ."""
    data, predictor, params = golden("sampler"), predictor_of(how), from_published(golden("params"))
    gamma, cfg, w = (float(value) for value in data[f"{name}/settings"])
    condition = None
    if "_cond_" in name:
        mask = jnp.asarray(data["cond_mask"]) > 0
        condition = Condition(jnp.asarray(data["cond_latents"]), mask)
    times, noise = jnp.asarray(data.get(f"{name}/times", data["times"])), data["sde_noise"]

    @jax.jit
    def run(params, z, noise):
        predict = predictor.guided(params, w, condition, cfg)
        given = {"gamma": gamma, "noise": lambda index: noise[index], "condition": condition}
        z = sample(predict, z, times, **given)
        return z, decode_tokens(predictor, params, z, w)

    z, tokens = run(params, data["z0"], noise)
    reference = data[f"{name}/tokens"]
    share = float(np.mean(np.asarray(tokens) != reference))
    return {"latents": relative(z, data[f"{name}/latents"]), "tokens": share}


# What is compared -> functions of an `Arithmetic` that give {key of TOLERANCES: deviation}.
CHECKS = {
    "forward": [forward],
    "losses": [lambda how, name=name: loss(how, name) for name in LOSSES],
    "samplers": [lambda how, name=name: sampler(how, name) for name in SAMPLERS],
    "encoder": [encoder],
}


def deviations(how, names=tuple(CHECKS)):
    """The largest deviation of each kind, {key of TOLERANCES: number}.

    Args:
      how: an `Arithmetic`. names: keys of CHECKS.
    """
    checks, worst = [check for name in names for check in CHECKS[name]], {}

    def run(check):
        with jax.default_matmul_precision(how.precision):  # which holds for one thread
            return check(how)

    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for found in pool.map(run, checks):
            for key, value in found.items():
                # A number that is not a number is the worst of all.
                worst[key] = max(worst.get(key, 0.0), value if value == value else float("inf"))
    return worst


def record(title, worst):
    """Records one line. Returns whether all tolerances hold."""
    ratios = [value / TOLERANCES[key] for key, value in worst.items() if TOLERANCES[key]]
    words = [
        f"{key} {value:.1e}" if TOLERANCES[key] else f"other tokens {value:.1%}"
        for key, value in worst.items()
    ]
    results.figure(title, max(ratios), "of its tolerance", ", ".join(words), deviations=worst)
    return all(value <= TOLERANCES[key] for key, value in worst.items())


def attempt(title, how, names):
    """Records one line, also where this arithmetic does not work. Returns whether it is good: it
    works, and if it is `EXACT`, all tolerances hold.
    """
    try:
        holds = record(title, deviations(how, names))
    except Exception as error:  # whatever a compiler or a kernel raises: the others go on
        traceback.print_exc()
        results.figure(title, None, "", f"failed: {' '.join(str(error).split())[:100]}")
        return False
    return holds or title != EXACT


def main():
    """Records a line for each kind of arithmetic; exits with 1 if one of them is not good."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--attentions", default="xla", help="of bfloat16, separated by commas")
    parser.add_argument("--checks", default=",".join(CHECKS), help="what is compared")
    args = parser.parse_args()
    processes.skip_missing_tpu()
    cases = {EXACT: Arithmetic(jnp.float32, "highest", "xla")}
    for attention in args.attentions.split(","):
        cases[f"bfloat16, {attention}"] = Arithmetic(jnp.bfloat16, None, attention)
    cases["float32, default"] = Arithmetic(jnp.float32, None, "xla")
    names = args.checks.split(",")
    good = [attempt(title, how, names) for title, how in cases.items()]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
