"""Made-up trajectories for tests of pages: texts that settle from noise, without any model."""

import math
import random

from elf_jax.generation.pieces import OPEN
from elf_jax.generation.trajectory import State, Trajectory, Watched

WORDS = " the sea was calm and nobody in harbour spoke of what had been seen at dawn".split(" ")[1:]


def settling(final, steps, seed=0, cost=2, **about):
    """A `Trajectory` whose text settles to given pieces, each position at a step of its own.

    Args:
      final: list of the pieces at the end. steps: number of states.
      seed: of the noise. cost: network evaluations of each step.
      about: fields of the `Trajectory`.
    """
    draw = random.Random(seed)
    settles = [draw.randint(1, steps) for _ in final]
    rows = [
        [
            (index, piece) if step >= at else _noise(draw)
            for index, (piece, at) in enumerate(zip(final, settles, strict=True))
        ]
        for step in range(1, steps + 1)
    ]
    return trajectory(rows, cost, **about)


def trajectory(rows, cost=1, **about):
    """A `Trajectory` of states that are given as lists of (token, piece); see `settling`."""
    states, before = [], []
    for index, row in enumerate(rows):
        tokens, pieces = [token for token, _ in row], [piece for _, piece in row]
        changed = sum(
            token != OPEN and (p >= len(before) or token != before[p])
            for p, token in enumerate(tokens)
        )
        time = (index + 1) / len(rows)
        text = "".join(piece for piece in pieces if piece is not None)
        entropy = 3 * math.exp(-3 * time)
        states.append(
            State(index + 1, time, cost * (index + 1), entropy, changed, tokens, pieces, text)
        )
        before = tokens
    longest = max(len(row) for row in rows)
    known = {"sample": 0, "given": [False] * longest, "source": None, "reference": None}
    return Trajectory(states=states, **{**known, "template": None, **about})


def watched(*trajectories, name="runs/tiny", steps=4):
    """A `Watched` of these trajectories."""
    return Watched(name, "elf", {"steps": steps, "seed": 0}, list(trajectories))


def prose(length, seed=0):
    """`length` pieces of words, each with a space before it but the first."""
    draw = random.Random(seed)
    words = [draw.choice(WORDS) for _ in range(length)]
    return [f"{' ' if index else ''}{word}" for index, word in enumerate(words)]


def _noise(draw):
    letters = "".join(draw.choice("aeioubcdfg") for _ in range(draw.randint(1, 7)))
    return draw.randint(1000, 30000), f" {letters}"
