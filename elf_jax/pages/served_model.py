"""The model behind the served page: its settings, its programs, and one visitor's work with it."""

import dataclasses
import time
import weakref

import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.generation import live, trajectory
from elf_jax.pages.served_checks import check_lines, check_text, check_values
from elf_jax.pages.served_programs import Programs
from elf_jax.pages.served_run import Run, Turns
from elf_jax.pages.served_settings import ANSWER, SAMPLE, settings_of
from elf_jax.pages.served_tasks import NAMES, TASKS, Answer, tasks_of

AT_A_TIME = 2  # visitors whose texts are made at the same time; the others wait
MOST_KEPT = 1_000_000  # tokens of all states of all texts; with more, some states are left out
MOST_SHOWN = 100_000  # tokens of all states in the view of the finished texts
MOST_WATCHED = 8  # texts in it


@dataclasses.dataclass(frozen=True)
class Waiting:
    """An update of the work: it waits for its turn."""


@dataclasses.dataclass(frozen=True)
class Compiling:
    """An update of the work: a program is being compiled. what: for which settings, for people."""

    what: str


@dataclasses.dataclass(frozen=True)
class Running:
    """An update of the work: the program runs, and there is no text to see yet."""


@dataclasses.dataclass(frozen=True)
class Step:
    """An update of the work: the texts after a step.

    Attributes:
      step: from 1 to `steps`. texts: the pieces of each text, see `trajectory.State`.
    """

    step: int
    steps: int
    texts: list


class ServedModel:
    """One model, or the students of a distillation by their number of steps.

    Attributes:
      name: for the page. tasks: {task: list of `Setting`}.

    Args:
      models: {steps: `TrainedModel`}. A model that takes any number of steps has the key None.
      usual: the key of the model whose settings are those at the start.
    """

    def __init__(self, name, models, usual=None):
        self.name, self._models, self._usual = name, models, models[usual]
        self._programs = {key: Programs() for key in models}
        # On several devices, two programs at a time could wait for each other for ever.
        at_a_time = AT_A_TIME if self._usual.mesh.size == 1 else 1
        self._turns, self._runs = Turns(at_a_time), weakref.WeakSet()
        steps = tuple(sorted(key for key in models if key is not None))
        self.tasks = {
            task: settings_of(self._usual.config, self._usual.method, task, steps)
            for task in tasks_of(self._usual)
        }

    @property
    def config(self):
        """The config of the model; of a distillation, that of the usual student."""
        return self._usual.config

    @property
    def method(self):
        """The `Method`."""
        return self._usual.method

    @property
    def most_lines(self):
        """How many sources are answered at once."""
        return self.config.sample.batch_size

    def begin(self, task, text, values, finish=lambda answer: answer):
        """A `Run` that does a task. Its result is that of `finish`; what is not allowed is refused.

        Args:
          task: of `tasks`. text: from the visitor, of any type; for SAMPLE it is not read.
          values: from the visitor, one for each setting of the task.
          finish: function of the `Answer`, which is also called in the thread of the run.
        """
        run = Run(lambda run: finish(self._answer(task, text, values, run)))
        self._runs.add(run)
        return run

    def stop(self, seconds):
        """Cancels all work, and waits at most so many seconds. Returns whether all has ended."""
        end = time.monotonic() + seconds
        return all([run.cancel(max(end - time.monotonic(), 0)) for run in list(self._runs)])

    def _answer(self, task, text, values, run):
        values = check_values(self.tasks[task], values)
        if task == ANSWER:
            text = check_lines(text, NAMES[task], self.most_lines)
        elif task != SAMPLE:
            text = check_text(text, NAMES[task])
        try:
            with self._turns.take(run, lambda: run.tell(Waiting())):
                return TASKS[task](self._work(values, run), text, values)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{NAMES.get(task)}: ")) from None

    def _work(self, values, run):
        """A `Work` with these settings."""
        key = values.get("steps") if None not in self._models else None
        model = self._models[key]
        config = model.config.copy_and_resolve_references()
        for name in values.keys() & set(config.sample):
            config.sample[name] = values[name]
        config.fill.gap = values.get("gap", config.fill.gap)
        model = dataclasses.replace(model, config=config)
        return Work(self.name, model, self._programs[key], run)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a task needs.

    Attributes:
      name: of the model. trained: the `TrainedModel`, with the settings of a visitor.
      programs: the compiled programs of the model. run: the `Run` of the visitor.
    """

    name: str
    trained: object
    programs: Programs
    run: Run

    def watching(self, rewrites=False):
        """(run, tell) as the functions of `generation.trajectory` take them. rewrites: whether they
        are for `trajectory.rewrites`.
        """
        make = live.jit_live_rewriter if rewrites else live.jit_live
        config, method = self.trained.config, self.trained.method
        steps = len(method.costs(config.sample, config.data.length))

        def run(arguments, see):
            rows = len(arguments[2])
            every = -(-rows * config.data.length * steps // MOST_KEPT)
            ticket = np.int32(0)
            program = self._program(make, (*arguments, ticket))
            if rewrites:
                self.run.tell(Running())

            def see_some(seen):
                self.run.check()
                if (seen.step + 1) % every == 0 or seen.step == steps - 1:
                    see(seen)

            return live.live_run(self.trained, program, self.run.check)(arguments, see_some)

        def tell(trajectories):
            states = [one.states[-1] for one in trajectories]
            pieces = [state.pieces for state in states]
            self.run.tell(Step(max(state.step for state in states), steps, pieces))

        return run, tell

    def _program(self, function, arguments):
        """The compiled program of a function that makes a jitted one of a `TrainedModel`."""
        method, settings = self.trained.method, self.trained.config.sample
        what = f" for {settings.steps:,} steps" if "steps" in method.settings else ""
        return self.programs.get(
            (function, method.compiled_for(settings)),
            lambda: function(self.trained),
            arguments,
            lambda: self.run.tell(Compiling(what)),
        )

    def watched(self, trajectories, **settings):
        """An `Answer` with the texts that trajectories end with. The view has the first ones, so
        that the page stays small. settings: see `trajectory.watched`.
        """
        found = list(trajectories)
        size = sum(len(state.pieces) for state in found[0].states)
        count = min(max(MOST_SHOWN // max(size, 1), 1), MOST_WATCHED)
        shown = trajectory.watched(self.trained, self.name, found[:count], **settings)
        return Answer([one.states[-1].text for one in found], shown)
