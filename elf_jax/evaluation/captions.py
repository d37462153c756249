"""Short texts beside the points of a picture, where there is room for them."""

import math

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

SIZE = 7.5  # of the text, points
DISTANCE = 6.5  # of a text from the middle of its mark, points
TURNS = (0, 45, -45, 90, -90, 135, -135, 180)  # from the preferred direction, degrees


def place_captions(axis, captions, marks):
    """Writes texts beside points, so that none touches another text, a mark or the frame.

    A text for which there is no such place is left out. A place where it also touches no line is
    taken first. The ranges and the size of the axis must be final: nothing moves afterwards.

    Args:
      axis: of matplotlib, with its lines.
      captions: list of dicts: text, at (x, y), from_ (x, y) of the next point of the line, or None;
        and colour. The most important one comes first.
      marks: list of (x, y, diameter in points) of all marks.

    Returns:
      The annotations.
    """
    scale = axis.figure.dpi / 72
    obstacles = [_square(axis, x, y, scale * size) for x, y, size in marks]
    lines = [line.get_transform().transform_path(line.get_path()) for line in axis.lines]
    written = []
    for caption in captions:
        text = _annotation(axis, caption)
        size = text.get_window_extent()
        around = _square(axis, *caption["at"], 0)
        free = [
            box
            for box in _places(around, size, scale * DISTANCE, _heading(axis, caption))
            if _is_inside(box, axis.bbox) and not any(box.overlaps(o) for o in obstacles)
        ]
        clear = [box for box in free if not any(p.intersects_bbox(box, False) for p in lines)]
        if not free:
            text.remove()
            continue
        box = (clear or free)[0]
        shift = ((box.x0 + box.x1) / 2 - around.x0, (box.y0 + box.y1) / 2 - around.y0)
        text.set_position((shift[0] / scale, shift[1] / scale))
        obstacles.append(box)
        written.append(text)
    return written


def _annotation(axis, caption):
    text = axis.annotate(
        caption["text"],
        caption["at"],
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=SIZE,
        color=0.7 * np.array(to_rgb(caption["colour"])),  # light colours are hard to read
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _heading(axis, caption):
    """The direction in which a line leaves at its end, degrees."""
    if caption["from_"] is None:
        return 0.0
    here, there = axis.transData.transform([caption["at"], caption["from_"]])
    return math.degrees(math.atan2(*(here - there)[::-1]))


def _places(around, size, distance, heading):
    """Boxes of a text at all sides of a point, in pixels; the one straight ahead first. Each is
    outside a square of twice the distance around the point.
    """
    for turn in TURNS:
        angle = math.radians(heading + turn)
        right, up = math.cos(angle), math.sin(angle)
        longer = max(abs(right), abs(up))
        x = around.x0 + right / longer * (distance + size.width / 2)
        y = around.y0 + up / longer * (distance + size.height / 2)
        yield Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)


def _square(axis, x, y, diameter):
    x, y = axis.transData.transform((x, y))
    return Bbox(np.array([[x, y], [x, y]]) + np.array([[-1, -1], [1, 1]]) * diameter / 2)


def _is_inside(box, frame):
    return frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
