"""Batches: their order, saving the position, and the parts of several processes."""

import time

import grain
import numpy as np
import orbax.checkpoint as ocp

from elf_jax.data.packing import Rows
from elf_jax.data.pipeline import make_iterator


def numbered(count, length=3):
    tokens = np.arange(count, dtype=np.int32)[:, None].repeat(length, axis=1)
    return Rows(tokens, np.zeros(count, np.int32), np.full(count, length, np.int32))


def take(iterator, count):
    return [next(iterator)["tokens"][:, 0].tolist() for _ in range(count)]


def test_every_epoch_has_every_row_once_in_a_new_order():
    epochs = np.reshape(take(make_iterator(numbered(20), 5, seed=0), 12), (3, 20))
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0].tolist() != epochs[1].tolist() != list(range(20))
    assert take(make_iterator(numbered(20), 5, seed=1), 4) != epochs[0].reshape(4, 5).tolist()


def test_iterator_goes_on_where_it_was_saved():
    iterator = make_iterator(numbered(7), 4, seed=0)
    take(iterator, 5)
    state = iterator.get_state()
    rest = take(iterator, 5)
    other = make_iterator(numbered(7), 4, seed=0)
    other.set_state(state)
    assert take(other, 5) == rest


def test_few_batches_are_made_ahead(monkeypatch):
    rows, made = numbered(64), []
    real = Rows.take
    monkeypatch.setattr(Rows, "take", lambda self, index: made.append(1) or real(self, index))
    iterator = make_iterator(rows, 2, seed=0)
    next(iterator)
    time.sleep(0.3)
    iterator.close()
    assert 1 <= len(made) <= 8


def test_orbax_saves_and_restores_the_place(tmp_path):
    iterator = make_iterator(numbered(7), 4, seed=0)
    take(iterator, 5)
    manager = ocp.CheckpointManager(tmp_path)
    save = grain.checkpoint.CheckpointSave(iterator)
    manager.save(5, args=ocp.args.Composite(data=save))
    rest = take(iterator, 5)  # the iterator moves on while the checkpoint is written
    manager.wait_until_finished()
    other = make_iterator(numbered(7), 4, seed=0)
    take(other, 2)
    restore = grain.checkpoint.CheckpointRestore(other)
    manager.restore(5, args=ocp.args.Composite(data=restore))
    manager.close()
    assert take(other, 5) == rest


def test_processes_share_every_batch():
    whole = take(make_iterator(numbered(20), 6, seed=0), 8)
    parts = [take(make_iterator(numbered(20), 6, 0, index, 3), 8) for index in range(3)]
    assert [sum(batch, []) for batch in zip(*parts, strict=True)] == whole


def test_validation_sees_every_row_once():
    batches = list(numbered(5).batches(2))
    assert [fields["tokens"][:, 0].tolist() for fields, _ in batches] == [[0, 1], [2, 3], [4, 4]]
    assert [real.tolist() for _, real in batches] == [[True, True], [True, True], [True, False]]
