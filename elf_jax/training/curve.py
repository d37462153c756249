"""The loss curve of a run, as a picture."""

import json
import os
import pathlib

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402


def draw_curve(metrics, picture):
    """Draws both losses and the decode accuracy, training and held out, from a JSON-lines file to
    a PNG.

    Args:
      metrics: path of the file, one object a line. picture: path of the PNG, written whole or not
        at all.
    """
    lines = pathlib.Path(metrics).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    titles = {
        "denoise_loss": "denoise loss (velocity, squared error)",
        "decode_loss": "decode loss (cross-entropy, nats a token)",
        "decode_accuracy": "decode accuracy",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for key, label in (
            (name, "training"),
            (f"validation_{name}", "held out, averaged weights"),
        ):
            points = [(record["step"], record[key]) for record in records if key in record]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    label=label,
                    marker="o" if len(points) < 30 else None,
                    ms=3,
                )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    scratch = pathlib.Path(picture).with_name(f".{pathlib.Path(picture).name}")
    figure.savefig(scratch, dpi=110, format="png")
    plt.close(figure)
    os.replace(scratch, picture)
