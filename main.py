"""ELF-JAX: train a text diffusion model, sample from it, evaluate it.

  python main.py --config=configs/quickstart.py                     train (goes on where it stopped)
  python main.py --config=configs/quickstart.py --workdir=runs/mine --config.train.batch_size=64
  python main.py --mode=sample --workdir=runs/quickstart            print text
  python main.py --mode=fill --workdir=runs/quickstart --text="latin ___ letter [[1]] with acute"
  python main.py --mode=rewrite --workdir=runs/quickstart --text="greek letter pi" --strength=0.4
  python main.py --mode=watch --workdir=runs/quickstart             a page: text as it settles
  python main.py --mode=serve --workdir=runs/quickstart             a page to click on; --port=7860
  python main.py --mode=evaluate --workdir=runs/quickstart          print and store its numbers
  python main.py --mode=sweep --workdir=runs/quickstart --steps=16,32 --guidance_scale=1,2,3
  python main.py --mode=compare --workdirs=runs/quickstart,runs/quickstart_mdlm     one table
  python main.py --mode=export --workdir=runs/quickstart            safetensors with a model card
  python main.py --mode=distill --workdir=runs/fast --teacher=runs/quickstart      few steps

your own text (globs, comma-separated, .gz, .zst; jsonl and .parquet too):
  python main.py --config=configs/text.py --config.data.path=book.txt      sizes fit the data

flags (README.md and docs/ tell more):
  --config=FILE            a config, also FILE:METHOD; --config.KEY=X sets a key (core/defaults.py)
  --workdir=DIR            where everything is kept; default: runs/NAME, after the config
  --mode=MODE              also prepare (shards of the data), pretrain_encoder, train_scorer, and
                           compile --topology=v5p:2x4x4|h100 --program=train|sample|distill: fits?
  --checkpoint=PATH|NAME   the model to use, or to start training from: a workdir, an export, a
                           published checkpoint (needs --config), or a name on the Hugging Face hub
  --text=TEXT              fill: ___ is a gap (--gap=N: of at most N tokens), [[3]] one of 3 tokens
                           rewrite, watch: --strength=X from 0, the text itself, to 1, a new text
  --source=FILE            each line is answered, filled or rewritten; -: standard input; .jsonl too
  --format=text|jsonl      watch: html|jsonl; --output=PATH: file, directory of export or compare
  --port=N --host=ADDRESS  serve: where the page is; default: 7860 at 127.0.0.1, this machine only
  --workdirs=A,B           compare: one table; curves: all checkpoints, over the time of training
                           watch: side by side, in step by network evaluations
sampling (default: the workdir's settings; sweep and compare take lists, such as --steps=16,32):
  --num_samples=N          how many texts (fill, rewrite: of each line); --seed=N: of the samples
  --steps=N                sampling steps; --time_grid=uniform|logit_normal|logit_normal_quantile
  --sampler=NAME           elf: ode or sde; --gamma=X: noise of an sde step; --gamma_schedule=linear
  --guidance_scale=X       self-conditioning guidance w; --cfg_scale=X: on the condition, c; 1: none
  --noise_temperature=X    elf: all noise times X; --token_temperature=X: near 0, likely words
  --temperature=X --top_p=X --beams=N --length_penalty=X --block_length=N   (other methods than elf)
  --weights=ema|live       (export too); --scorer=PATH|NAME: the GPT-2 of Gen. PPL
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
    "curves": commands.curves,
    "fill": commands.fill,
    "rewrite": commands.rewrite,
    "watch": commands.watch,
    "serve": commands.serve,
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
