"""A headless Chromium for tests of pages: opens them, reads them, and tells what went wrong there.

`tests/conftest.py` has the fixture `browser`, one for all tests of a process. A test opens its page
with `browser.open`, which also forgets what the page before did.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A new profile of Chromium loads lists and updates of its own: no test may wait for them.
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-domain-reliability",
)
TIMEOUT = 120  # seconds that a page or a script may take: the machine may have other work
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Browser:
    """One window of Chromium.

    Attributes:
      driver: the Selenium driver, for all that this class has no method for.
    """

    def __init__(self, driver):
        self.driver = driver
        self._requests, self._width = [], 0

    def open(self, page, width=1280, height=900, dark=False, still=False):
        """Opens a page.

        Args:
          page: an address, or the path of a file.
          width, height: of the window, in CSS pixels. Widths below 600 count as a phone.
          dark, still: whether the user prefers dark colours, and no movement.
        """
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self._read_requests()
        self._requests = []
        self.resize(width, height)
        prefers = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in prefers.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        is_address = "://" in str(page)
        self.driver.get(str(page) if is_address else pathlib.Path(page).resolve().as_uri())

    def resize(self, width, height=900):
        """Gives the window this size in CSS pixels. Chromium's own windows are never below 500."""
        self._width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, script, *arguments):
        """What a JavaScript function body returns; `arguments` are its arguments."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        """The first element of a CSS selector. Raises an error of Selenium if there is none."""
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector):
        """All elements of a CSS selector, a list."""
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition, seconds=TIMEOUT):
        """Waits until `condition()` is true and returns its value."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition())

    def press(self, *keys):
        """Presses keys one after the other: characters, or names of `Keys` such as "HOME"."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(getattr(Keys, key) if len(key) > 1 else key)
        actions.perform()

    def errors(self):
        """The messages on the console since the last call, warnings too."""
        seen = self.driver.get_log("browser")
        return [one["message"] for one in seen if one["level"] in ("WARNING", "SEVERE")]

    def requests(self):
        """The addresses of all requests since the page was opened."""
        self._read_requests()
        return list(self._requests)

    def requests_elsewhere(self):
        """Those of `requests` that go to another host than this machine."""
        own = ("file:", "data:", "blob:", "about:")
        rest = [url for url in self.requests() if not url.startswith(own)]
        hosts = [url.split("://")[-1].split("/")[0].rsplit(":", 1)[0] for url in rest]
        return [url for url, host in zip(rest, hosts, strict=True) if host not in LOCAL]

    def overflow(self):
        """By how many pixels the page is wider than its window: above 0, it scrolls sideways."""
        return self.run(
            "const page = document.documentElement;"
            "return Math.max(page.scrollWidth, document.body.scrollWidth) - arguments[0]",
            self._width,
        )

    def screenshot(self, path, whole=False):
        """Writes a PNG of the window, or of the `whole` page."""
        import base64

        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
        )
        pathlib.Path(path).write_bytes(base64.b64decode(taken["data"]))

    def _read_requests(self):
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self._requests.append(message["params"]["url"])


def programs():
    """(Chromium, its driver): paths, None where there is none."""
    found = [shutil.which(name) for name in PROGRAMS]
    return next(filter(None, found), None), shutil.which("chromedriver")


@contextlib.contextmanager
def browser_of_tests():
    """A `Browser`. Without one the test is skipped, but fails in CI, where it must be there."""
    chromium, driver = programs()
    if not (chromium and driver):
        why = "no chromium and chromedriver: apt-get install chromium chromium-driver"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="elf-jax-browser-", ignore_cleanup_errors=True) as home:
        started = _start(chromium, driver, home)
        try:
            yield Browser(started)
        finally:
            started.quit()


def _start(chromium, driver, profile):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    started = webdriver.Chrome(options, Service(driver, env=env))  # Chromium has its own malloc
    started.set_page_load_timeout(TIMEOUT)
    started.set_script_timeout(TIMEOUT)
    return started
