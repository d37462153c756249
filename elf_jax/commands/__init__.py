"""What the command line does, as functions with plain arguments.

`main.py` calls them, and so can a notebook or another program:

    from elf_jax import commands

    config = commands.load_config("configs/quickstart.py", **{"train.batch_size": 64})
    commands.train(config, "runs/quickstart")
    commands.sample("runs/quickstart", num_samples=4, steps=32)

The functions share these arguments:

  workdir: directory of a training run, on this machine or in a store (gs://BUCKET/RUN).
  config: a config as `load_config` returns it. None: that of the workdir or the checkpoint.
  checkpoint: the model to use in place of the workdir's: a workdir, an export, a published
    checkpoint (needs a config), or a name on the Hugging Face hub.
  **settings: values of the config's section `sample`, such as steps=32.

In all paths, also in those of a config, `~` at the start is the home directory.
Bad input raises `elf_jax.core.errors.UserError`, whose message is one line.
"""

from elf_jax.commands.filling import fill, fills, rewrite, rewrites
from elf_jax.commands.models import compile_report, export
from elf_jax.commands.sampling import sample, samples
from elf_jax.commands.scoring import compare, curves, evaluate, sweep
from elf_jax.commands.serving import serve, served_model
from elf_jax.commands.training import (
    distill,
    load_config,
    prepare,
    pretrain_encoder,
    train,
    train_scorer,
)
from elf_jax.commands.watching import trajectories, watch
from elf_jax.core import processes

processes.skip_missing_tpu()  # here, because it must come before the first computation

__all__ = [
    "compare",
    "compile_report",
    "curves",
    "distill",
    "evaluate",
    "export",
    "fill",
    "fills",
    "load_config",
    "prepare",
    "pretrain_encoder",
    "rewrite",
    "rewrites",
    "sample",
    "samples",
    "serve",
    "served_model",
    "sweep",
    "train",
    "train_scorer",
    "trajectories",
    "watch",
]
