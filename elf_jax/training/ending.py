"""How a training ends: it draws its picture and says what there is to look at."""

from elf_jax.core import store
from elf_jax.training import samples

OF_AVERAGE = "held out, averaged weights"  # what the main training and distillation validate


def finish(run, curves, held_out="held out"):
    """Draws the loss curves of a finished training. The first process calls it.

    Args:
      run: a `loop.Run`. curves, held_out: see `draw_curve`.

    Returns:
      Text that says where its pictures and samples are, one line each.

    Raises:
      UserError: a line of the log or of the samples is damaged.
    """
    from elf_jax.training.curve import draw_curve  # matplotlib, which no step needs

    lines = [f"loss curves: {store.location(draw_curve(run.workdir, curves, held_out))}"]
    made = samples.written(run.workdir)
    if made is not None:
        steps, path = made
        time = f" (made in {run.sampling_seconds:.0f} s)" if run.sampling_seconds else ""
        of = f"{steps} step{'s' * (steps != 1)}"
        lines.append(f"samples of {of}: {store.location(path)}{time}")
    return "\n".join(lines)
