"""Commands for a model as a whole: its export, and what its programs cost."""

import pathlib

from elf_jax.commands import sizes
from elf_jax.commands.shared import model_of
from elf_jax.core import config as config_module
from elf_jax.core import store
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_directory, check_file
from elf_jax.core.workdir import EXPORT


@expanding
def export(workdir=None, config=None, checkpoint=None, output=None, **settings):
    """Exports a trained model as a directory that needs no other files, with a model card.

    Args:
      workdir, config, checkpoint, **settings: see the package. The settings become the defaults of
        the exported model.
      output: directory; None: WORKDIR/export.

    Returns:
      Path of the directory.
    """
    from elf_jax.checkpoints.export import check_free
    from elf_jax.checkpoints.export import export as write
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.evaluation.card import model_card

    origin, config = model_of(workdir, config, checkpoint, settings.get("steps", 0))
    config_module.update(config, {f"sample.{name}": value for name, value in settings.items()})
    home = origin.path if origin.kind == "workdir" else None
    if output is None and home is None:
        raise UserError("--output is missing: name the directory to export to")
    output = home / EXPORT if output is None else pathlib.Path(output)
    check_free(output)
    check_directory(output.resolve().parent, "--output")
    trained = load_trained(origin, config)
    write(trained, output, model_card(trained, (home or output).absolute().name, home))
    if home is not None:
        store.send(home)
    print(f"exported {output}")
    return output


@expanding
def compile_report(config, topology="", program="train", output=None):
    """Compiles a config's program for chips, which need not be there. Says what it needs.

    Args:
      config: see the package. topology: such as "v5p:2x4x4" or "h100"; "": this machine.
      program: "train", "sample" or "distill". output: path of the report as JSON, or None.

    Returns:
      The report, a dict.
    """
    from elf_jax.hardware.compile_report import compile_report as run

    if output:
        check_file(output, "--output")
    return run(sizes.fitted(config, topology=topology), topology, program, output)
