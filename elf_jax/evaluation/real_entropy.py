"""Gen. PPL at the entropy of real text, read off a frontier.

A model reaches a lower Gen. PPL if it gives up entropy, so numbers at different entropies cannot be
compared. Along a line of a frontier one setting changes, such as the temperature. Between two
neighbouring points, log Gen. PPL is taken to be linear in the entropy. A line is never continued
beyond its points.
"""

import dataclasses
import math

AXES = ("gen_entropy", "gen_ppl")  # the metrics of a frontier


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a frontier.

    Attributes:
      entropy: nats. gen_ppl: Gen. PPL. settings: {key: value} that gave it; a temperature that
        changes nothing is not in them.
    """

    entropy: float
    gen_ppl: float
    settings: dict


def at_entropy(lines, entropy):
    """The lowest Gen. PPL at which a line passes an entropy.

    Args:
      lines: list of lists of `Point`, each in the order of the setting that changes.
      entropy: of real text, nats.

    Returns:
      Dict of
        gen_ppl: None if no line reaches the entropy.
        between: the settings of the two points beside it (one, if a point has this entropy).
        lowest_entropy, highest_entropy: of all points; None if there is no point.
    """
    points = [point for line in lines for point in line]
    found = [crossing for line in lines for crossing in _crossings(line, entropy)]
    gen_ppl, between = min(found, key=lambda one: one[0], default=(None, []))
    return {
        "gen_ppl": gen_ppl,
        "between": between,
        "lowest_entropy": min((point.entropy for point in points), default=None),
        "highest_entropy": max((point.entropy for point in points), default=None),
    }


def _crossings(line, entropy):
    """(Gen. PPL, settings beside it) wherever a line passes an entropy."""
    for point in line:
        if point.entropy == entropy:
            yield point.gen_ppl, [point.settings]
    for one, two in zip(line, line[1:], strict=False):
        low, high = sorted((one.entropy, two.entropy))
        if low < entropy < high:
            share = (entropy - one.entropy) / (two.entropy - one.entropy)
            log_ppl = (1 - share) * math.log(one.gen_ppl) + share * math.log(two.gen_ppl)
            yield math.exp(log_ppl), [one.settings, two.settings]


def lines_of(scored):
    """`frontier_lines` of points of a comparison, dicts with "scores" and "settings"."""
    points = []
    for point in scored:
        entropy, gen_ppl = (point["scores"][name]["mean"] for name in AXES)
        if gen_ppl is not None:  # else all its samples were empty
            points.append(Point(entropy, gen_ppl, point["settings"]))
    return frontier_lines(points)


def frontier_lines(points):
    """The lines of a frontier: along each, one setting changes and the others stay.

    Args:
      points: list of `Point`.

    Returns:
      List of lists of `Point`, each in the order of the setting that changes. Points that differ
      in nothing are one line. A point without the setting is not on the line along it.
    """
    keys = dict.fromkeys(key for point in points for key in point.settings)
    varied = [key for key in keys if len({point.settings.get(key) for point in points}) > 1]
    lines = [] if varied else [points]
    for along in varied:
        groups = {}
        for point in points:
            fixed = [point.settings.get(key) for key in varied if key != along]
            groups.setdefault((along in point.settings, *fixed), []).append(point)
        lines += [
            sorted(group, key=lambda p: p.settings.get(along, 0)) for group in groups.values()
        ]
    return lines
