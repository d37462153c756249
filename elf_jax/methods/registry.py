"""A config to its method: the one way to build a model, for training and for sampling alike."""

from elf_jax.methods.elf import method as elf

# config.method -> the module with its `build`, `describe`, `kept_meaning` and `resolve_paths`.
METHODS = {"elf": elf}


def build_method(config, vocab_size, mesh, home=None, rows=None):
    """The method of a whole config, with what it does not train.

    Args:
      config: whole config.
      vocab_size: V, of the tokenizer.
      mesh: the devices. Each gets a whole copy of what is frozen.
      home: directory that keeps what was made from the training data, or None.
      rows: training rows, to make it from where it is not kept.

    Returns:
      (a `Method`, frozen).

    Raises:
      UserError: files of pretrained models that do not load or do not fit.
    """
    return METHODS[config.method].build(config, vocab_size, mesh, home, rows)


def describe_method(config, mesh):
    """`build_method` without any data: (a `Method`, frozen with shapes in place of its arrays)."""
    return METHODS[config.method].describe(config, mesh)


def kept_meaning(config, home):
    """`Method.meaning` of the model in a directory, by its config; nothing is built."""
    return METHODS[config.method].kept_meaning(config, home)


def resolve_paths(config, home):
    """The config of an export, with paths that lead into its directory `home`."""
    return METHODS[config.method].resolve_paths(config, home)
