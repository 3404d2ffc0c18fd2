"""A real headless browser: Debian's Chromium, which records every request that a page makes."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

SIZES = {"wide": (1440, 1000), "phone": (390, 844)}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        why = "no chromium on PATH: apt-get install chromium"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Chromium has no sandbox when run as root, as in most containers; /dev/shm is small there.
        chromium = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


class Visit:
    """One page at one size and colour scheme. `asked` holds every address requested, `said` the console output."""

    def __init__(self, browser, url, size="wide", scheme="light"):
        width, height = SIZES[size]
        self._context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=False
        )
        self.page = self._context.new_page()
        self.asked, self.said = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._context.close()

    def fits(self):
        """Whether nothing extends beyond the right edge."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def shot(self, path):
        """A screenshot of the whole page as an RGB array, also written to `path`."""
        return np.asarray(
            Image.open(io.BytesIO(self.page.screenshot(path=path, full_page=True))).convert("RGB")
        )


def is_dark(shot):
    return shot[:4].mean() < 128
