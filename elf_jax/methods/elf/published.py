"""Translates the parameter names of the published implementation to the names of this package.

The published implementation has one subtree for each layer (`blocks_0`, `blocks_1`, ...). Here, all
layers are stacked along a leading axis.
"""

import re

import numpy as np
from flax import traverse_util

NAMES = {
    "t_emb_tokens": "time_token",
    "self_cond_cfg_tokens": "guidance_token",
    "mode_tokens": "mode_token",
    "t_embedder/mlp_0": "time_embedder/in",
    "t_embedder/mlp_2": "time_embedder/out",
    "self_cond_cfg_embedder/mlp_0": "guidance_embedder/in",
    "self_cond_cfg_embedder/mlp_2": "guidance_embedder/out",
    "self_cond_proj": "self_cond_proj",
    "text_proj/proj1": "text_in",
    "text_proj/proj2": "text_out",
    "final_layer/norm_final": "final_norm",
    "final_layer/linear": "x_out",
    "proj_kernel": "decode_proj/kernel",
    "proj_bias": "decode_proj/bias",
    "unembed_kernel": "unembed/kernel",
    "unembed_bias": "unembed/bias",
    "blocks/norm1": "blocks/norm1",
    "blocks/norm2": "blocks/norm2",
    "blocks/attn/qkv": "blocks/attn/qkv",
    "blocks/attn/q_norm": "blocks/attn/q_norm",
    "blocks/attn/k_norm": "blocks/attn/k_norm",
    "blocks/attn/proj": "blocks/attn/out",
    "blocks/mlp/w12": "blocks/mlp/in",
    "blocks/mlp/w3": "blocks/mlp/out",
}


def from_published(flat):
    """The parameter tree of this package from the parameters of the published implementation.

    Args:
      flat: {"a/b/c": array}, with the published names and shapes.

    Returns:
      Nested dict of float32 arrays; layers stacked along axis 0.

    Raises:
      KeyError: a name that the published network does not have.
    """
    layers, ours = {}, {}
    for name, value in flat.items():
        block = re.match(r"blocks_(\d+)/(.*)", name)
        if block:
            layers.setdefault(f"blocks/{block[2]}", {})[int(block[1])] = np.asarray(value)
        else:
            value = np.asarray(value)
            # The published learned tokens have a batch axis of size 1.
            ours[_translate(name)] = value[0] if name.endswith("_tokens") else value
    for name, by_depth in layers.items():
        ours[_translate(name)] = np.stack([by_depth[depth] for depth in range(len(by_depth))])
    return traverse_util.unflatten_dict(
        {name: value.astype(np.float32) for name, value in ours.items()}, sep="/"
    )


def _translate(name):
    if name in NAMES:
        return NAMES[name]
    parent, leaf = name.rsplit("/", 1)
    return f"{NAMES[parent]}/{'scale' if leaf == 'weight' else leaf}"
