"""The page of `--mode=watch`: how texts come about, step by step, in one HTML file.

The page needs no network and works from a file, in an `<iframe srcdoc>` and on a phone. Its parts
lie beside this module: `watch.html`, `watch.css`, `watch_parts.js`, `watch.js`. Its data is JSON:

    pieces    every piece of text that occurs, once for each token that it stands for
    tokens    the token of each entry of `pieces`; -1: an open position, whose piece is null
    models    what is shown of each model: name, method, settings, trajectories. A state has
              its numbers, and the list `at`: for each position an index into `pieces`.

A page that has this one in a frame may hand over new data, such as a trajectory that has grown:

    frame.contentWindow.postMessage({watch: data}, "*")    // data: what `watch_data` gives

The frame sends its parent {watchHeight: pixels}: once when it is ready for data, and whenever its
content gets higher or lower.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
import re

SCRIPTS = ("watch_parts", "watch")
SLOT = re.compile(r"\{\{(\w+)\}\}")


def watch_page(watched, title):
    """A page that shows trajectories, as one HTML text.

    Args:
      watched: list of `generation.trajectory.Watched`. Several models are shown side by side, in
        step by their network evaluations; trajectory i of each belongs together.
      title: of the page.
    """
    style, script = _part("watch", "css"), "\n".join(_part(one, "js") for one in SCRIPTS)
    values = {
        "title": html.escape(title),
        "policy": f"script-src {_digest(script)}; style-src {_digest(style)}",
        "style": style,
        "script": script,
        "data": _in_script(watch_data(watched)),
    }
    return SLOT.sub(lambda slot: values[slot[1]], _part("watch", "html"))


def watch_frame(page, title, height=640):
    """The HTML text of a frame with a page inside, for a notebook or another page.

    Args:
      page: from `watch_page`. title: what a screen reader says of the frame.
      height: in CSS pixels.
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" title="{html.escape(title)}" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


def watch_data(watched):
    """The data of a page, see the module: a dict that can be written as JSON.

    Args:
      watched: as for `watch_page`.
    """
    table = {}
    models = [
        {
            "name": one.name,
            "method": one.method,
            "settings": {name: str(value) for name, value in one.settings.items()},
            "trajectories": [_trajectory(trajectory, table) for trajectory in one.trajectories],
        }
        for one in watched
    ]
    tokens, pieces = zip(*table, strict=True) if table else ((), ())
    return {"tokens": tokens, "pieces": pieces, "models": models}


def _trajectory(trajectory, table):
    return {
        "given": [index for index, given in enumerate(trajectory.given) if given],
        "source": trajectory.source,
        "reference": trajectory.reference,
        "template": trajectory.template,
        "states": [_state(state, table) for state in trajectory.states],
    }


def _state(state, table):
    """A state with its pieces as indices. table: {(token, piece): index}, to which new ones are
    added.
    """
    entries = zip(state.tokens, state.pieces, strict=True)
    return {
        "step": state.step,
        "time": _number(state.time),
        "evaluations": state.evaluations,
        "entropy": _number(state.entropy),
        "changed": state.changed,
        "at": [table.setdefault((int(token), piece), len(table)) for token, piece in entries],
    }


def _number(value):
    """A number of six digits, or None, since JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _part(name, kind):
    """The text of a file beside this module."""
    path = importlib.resources.files(__package__) / f"{name}.{kind}"
    return path.read_text(encoding="utf-8").rstrip("\n")


def _digest(text):
    """The source expression of a content security policy that allows this inline text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _in_script(value):
    """JSON that may stand in a script element: no text in it can end the element or begin another.
    Only ASCII, so that U+2028 and half surrogate pairs are escaped too.
    """
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
