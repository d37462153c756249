"""A program is compiled in the background, once, and its faults are those of its first call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax import commands
from elf_jax.core import ahead, processes
from elf_jax.training import trainer
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def in_background(monkeypatch):
    monkeypatch.setattr(ahead, "IN_BACKGROUND", True)


@pytest.fixture
def compiled():
    """The names of the programs that are compiled from here on, a list."""
    names = []

    def listen(event, seconds, **about):
        del seconds
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_it_is_compiled_once(compiled):
    def cubed(x):
        return x**3

    run = ahead.compiled_ahead(jax.jit(cubed), np.ones(3, np.float32))
    assert run(np.full(3, 2, np.float32)).tolist() == [8.0, 8.0, 8.0]
    assert compiled.count("jit(cubed)") == 1
    assert run(np.full(4, 2, np.float32)).tolist() == [8.0] * 4  # another shape works as well


def test_what_fails_fails_in_the_first_call():
    def wrong(x):
        raise ValueError("this cannot be traced")

    run = ahead.compiled_ahead(jax.jit(wrong), jnp.ones(3))
    with pytest.raises(ValueError, match="this cannot be traced"):
        run(jnp.ones(3))


def test_several_processes_compile_in_one_order(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    function = jax.jit(lambda x: x)
    assert ahead.compiled_ahead(function, jnp.ones(3)) is function


def test_a_training_and_a_sampler_compile_once(tmp_path, compiled, monkeypatch):
    trainer.train(tiny_config(), tmp_path, until=2)
    assert compiled.count("jit(train_step)") == 1
    compiled.clear()
    # A training that goes on makes no first state.
    monkeypatch.setattr(trainer, "new_state", None)
    trainer.train(tiny_config(), tmp_path, until=3)
    assert compiled.count("jit(train_step)") == 1
    compiled.clear()
    assert len(list(commands.samples(tmp_path, num_samples=2))) == 2
    assert compiled.count("jit(run)") == 1
