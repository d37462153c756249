"""Runs the notebook from top to bottom and keeps its outputs, made small.

    python notebooks/execute.py            # the notebook as it is; needs `pip install -e '.[test]'`

A test calls `execute` with settings of a tiny run.
"""

import base64
import copy
import io
import pathlib

import nbclient
import nbformat
from PIL import Image

NOTEBOOK = pathlib.Path(__file__).parent / "colab_tpu.ipynb"
SETTINGS = "settings"  # id of the cell that sets what a user may change
WIDTH = 800  # of a picture, in pixels, at most
COLOURS = 64  # of a picture


def read():
    """The notebook, without outputs."""
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def execute(notebook, directory, settings=None, timeout=None):
    """An executed copy of a notebook.

    Args:
      notebook: as nbformat has it. directory: where its kernel begins.
      settings: {name: value} that replace those of the cell `SETTINGS`; None: no change.
      timeout: seconds for one cell; None: no limit.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = copy.deepcopy(notebook)
    (cell,) = (one for one in notebook.cells if one.id == SETTINGS)
    source = cell.source
    if settings:
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in settings.items())
    resources = {"metadata": {"path": str(directory)}}
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources, record_timing=False
    )
    client.execute()
    cell.source = source
    return notebook


def shrink(notebook):
    """Makes the outputs of a notebook small, in place: of a progress bar the last state, of a
    picture a small one.
    """
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = output.text.split("\n")
                output.text = "\n".join(line.rstrip("\r").split("\r")[-1] for line in lines)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small(output.data["image/png"])
                output.metadata = {}


def _joined(outputs):
    """Outputs in which each stream is one output until something else comes between."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" and output.name == last.get("name"):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _small(picture):
    """A PNG in base64, with fewer pixels and colours."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    out = io.BytesIO()
    image.quantize(COLOURS).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    done = execute(read(), NOTEBOOK.parent)
    shrink(done)
    nbformat.write(done, NOTEBOOK)
