"""What a session finds out: its parts append figures to results.jsonl, and results.md has them all.

    python -m benchmarks.session.results DIRECTORY --part=NAME --status=TEXT --seconds=N

adds how a part ended, prints the lines of this part, and writes the table again. A part that is
killed keeps the figures that it had. Nothing but Python's own library is needed, so that a line
comes even where nothing else works.

`gpu_session.sh` tells a part by variables of the environment where it belongs:
ELF_SESSION, the directory; ELF_SESSION_PART, its name; ELF_SESSION_SECONDS, how long it may take.
Without them a part prints its figures and keeps nothing.
"""

import argparse
import json
import os
import pathlib
import time

FILE, TABLE = "results.jsonl", "results.md"
CEILINGS = "ceilings"
PRODUCT, COPY = "bfloat16 product", "copy"  # its figures; their "rate" is in FLOP/s and bytes/s
HEAD = ("part", "figure", "value", "floor or goal", "how it ended")
_BEGAN = time.monotonic()


def figure(name, value, unit, beside="", **details):
    """Prints a figure of this part, and keeps it.

    Args:
      name: what it is. value: a number; None: it could not be had. unit: in words.
      beside: what it is to be compared with: a floor, a goal, a prediction.
      **details: further values that JSON can hold.
    """
    record = {"figure": name, "value": value, "unit": unit, "beside": beside, **details}
    keep(record)
    print("  ".join(_cells({"part": "", **record})).strip(), flush=True)


def samples(texts):
    """Keeps generated texts, a list, for the end of the table."""
    keep({"samples": texts})


def keep(record):
    """Appends a record of this part to the results of the session."""
    directory = os.environ.get("ELF_SESSION")
    if directory:
        _append(directory, {"part": os.environ.get("ELF_SESSION_PART", ""), **record})


def read(directory=None):
    """All records, a list of dicts; without a directory those of the session of this part."""
    directory = directory or os.environ.get("ELF_SESSION", "")
    path = pathlib.Path(directory, FILE)
    lines = path.read_text(encoding="utf-8").splitlines() if directory and path.is_file() else []
    return [json.loads(line) for line in lines]


def ceiling(name):
    """The rate of a figure of the part `ceilings` in this session; None if it was not measured."""
    own = (one for one in read() if one["part"] == CEILINGS and one.get("figure") == name)
    return next((one["rate"] for one in own), None)


def seconds_left(otherwise):
    """Seconds until this part is ended; `otherwise` if nothing ends it."""
    limit = os.environ.get("ELF_SESSION_SECONDS")
    return float(limit) - (time.monotonic() - _BEGAN) if limit else otherwise


def _append(directory, record):
    with open(pathlib.Path(directory, FILE), "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _readable(value, unit):
    if value is None:
        return "not known"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {unit}".strip()


def _cells(one):
    """The cells of a record: part, figure, value with its unit, what is beside it."""
    if "figure" not in one:
        return [one["part"], "", "", ""]
    return [one["part"], one["figure"], _readable(one["value"], one["unit"]), one["beside"]]


def _rows(records):
    """The rows of the table: one for each figure, and one for a part without a figure or that did
    not end well. The last row of a part says how it ended and how long it took.
    """
    rows = []
    for part in dict.fromkeys(one["part"] for one in records):
        own = [one for one in records if one["part"] == part]
        end = next((one for one in own if "status" in one), None)
        found = [[*_cells(one), ""] for one in own if "figure" in one]
        if end and (not found or end["status"] != "ok"):
            found.append([part, "", "", "", ""])
        if end:
            found[-1][-1] = f"{end['status']}, {end['seconds']} s"
        rows += found
    return rows


def lines(records):
    """The rows as lines for a terminal."""
    form = "{:<20} {:<32} {:>24}   {}"
    for *cells, ended in _rows(records):
        line = form.format(*cells).rstrip() if cells[1] else cells[0]
        yield f"{line}  [{ended}]" if ended else line


def _line(cells):
    return f"| {' | '.join(cells)} |"


def write_table(directory):
    """Writes results.md, whole or not at all."""
    records = read(directory)
    device = next((one for one in records if "device" in one), {})
    about = ", ".join(f"{name} {value}" for name, value in device.items() if name != "part")
    text = [f"# Session on one GPU\n\n{about}\n", _line(HEAD), "|---" * len(HEAD) + "|"]
    text += [_line(cell.replace("|", "\\|") for cell in row) for row in _rows(records)]
    for one in records:
        if "samples" in one:
            quoted = (f"- {' '.join(sample.split())}" for sample in one["samples"])
            text += [f"\nSamples of {one['part']}:\n", *quoted]
    path = pathlib.Path(directory, TABLE)
    new = path.with_suffix(".new")
    new.write_text("\n".join(text) + "\n", encoding="utf-8")
    new.replace(path)


def main():
    """Adds how a part ended, prints its lines, writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory")
    parser.add_argument("--part", required=True)
    parser.add_argument("--status", required=True, help="ok, or what went wrong")
    parser.add_argument("--seconds", type=int, required=True, help="how long the part took")
    args = parser.parse_args()
    end = {"part": args.part, "status": args.status, "seconds": args.seconds}
    _append(args.directory, end)
    own = [one for one in read(args.directory) if one["part"] == args.part]
    print("\n".join(lines(own)), flush=True)
    write_table(args.directory)


if __name__ == "__main__":
    main()
