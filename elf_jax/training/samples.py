"""Samples of a training that goes on: the same few at every validation, so that one sees text
become text.

They are the first samples of config.sample.seed, made with the settings of the section `sample`. So
those of the last step are what `--mode=sample` gives after the training. They use no random number
of the training and change nothing in it.
"""

import dataclasses
import json
import pathlib
import textwrap

from elf_jax.checkpoints.trained import TrainedModel
from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_text
from elf_jax.core.workdir import TRAINING_SAMPLES, TRAINING_SAMPLES_TEXT
from elf_jax.data.packing import Rows
from elf_jax.data.shards import PreparedRows
from elf_jax.data.tokenizer import decode
from elf_jax.generation.generate import generate, jit_sampler
from elf_jax.training.metrics_log import read_lines

PAIR = ("source", "reference")  # what the samples of a model of pairs also have
TAG = "samples"  # in TensorBoard
WIDTH = 100  # of a line in TensorBoard, in characters


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Makes the samples of a training, and keeps them in its workdir. It compiles once.

    Attributes:
      workdir: of the training.
      model: `TrainedModel`; its parameters and its step are not used.
      count: number of samples. rows: held-out rows with their conditions; None: text.
      pairs: for each sample {"source": ..., "reference": ...}; {} for text.
      run: a `jit_sampler` of the model.
    """

    workdir: pathlib.Path
    model: TrainedModel
    count: int
    rows: Rows | PreparedRows | None
    pairs: list
    run: object

    def __call__(self, state, step):
        """Makes the samples of a step. All processes take part; the first one writes.

        Args:
          state: `TrainState`. step: its number of finished steps.

        Returns:
          {tag: text}, for TensorBoard.
        """
        settings = self.model.config.sample
        params = {"ema": state.ema, "live": state.params}[settings.weights]
        model = dataclasses.replace(self.model, params=params, step=step)
        tokens = generate(model, self.count, settings.seed, self.rows, run=self.run)
        records = [
            {"step": step, "sample": number, **pair, "text": text}
            for number, (pair, text) in enumerate(
                zip(self.pairs, decode(model.tokenizer, tokens), strict=True)
            )
        ]
        processes.on_first(lambda: _keep(self.workdir, records, step))
        return {f"{TAG}/{one['sample']}": _as_markdown(one) for one in records}


def make_sampling(config, workdir, dataset, mesh, method, frozen):
    """The `Sampling` of a training; None if it makes no samples.

    Args:
      config: whole config. workdir: of the training. dataset: its `Dataset`.
      mesh, method, frozen: see `trainer.Training`.
    """
    count, rows, pairs = config.train.samples, None, [{}] * config.train.samples
    if dataset.conditional:
        rows = dataset.validation
        examples = dataset.validation_examples[:count]
        pairs = [dict(zip(PAIR, (one.source, one.text), strict=True)) for one in examples]
        count = len(pairs)
    if not count:
        return None
    model = TrainedModel(config, dataset.tokenizer, method, frozen, {}, {}, 0, mesh, str(workdir))
    return Sampling(pathlib.Path(workdir), model, count, rows, pairs, jit_sampler(model))


def read_samples(workdir):
    """The records of a workdir's samples, a list of dicts in the order of the steps; empty if there
    are none. A record has "step", "sample", "text", and for pairs "source" and "reference".

    Raises:
      UserError: a line is damaged.
    """
    path = pathlib.Path(workdir) / TRAINING_SAMPLES
    records = read_lines(path)
    for number, one in enumerate(records, 1):
        texts = [one.get("text"), *(one[name] for name in PAIR if name in one)]
        if type(one.get("sample")) is not int or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{path} line {number} is damaged (it is no sample): remove the line, or move the "
                "file away"
            )
    return records


def forget_after(workdir, step):
    """Removes the samples after a step, which are of a run that was killed. The first process calls
    it.

    Raises:
      UserError: a line of the file is damaged.
    """
    workdir = pathlib.Path(workdir)
    records = read_samples(workdir)
    kept = [one for one in records if one["step"] <= step]
    is_whole = (workdir / TRAINING_SAMPLES_TEXT).is_file()
    if len(kept) < len(records) or (records and not is_whole):
        _write(workdir, kept)


def written(workdir):
    """(number of steps that a workdir has samples of, path of the file for reading); None if there
    are none.
    """
    steps = {one["step"] for one in read_samples(workdir)}
    return (len(steps), pathlib.Path(workdir) / TRAINING_SAMPLES_TEXT) if steps else None


def _keep(workdir, records, step):
    # A step that was saved but not logged before the program was killed comes a second time.
    before = [one for one in read_samples(workdir) if one["step"] < step]
    _write(workdir, before + records)


def _write(workdir, records):
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    write_text(workdir / TRAINING_SAMPLES, "".join(lines))
    write_text(workdir / TRAINING_SAMPLES_TEXT, _as_text(records))


def _as_text(records):
    """The samples for reading: each sample with its steps beneath each other."""
    width = max((len(str(one["step"])) for one in records), default=0)
    names = max(len("step ") + width, *(len(name) for name in PAIR))
    parts = []
    for number in sorted({one["sample"] for one in records}):
        own = [one for one in records if one["sample"] == number]
        lines = [(name, own[-1][name]) for name in PAIR if name in own[-1]]
        lines += [(f"step {one['step']:>{width}}", one["text"]) for one in own]
        parts.append(f"sample {number}\n" + "".join(_line(*line, names) for line in lines))
    return "\n".join(parts)


def _line(name, text, width):
    """A text behind its name. All its lines begin in the same column."""
    first, *more = text.splitlines() or [""]
    return "".join(
        f"  {name:{width}}  {line}".rstrip() + "\n"
        for name, line in [(name, first), *(("", line) for line in more)]
    )


def _as_markdown(record):
    """A sample as Markdown for TensorBoard: indented, so that nothing in it is markup."""
    parts = [f"{name}:\n{record[name]}" for name in PAIR if name in record]
    lines = "\n\n".join([*parts, record["text"]]).splitlines()
    wrapped = (textwrap.wrap(line, WIDTH, break_on_hyphens=False) or [""] for line in lines)
    return "\n".join(f"    {line}" for part in wrapped for line in part)
