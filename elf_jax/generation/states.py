"""The states of the rows of a batch, and how they become trajectories, see `trajectory`."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from elf_jax.generation.generate import compiled
from elf_jax.generation.pieces import OPEN, Splitter
from elf_jax.generation.rewrite import rewriter


@dataclasses.dataclass(frozen=True)
class State:
    """A text as it is after a step.

    Attributes:
      step: from 1. time: of the method, see `methods.method.Seen`.
      evaluations: how often the network runs to come to this text, see `Method.costs`.
      entropy: in nats, mean over the sampled positions that have a token; 0 if there are none.
      changed: how many sampled positions have another token than in the state before. In the first
        state these are all that have a token.
      tokens: ids up to the EOS; OPEN (-1) where there is no token yet.
      pieces: a piece of text for each token, see `pieces`; None where there is no token yet.
    """

    step: int
    time: float
    evaluations: int
    entropy: float
    changed: int
    tokens: list[int]
    pieces: list[str | None]
    text: str


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """All states of a sample.

    Attributes:
      sample: its number; of a template, among the samples of the template.
      given: for each position of `pieces`, whether its token was given. It has an entry for each
        position that any state may have.
      source, reference: of a pair, the reference if it is known. template: that was filled.
    """

    sample: int
    states: list[State]
    given: list[bool]
    source: str | None = None
    reference: str | None = None
    template: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """How a row of a batch is shown.

    Attributes:
      positions: [P] integers, the positions of the row that are shown. given: [P] bool.
      split: function from a list of tokens, of the first positions, to their pieces.
      about: the attributes of a `Trajectory` that are not states.
      least: so many positions are shown, even if the EOS is there.
    """

    positions: np.ndarray
    given: np.ndarray
    split: Callable
    about: dict
    least: int = 0

    @classmethod
    def of_text(cls, splitter, length, is_cond=None, **about):
        """The row of a text, of which the condition is not shown.

        Args:
          splitter: a `Splitter`. length: L. is_cond: [L] bool, or None. about: see the class.
        """
        positions = np.arange(length) if is_cond is None else np.flatnonzero(~is_cond)
        return cls(positions, np.zeros(len(positions), bool), splitter.split, about)


class Writer:
    """Writes the states of a `Row`.

    Args:
      eos: id of the end-of-sequence token. costs: see `Method.costs`.
    """

    def __init__(self, row, eos, costs):
        self._row, self._eos, self._costs = row, eos, costs
        self._states, self._before = [], np.full(len(row.positions), OPEN)

    def add(self, seen, index):
        """Adds the state of the row `index` of a `Seen`."""
        row, step = self._row, int(seen.step)
        tokens = np.asarray(seen.tokens[index])[row.positions]
        ends = np.flatnonzero((tokens == self._eos) & ~row.given)
        end = ends[0] if len(ends) else len(tokens)
        is_sampled = (tokens != OPEN) & ~row.given & (np.arange(len(tokens)) < end)
        entropy = np.asarray(seen.entropy[index])[row.positions][is_sampled]
        sampled = np.where(is_sampled, tokens, OPEN)
        kept = tokens[: max(end, row.least)].tolist()
        pieces = row.split(kept)
        self._states.append(
            State(
                step=step + 1,
                time=float(seen.time),
                evaluations=self._costs[step],
                entropy=float(entropy.mean(dtype=np.float64)) if len(entropy) else 0.0,
                changed=int(np.sum(is_sampled & (sampled != self._before))),
                tokens=kept,
                pieces=pieces,
                text="".join(piece for piece in pieces if piece is not None),
            )
        )
        self._before = sampled

    def trajectory(self):
        """The `Trajectory` of the states so far."""
        return Trajectory(
            states=list(self._states), given=self._row.given.tolist(), **self._row.about
        )


def recorded_run(trained):
    """The function run(arguments, see) -> tokens [B, L] that runs the whole sampler, and then calls
    `see` with a `Seen` of NumPy arrays for each state. It compiles once for each shape.

    `arguments` are those of `Method.sampler`.
    """
    config = trained.config
    return _recorded(
        trained, trained.method.sampler(config.sample, config.data.length, lambda seen: seen)
    )


def recorded_rewriting(trained):
    """`recorded_run` of `rewrite.rewriter`. `arguments` are those of `Method.rewriter`."""
    return _recorded(trained, rewriter(trained, lambda seen: seen))


def _recorded(trained, function):
    """See `recorded_run`. function: it returns (tokens, a `Seen` of all states)."""
    states = compiled(trained, function)

    def run(arguments, see):
        tokens, seen = jax.device_get(states(*arguments))
        for index in range(len(seen.step)):
            see(jax.tree.map(lambda array, index=index: array[index], seen))
        return tokens

    return run


class Batches:
    """A sampler for `generate.run_batch` that keeps the trajectories of its rows.

    Attributes:
      splitter: of the model's tokenizer. length: L.

    Args:
      trained: a `TrainedModel`.
      rows: function from the number of rows of a batch, and `is_cond` [B, L] or None, to the `Row`s
        that are shown, the first ones of the batch.
      run, tell: see `trajectory.texts`.
      before: how often the network runs before the states.
    """

    def __init__(self, trained, rows, run=None, tell=None, before=0):
        config = trained.config
        self.splitter, self.length = Splitter(trained.tokenizer), config.data.length
        self._rows, self._tell, self._writers = rows, tell, []
        self._run = recorded_run(trained) if run is None else run
        self._eos = trained.tokenizer.eos_token_id
        costs = trained.method.costs(config.sample, config.data.length)
        self._costs = [before + cost for cost in costs]
        self._whole = compiled(trained, lambda array: array)  # so that every process has all of it

    def __call__(self, *arguments):
        ids, given = arguments[2:4]
        is_cond = None if given is None else np.asarray(self._whole(given.is_cond))
        self._writers = [
            Writer(row, self._eos, self._costs) for row in self._rows(len(ids), is_cond)
        ]
        self.splitter.forget()

        def see(seen):
            for index, writer in enumerate(self._writers):
                writer.add(seen, index)
            if self._tell is not None:
                self._tell(self.made())

        return self._run(arguments, see)

    def made(self):
        """The trajectories of the newest batch."""
        return [writer.trajectory() for writer in self._writers]
