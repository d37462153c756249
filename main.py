"""ELF-JAX: train a text diffusion model, sample from it, evaluate it.

  python main.py --config=configs/quickstart.py                     train (goes on where it stopped)
  python main.py --config=configs/quickstart.py --workdir=runs/mine --config.train.batch_size=64
  python main.py --mode=sample --workdir=runs/quickstart            print text
  python main.py --mode=fill --workdir=runs/quickstart --text="latin ___ letter [[1]] with acute"
  python main.py --mode=rewrite --workdir=runs/quickstart --text="greek letter pi" --strength=0.4
  python main.py --mode=evaluate --workdir=runs/quickstart          print and store its numbers
  python main.py --mode=sweep --workdir=runs/quickstart --steps=16,32 --guidance_scale=1,2,3
  python main.py --mode=compare --workdirs=runs/quickstart,runs/quickstart_mdlm     one table
  python main.py --mode=export --workdir=runs/quickstart            safetensors with a model card
  python main.py --mode=distill --workdir=runs/fast --teacher=runs/quickstart      few steps

your own text (globs, comma-separated, .gz, .zst; jsonl and .parquet too):
  python main.py --config=configs/quickstart.py --workdir=runs/book \\
      --config.data.kind=text --config.data.path=book.txt

flags:
  --config=FILE            a config, also FILE:METHOD (docs/methods.md); needed to train. Every key
                           can be set, as above (elf_jax/core/defaults.py lists all of them)
  --workdir=DIR            where everything is kept; default: runs/NAME, after the config
  --mode=MODE              train, sample, fill, rewrite, evaluate, sweep, compare, export: as above;
    distill                train students of --teacher=PATH|NAME that sample in few steps; its
                           config is that of the teacher, and keys of it can be set
    prepare                turn the config's data into shards that training reads at random
    pretrain_encoder       an encoder from scratch on the config's data, into WORKDIR/encoder
    train_scorer           a small GPT-2 on the config's data, for its Gen. PPL
    compile                will it fit, how fast will it be: --topology=v5p:2x4x4 (or the devices
                           that are there) --program=train|sample|distill --output=report.json
  --checkpoint=PATH|NAME   the model to use, or to start training from, in place of the workdir's:
                           a workdir, an export, a published checkpoint (Orbax directory or msgpack
                           file; needs --config), or a name on the Hugging Face hub
for fill and rewrite:
  --text=TEXT              fill: ___ is a gap, [[3]] a gap of 3 tokens (docs/filling.md);
                           --gap=N: the most tokens of a gap ___
                           rewrite: --strength=X: from 0, the text itself, to 1, a new text
for sample, fill, rewrite, export and compare:
  --source=FILE            each line is answered, filled or rewritten, in order (-: standard input;
                           .jsonl, .parquet: field config.data.source_field; fill, rewrite: .field)
  --format=text|jsonl      in text, line breaks inside an answer become spaces
  --output=PATH            file of samples, directory of export (WORKDIR/export) or of compare
for sample, fill, rewrite, evaluate, sweep and compare (default: the workdir's; the last two take
lists: 16,32)
  --num_samples=N          how many texts (fill, rewrite: of each line); --seed=N: of the samples
  --steps=N                sampling steps; --time_grid=uniform|logit_normal|logit_normal_quantile
  --sampler=NAME           elf: ode or sde; --gamma=X: how much noise a step of sde puts back;
                           --gamma_schedule=constant|linear: linear falls to zero with time
  --guidance_scale=X       self-conditioning guidance w; --cfg_scale=X: on the condition, c; 1: none
  --temperature=X --top_p=X --beams=N --length_penalty=X --block_length=N   (other methods than elf)
  --weights=ema|live       (export too)
  --scorer=PATH|NAME       the GPT-2 of Gen. PPL (evaluate, sweep, compare)
"""

from absl import app, logging

from elf_jax import command_line, commands
from elf_jax.core import console, processes

MODES = {
    "train": commands.train,
    "sample": commands.sample,
    "evaluate": commands.evaluate,
    "sweep": commands.sweep,
    "compare": commands.compare,
    "fill": commands.fill,
    "rewrite": commands.rewrite,
    "export": commands.export,
    "distill": commands.distill,
    "prepare": commands.prepare,
    "pretrain_encoder": commands.pretrain_encoder,
    "train_scorer": commands.train_scorer,
    "compile": commands.compile_report,
}
command_line.define_flags(MODES)


def run(argv):
    """Carries out the mode; bad input becomes one line and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    with console.errors_as_one_line():
        command, arguments = command_line.command_of(argv, MODES)
        processes.start()
        command(**arguments)


def parse(argv):
    """The flags of a command line; --help prints the text above."""
    console.open_output()
    with console.errors_as_one_line():
        return command_line.parse(argv, __doc__)


if __name__ == "__main__":
    app.run(run, flags_parser=parse)
