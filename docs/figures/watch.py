"""Makes docs/watch.png and docs/watch_phone.png: the page of `--mode=watch` in a browser.

    python main.py --mode=watch --workdir=runs/quickstart --steps=32
    python docs/figures/watch.py --page=runs/quickstart/watch.html --step=27 --output=docs

It needs Chromium and `pip install -e '.[test]'`.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.browser import browser_of_tests  # noqa: E402

PICTURES = {"watch.png": (1280, 690), "watch_phone.png": (390, 780)}  # width, height in pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=pathlib.Path, required=True, help="watch.html")
    parser.add_argument("--step", type=int, required=True, help="the step to show, from 1")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a directory")
    given = parser.parse_args()
    with browser_of_tests() as browser:
        for name, (width, height) in PICTURES.items():
            browser.open(given.page, width=width, height=height, still=True)
            browser.press("HOME", *["ARROW_RIGHT"] * (given.step - 1))
            browser.screenshot(given.output / name)


if __name__ == "__main__":
    main()
