"""Builds the method that a config names. Training and sampling both use it."""

import pkgutil

from elf_jax.core.errors import UserError

# config.method -> the module, or MODULE:OBJECT, with its `build`, `describe`, `kept_meaning` and
# `resolve_paths`. Only the method of the config is imported: all of them take half a second.
METHODS = {
    "elf": "elf_jax.methods.elf.method",
    "ar": "elf_jax.methods.ar.method:ar",
    "mdlm": "elf_jax.methods.mdlm.method:mdlm",
    "llada": "elf_jax.methods.mdlm.method:llada",
    "duo": "elf_jax.methods.duo.method:duo",
    "cdcd": "elf_jax.methods.cdcd.method:cdcd",
    "flm": "elf_jax.methods.flm.method:flm",
}


def build_method(config, vocab_size, mesh, home=None, rows=None, eos_id=None):
    """The method of a whole config, with the arrays that are not trained.

    Args:
      config: whole config.
      vocab_size: V, of the tokenizer.
      mesh: the devices. Each device gets a full copy of the frozen arrays.
      home: directory with frozen parts that were made from the training data, or None.
      rows: training rows, from which these parts are made if `home` does not have them.
      eos_id: id of the end-of-sequence token, for samplers that must know where a text ends.

    Returns:
      (a `Method`, frozen).

    Raises:
      UserError: files of a pretrained model cannot be loaded or do not fit.
    """
    return _family(config).build(config, vocab_size, mesh, home, rows, eos_id)


def describe_method(config, mesh):
    """`build_method` without any data: (a `Method`, `frozen` with shapes instead of arrays)."""
    return _family(config).describe(config, mesh)


def kept_meaning(config, home):
    """`Method.meaning` of the model in the directory `home`, without building the model."""
    return _family(config).kept_meaning(config, home)


def resolve_paths(config, home):
    """The config of an export, with relative paths changed to paths in its directory `home`."""
    return _family(config).resolve_paths(config, home)


def _family(config):
    """The module or object of METHODS.

    Raises:
      UserError: there is no such method, as in a config.json that was changed by hand.
    """
    if config.method not in METHODS:
        raise UserError(
            f"config.method is {config.method!r}: use one of {', '.join(METHODS)}, or restore the "
            "config.json of the model"
        )
    return pkgutil.resolve_name(METHODS[config.method])
