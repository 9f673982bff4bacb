"""Chromium for the tests of pages: how it is started, and what is done with a page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


@contextmanager
def chromium_offline() -> Iterator[webdriver.Chrome]:
    """A browser without a network."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.fail("there is no Chromium with its chromedriver: make test-python installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-gpu"):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which root has no right to
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        service = webdriver.ChromeService(executable_path=driver)
        browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()


class Tab:
    """A page in the browser."""

    def __init__(self, chromium: webdriver.Chrome, pages: dict[str, str]) -> None:
        self.chromium, self._pages = chromium, pages

    def open(self, page: str, theme: str = "light") -> Tab:
        name, _, fragment = page.partition("#")
        self.resize(1200, 800)
        self.media(theme)
        self.chromium.get("about:blank")  # so that a fragment alone loads the page again
        self.chromium.get(self._pages[name] + (f"#{fragment}" if fragment else ""))
        return self

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def media(self, theme: str, media: str = "") -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.chromium.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )

    def run(self, script: str, *arguments: object) -> Any:
        return self.chromium.execute_script(f"return {script}", *arguments)

    def find(self, selector: str) -> Any:
        return self.chromium.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.run("document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        script = "[...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return list(self.run(script, selector))

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.chromium.switch_to.active_element.send_keys(key)

    def until(self, true: Callable[[], object]) -> None:
        WebDriverWait(self.chromium, 20, poll_frequency=0.02).until(lambda _: true())

    def search(self, query: str) -> None:
        self.run("document.getElementById('query').value = arguments[0]", query)
        self.run("document.getElementById('query').dispatchEvent(new Event('input'))")

    def listed(self) -> list[int]:
        """The numbers of the axes in view."""
        return [int(one.split()[1].replace(",", "")) for one in self.texts(".option .number")]

    def focused(self) -> str:
        return str(self.run("document.activeElement.id || document.activeElement.tagName"))

    def complaints(self) -> list[str]:
        return [one["message"] for one in self.chromium.get_log("browser")]
