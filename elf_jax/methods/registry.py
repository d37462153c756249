"""Builds the method that a config names. Training and sampling both use it."""

from elf_jax.methods.ar.method import ar
from elf_jax.methods.cdcd.method import cdcd
from elf_jax.methods.duo.method import duo
from elf_jax.methods.elf import method as elf
from elf_jax.methods.flm.method import flm
from elf_jax.methods.mdlm.method import llada, mdlm

# config.method -> the module or object with its `build`, `describe`, `kept_meaning` and
# `resolve_paths`.
METHODS = {"elf": elf, "ar": ar, "mdlm": mdlm, "llada": llada, "duo": duo, "cdcd": cdcd, "flm": flm}


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
    return METHODS[config.method].build(config, vocab_size, mesh, home, rows, eos_id)


def describe_method(config, mesh):
    """`build_method` without any data: (a `Method`, `frozen` with shapes instead of arrays)."""
    return METHODS[config.method].describe(config, mesh)


def kept_meaning(config, home):
    """`Method.meaning` of the model in the directory `home`, without building the model."""
    return METHODS[config.method].kept_meaning(config, home)


def resolve_paths(config, home):
    """The config of an export, with relative paths changed to paths in its directory `home`."""
    return METHODS[config.method].resolve_paths(config, home)
