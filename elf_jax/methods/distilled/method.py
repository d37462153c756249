"""ELF with the loss of a distillation. It is only trained with: the student is an ordinary ELF.

The teacher's parameters are `frozen["teacher"]`. They have the tree and the layout of the student's
parameters, so a mesh that splits these splits the teacher too.
"""

import dataclasses

import jax

from elf_jax.core import rng
from elf_jax.core.errors import UserError
from elf_jax.methods.distilled import objective
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.method import CURVES, ELFMethod
from elf_jax.methods.elf.objective import loss_sums

TITLES = {"x": "squared error of x", "velocity": "squared error of velocities"}


@dataclasses.dataclass(frozen=True)
class DistilledELF(ELFMethod):
    """See `methods.method.Method`. All members but those below are ELF's.

    Attributes:
      steps: N, the student's steps from noise to data; a step has the span h = 1 / N.
      substeps: K, the teacher's steps in one step of the student.
      target: one of `objective.TARGETS`. error: see `objective.squared_error`.
      times: see `objective.start_times`.
    """

    steps: int
    substeps: int
    target: str
    error: str
    times: str

    shown = {"distill_loss": "distill", "decode_loss": "decode", "decode_accuracy": "accuracy"}

    @property
    def curves(self):
        """See `Method`."""
        title = f"distillation loss ({TITLES[self.error]})"
        return {"distill_loss": title} | {
            name: text for name, text in CURVES.items() if name.startswith("decode_")
        }

    def loss(self, params, frozen, batch, counted, ids, context):
        """The mixed loss, in which rows that denoise learn from frozen["teacher"]."""
        dealt = self.dealt(frozen, batch, counted, ids, context)
        dealt, times = self._drawn(dealt)
        has_dropout = context.is_training and self.predictor.network.dropout > 0
        dropout = rng.stream(context.key, "dropout") if has_dropout else None
        inputs = frozen["teacher"], dealt, times, self.law, self.error, dropout
        target = objective.TARGETS[self.target], context.ema
        hidden, error = objective.errors(self.predictor, params, *inputs, *target)
        rows = dealt.batch.tokens, dealt.counted, dealt.draws, dealt.split
        sums = loss_sums(self.predictor, params, hidden, error, *rows, first=self.first)
        return sums.denoise + sums.decode, sums._asdict()

    def _drawn(self, dealt):
        """(the rows with s as their time, the times of the teacher's steps [B, K + 1])."""
        law, draws = self.law, dealt.draws

        def streams(name):
            return jax.vmap(lambda key: rng.stream(key, name))(dealt.keys)

        uniform = rng.uniform(streams("span"))
        start = objective.start_times(self.times, draws.t, uniform, self.steps)
        normal = rng.normal(streams("substeps"), (self.substeps - 1,))
        inner = flow.logit_normal(normal, law.time_mean, law.time_std)
        times = objective.span_times(start, 1 / self.steps, inner)
        return dealt._replace(draws=draws.replace(t=start)), times

    def metrics(self, loss, sums, positions):
        """The mixed loss, its two parts, and the accuracy of decode mode. A student has no loss of
        noisy tokens.
        """
        found = ELFMethod.metrics(self, loss, sums, positions)
        found.pop("token_loss", None)
        return {name.replace("denoise", "distill"): value for name, value in found.items()}

    def loss_settings(self):
        """Those of ELF, and those of the round."""
        own = ("steps", "substeps", "target", "error", "times")
        return {**ELFMethod.loss_settings(self), **{name: getattr(self, name) for name in own}}


def distilled(method, settings, steps, substeps):
    """The method of a round of distillation.

    Args:
      method: the `ELFMethod` of teacher and student.
      settings: config section `distill`. steps: N. substeps: K.

    Raises:
      UserError: another method than ELF, or an ELF that writes in blocks.
    """
    if method.name != ELFMethod.name:
        raise UserError(
            f"the teacher's method is {method.name}, and only elf can be distilled: use a teacher "
            "of that method"
        )
    if method.blocks:
        raise UserError(
            f"the teacher writes in blocks (config.model.block_length is {method.blocks.size}), "
            "and only whole rows can be distilled: use a teacher that was trained with 0"
        )
    fields = {one.name: getattr(method, one.name) for one in dataclasses.fields(method)}
    return DistilledELF(
        **fields,
        steps=steps,
        substeps=substeps,
        target=settings.objective,
        error=settings.loss,
        times=settings.times,
    )


# config.distill.teacher -> function (steps of the first teacher, those of the students) to those of
# the teacher in each round, from noise to data.
TEACHERS = {
    "first": lambda substeps, steps: (substeps,) * len(steps),
    "previous": lambda substeps, steps: (substeps, *steps[:-1]),
}


def plan(settings):
    """The rounds of a distillation, [(N, K), ...]: steps of the student, and of the teacher in one
    of them.

    Args:
      settings: config section `distill`.
    """
    before = TEACHERS[settings.teacher](settings.substeps, settings.steps)
    return [(n, there // n) for n, there in zip(settings.steps, before, strict=True)]
