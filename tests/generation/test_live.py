"""Sampling that tells of each state while it runs, for several callers at the same time."""

import threading

import jax
import numpy as np
import pytest

from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import sharding
from elf_jax.generation import live, trajectory
from elf_jax.generation.generate import scales
from elf_jax.generation.states import recorded_run
from elf_jax.methods.method import Seen
from tests.tiny import save_random_weights, tiny_config

STEPS, LENGTH = 5, 8


@pytest.fixture(scope="module", params=[1, 8])
def model(request, tmp_path_factory):
    """(a `TrainedModel` on so many devices, its compiled program, the function from a seed to the
    arguments, a `recorded_run`).
    """
    config = tiny_config(**{"mesh.data": request.param, "sample.steps": STEPS})
    trained = load_trained(save_random_weights(config, tmp_path_factory.mktemp("live")))

    def arguments(seed):
        values = scales(trained.method, config.sample)
        ids = sharding.share_rows(np.arange(8, dtype=np.int32), trained.mesh)
        return trained.params, trained.frozen, ids, None, jax.random.key(seed), values

    program = live.jit_live(trained).lower(*arguments(0), np.int32(0)).compile()
    return trained, program, arguments, recorded_run(trained)


def recorded(model, seeds):
    """{seed: (tokens, list of states)} of a run that is only looked at afterwards."""
    _, _, arguments, run = model
    found = {}
    for seed in seeds:
        states = []
        found[seed] = np.asarray(run(arguments(seed), states.append)), states
    return found


def equal(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_callers_at_the_same_time_get_their_own_states(model):
    trained, program, arguments, _ = model
    run, found, seeds = live.live_run(trained, program), {}, range(4)
    barrier = threading.Barrier(len(seeds))

    def work(seed):
        states = []
        barrier.wait()
        found[seed] = run(arguments(seed), states.append), states

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = recorded(model, seeds)
    for seed in seeds:
        assert [int(state.step) for state in found[seed][1]] == list(range(STEPS))
        equal(found[seed], expected[seed])
    assert not live._listeners


def test_states_come_while_the_program_runs(model):
    """The sampler waits for who looks: until then there are no samples and no later states."""
    trained, program, arguments, _ = model
    first, go_on, states, done = threading.Event(), threading.Event(), [], []

    def see(state):
        states.append(int(state.step))
        first.set()
        assert go_on.wait(60)

    run = live.live_run(trained, program)
    thread = threading.Thread(target=lambda: done.append(run(arguments(0), see)))
    thread.start()
    assert first.wait(60)
    assert states == [0] and not done
    go_on.set()
    thread.join()
    assert states == list(range(STEPS)) and len(done) == 1


def test_an_error_of_the_caller_comes_out_and_hurts_nobody(model):
    trained, program, arguments, _ = model
    run, calls = live.live_run(trained, program), []

    def see(state):
        calls.append(state)
        if len(calls) == 2:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run(arguments(0), see)
    assert len(calls) == 2 and not live._listeners
    states = []
    equal((run(arguments(1), states.append), states), recorded(model, [1])[1])


def test_the_order_of_arrival_does_not_matter():
    states = []
    listener = live.Listener(states.append, 3)
    for step in (1, 2, 0):
        listener.hear(Seen(np.int32(step), *[np.zeros(1)] * 4))
    listener.finish()
    assert [int(state.step) for state in states] == [0, 1, 2]


def test_missing_states_are_told(monkeypatch):
    monkeypatch.setattr(live, "WAIT", 0.01)
    with pytest.raises(RuntimeError, match="only 0 of 2 states arrived"):
        live.Listener(print, 2).finish()
    live._deliver(np.int32(-1), None)  # nobody listens


def test_trajectories_are_those_of_a_recorded_run(model):
    trained, program, _, later = model
    told = []
    run = live.live_run(trained, program)
    found = list(trajectory.texts(trained, 8, 3, run=run, tell=told.append))
    assert found == list(trajectory.texts(trained, 8, 3, run=later))
    assert [len(batch[0].states) for batch in told] == list(range(1, STEPS + 1))
    assert told[-1] == found
