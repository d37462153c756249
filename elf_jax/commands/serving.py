"""The command that serves a model as a page in the browser."""

import importlib.util
import os
import pathlib

from elf_jax.commands.shared import check_one_candidate, model_of, say_unused
from elf_jax.core import config as config_module
from elf_jax.core import processes, store
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError


@expanding
def serve(workdir=None, config=None, checkpoint=None, host="127.0.0.1", port=7860, **settings):
    """Serves a page for people who would rather click, until Ctrl-C. See docs/serving.md.

    Args:
      workdir, config, checkpoint, **settings: see the package. The settings are those that the page
        begins with.
      host: the address of this machine to listen at. 127.0.0.1: only this machine can reach the
        page. 0.0.0.0: every machine that reaches this one.
      port: number of the port. 0: any free one.

    Raises:
      UserError: there is no model, the port is in use, or Gradio is not installed.
    """
    check_gradio()
    if processes.count() > 1:
        raise UserError("--mode=serve needs one process, and this job has several: start it alone")
    from elf_jax.pages.served import served_page
    from elf_jax.pages.served_server import address_of, listen, serve_until_interrupted

    with listen(host, port) as listening:
        served = served_model(workdir, config, checkpoint, **settings)
        blocks = served_page(served)
        print(f"serving {served.name} at {address_of(listening)} (Ctrl-C ends it)", flush=True)
        serve_until_interrupted(served, blocks, listening)
    print("stopped")


def check_gradio():
    """Raises UserError if Gradio is not installed. Turns off what it would tell its makers."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    if importlib.util.find_spec("gradio") is None:
        raise UserError("--mode=serve needs Gradio: pip install -e '.[demo]'")


@expanding
def served_model(workdir=None, config=None, checkpoint=None, **settings):
    """The model behind the page, a `ServedModel`. The arguments are those of `serve`.

    Of a distillation it has all students.
    """
    from elf_jax.pages.served_model import ServedModel

    path = checkpoint or workdir
    rounds = _rounds(path)
    if not rounds:
        return ServedModel(_name(path), {None: _loaded(workdir, config, checkpoint, settings)})
    asked = settings.get("steps") or max(rounds)
    usual = min(rounds, key=lambda steps: (abs(steps - asked), -steps))
    models = {}
    for steps, student in rounds.items():
        places = (None, config, student) if checkpoint else (student, config, None)
        models[steps] = _loaded(*places, settings | {"steps": steps})
    return ServedModel(_name(path), models, usual)


def _rounds(path):
    """{steps: workdir of the student} of a distillation; None if the path is none.

    Raises:
      UserError: no round is finished.
    """
    from elf_jax.checkpoints.rounds import is_distilled, round_for, rounds_of

    if path is None:
        return None
    local = store.fetch(path) if store.is_url(str(path)) else pathlib.Path(path).expanduser()
    if not is_distilled(local):
        return None
    round_for(local, 1)  # at least one is finished
    return {one.steps: str(one.workdir) for one in rounds_of(local)}


def _loaded(workdir, config, checkpoint, settings):
    """A `TrainedModel` with settings of the section `sample`."""
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.core.averaging import warn_of_first_weights

    origin, config = model_of(workdir, config, checkpoint)
    config_module.update(config, {f"sample.{name}": value for name, value in settings.items()})
    check_one_candidate(config, "--mode=serve")
    trained = load_trained(origin, config)
    say_unused(trained.method, settings)
    warn_of_first_weights(trained.config, trained.step)
    return trained


def _name(path):
    """A short name of a model: the last part of its path."""
    return pathlib.PurePosixPath(str(path).rstrip("/")).name or str(path)
