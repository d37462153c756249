"""The arguments of a method's network that come from the config and the devices."""

from elf_jax.core.types import compute_dtype
from elf_jax.networks.attention import choose


def dtype_of(config, mesh):
    """Type of the computation of a whole config on a mesh."""
    return compute_dtype(config.model.dtype, mesh.devices.flat[0].platform)


def first_target(config):
    """The place at which all targets begin where sources are padded; 0 where they are not, or where
    there are none.
    """
    return config.data.source_length if config.data.pad_source else 0


def backbone_settings(config, mesh):
    """The arguments that every network gives to its `Backbone`, from a whole config, as a dict."""
    model, dtype = config.model, dtype_of(config, mesh)
    attention = choose(
        model.attention,
        mesh.devices.flat[0].platform,
        dtype,
        model.heads,
        model.width // model.heads,
        mesh.shape["tensor"],
    )
    return {
        "depth": model.depth,
        "width": model.width,
        "heads": model.heads,
        "dropout": model.dropout,
        "remat": model.remat,
        "unroll": model.unroll,
        "attention": attention,
        "dtype": dtype,
        "mesh": mesh,
    }
