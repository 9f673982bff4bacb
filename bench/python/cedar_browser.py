"""Write the tables of docs/measurements/cedar_browser.md.

    python bench/python/cedar_browser.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

The script writes pages of `laplex.cedar.browse` with 4,096 axes and 100,000 rows of 32 entries,
and measures them in headless Chromium: how large they are, and how long they take to load, to
search, to open an axis and to scroll. The codes are drawn at random, because fitting so many axes
would take hours; the page cannot know. It needs selenium, Chromium and its chromedriver,
scikit-learn, scikit-image, and Debian's wordnet-base for texts.

Results go into docs/measurements/cedar_browser.json, section by section, and the page is written
from there; --page only writes the page. A run takes some minutes, and --quick half a minute.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics as stats
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from selenium import webdriver

import sections
from laplex.cedar import Confirmation
from laplex.cedar.feature_browser.contents import statistics
from laplex.cedar.feature_browser.page import render
from laplex.cedar.naming import AxisName, AxisNames, Name
from laplex.cedar.page_inputs import RowExamples

PACKAGES = ("selenium", "pillow", "numpy")
NOUNS = Path("/usr/share/wordnet/data.noun")
#: Pages: how many examples each end has, and the side of thumbnails.
PAGES = {
    "texts, nine examples an end": (9, None),
    "texts and thumbnails, four examples an end": (4, 64),
}
KINDS = {
    "codes": "codes of the rows",
    "texts": "texts of the rows",
    "pictures": "thumbnails",
    "axes": "axes: names, histograms, examples",
}


# ------------------------------------------------------------------------------------- the pages


def glosses(count: int) -> tuple[list[str], list[str]]:
    """Nouns of WordNet, and texts that explain them; invented ones without WordNet."""
    if NOUNS.exists():
        lines = [line for line in NOUNS.read_text("latin-1").split("\n") if line[:1].isdigit()]
        words = [line.split()[4].replace("_", " ") for line in lines]
        texts = [f"{w}: {line.split('|')[1].strip()}" for w, line in zip(words, lines, strict=True)]
    else:
        words = [f"word {number}" for number in range(count)]
        texts = [f"{word}: something that has been invented for this" for word in words]
    repeats = -(-count // len(words))
    return (words * repeats)[:count], (texts * repeats)[:count]


class Crops:
    """Pictures of the rows: squares of 96 to 196 pixels, cut out of photographs."""

    def __init__(self, count: int) -> None:
        import skimage.data
        from sklearn.datasets import load_sample_images

        self._count = count
        named = ("astronaut", "coffee", "chelsea", "rocket", "retina")
        photographs = [getattr(skimage.data, name)() for name in named]
        self._photographs = [*load_sample_images().images, *photographs]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> np.ndarray:
        random = np.random.default_rng(row)
        photograph = self._photographs[random.integers(len(self._photographs))]
        side = random.integers(96, 197)
        y, x = (random.integers(size - side) for size in photograph.shape[:2])
        return photograph[y : y + side, x : x + side]


def drawn(rows: int, axes: int, k: int) -> Iterator[np.ndarray]:
    """Blocks of codes with k entries each."""
    random = np.random.default_rng(0)
    for start in range(0, rows, 1000):
        codes = np.zeros((min(1000, rows - start), axes))
        for code in codes:
            code[random.choice(axes, k, replace=False)] = random.standard_normal(k)
        yield codes


def written(folder: Path, quick: bool, kind: str) -> tuple[Path, float]:
    """Write a page, and return it with the seconds of processor time that it took."""
    axes, rows, k = (64, 1000, 8) if quick else (4096, 100_000, 32)
    examples, side = PAGES[kind]
    random = np.random.default_rng(1)
    words, texts = glosses(rows)
    confirmed = random.random(axes) < 0.3
    confirmation = Confirmation(
        cosine=random.random((2, axes)), p=random.random(axes), q=random.random(axes),
        support=np.full(axes, 100), confirmed=confirmed, rows=np.full(2, rows // 2), alpha=0.01,
        threshold=0.7, min_support=16,
    )  # fmt: skip

    def name() -> Name | None:
        word, other = (words[random.integers(len(words))] for _ in range(2))
        return Name(word, 0.4, 0.02, other) if random.random() < 0.7 else None

    listed = [
        AxisName(axis, name(), name(), 0.4, 0.4, bool(known))
        for axis, known in enumerate(confirmed)
    ]
    names = AxisNames(tuple(listed), 0.25)
    model: Any = SimpleNamespace(
        fitted_=SimpleNamespace(axes=axes), k_=k, basis="orthogonal", n_samples_seen_=rows,
        confirmed_=confirmed, confirmation_=confirmation,
    )  # fmt: skip
    start = time.process_time()
    contents = statistics(drawn(rows, axes, k), rows, k, np.ones(axes), examples)
    html = render(
        cedar=model,
        contents=contents,
        names=names,
        rows=RowExamples(texts, None if side is None else Crops(rows), 500, rows),
        thumbnail_size=side or 64,
        title="Axes",
        progress=False,
    )
    seconds = time.process_time() - start
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path, seconds


def sizes(path: Path) -> dict[str, float]:
    """Megabytes of each kind of data in a page."""
    found = dict.fromkeys(KINDS, 0.0)
    pattern = r'<script type="text/plain" id="(\w+)[^"]*">([^<]*)'
    for kind, content in re.findall(pattern, path.read_text("utf-8")):
        found[kind if kind in KINDS else "axes"] += len(content.encode()) / 1e6
    return found


# ------------------------------------------------------------------------------------ the browser

#: Run steps one after another, and return the milliseconds until the next frame after each.
STEPS = """
const done = arguments[arguments.length - 1];
const [steps, kind] = arguments;
const query = document.getElementById('query');
const times = [];
(async () => {
  for (const step of steps) {
    const start = performance.now();
    if (kind === 'search') {
      query.value = step;
      query.dispatchEvent(new Event('input', {bubbles: true}));
    } else {
      location.hash = step;
      await new Promise((after) => addEventListener('hashchange', after, {once: true}));
      await Promise.all([...document.querySelectorAll('#shown img')].map((one) => one.decode()));
    }
    const worked = performance.now() - start;
    await new Promise((after) => requestAnimationFrame(() => setTimeout(after)));
    times.push([worked, performance.now() - start]);
  }
  done(times);
})();
"""
SCROLL = """
const done = arguments[arguments.length - 1];
const list = document.getElementById('list');
const frames = [];
let last = performance.now();
const step = (now) => {
  frames.push(now - last);
  last = now;
  list.scrollTop += 700;
  if (frames.length > 120) done(frames.slice(1));
  else requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""
LOAD = """
const [page] = performance.getEntriesByType('navigation');
const [ready] = performance.getEntriesByName('ready');
const paints = performance.getEntriesByName('first-contentful-paint');
return [ready.startTime, paints.length ? paints[0].startTime : 0, page.domContentLoadedEventEnd];
"""


def chromium() -> webdriver.Chrome:
    """Headless Chromium without a network."""
    names = ("chromium", "chromium-browser", "google-chrome")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, names)))
    for argument in ("--headless=new", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-gpu"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # a browser may use them all
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(300)
    driver.set_page_load_timeout(300)
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    return driver


def metric(driver: webdriver.Chrome, name: str) -> float:
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(one["value"]) for one in found if one["name"] == name)


def timed(driver: webdriver.Chrome, kind: str, steps: list[str]) -> dict[str, float]:
    """Milliseconds of a step: the median of the script, and the mean of the main thread's work."""
    start = metric(driver, "TaskDuration")
    found = driver.execute_async_script(STEPS, steps, kind)
    busy = 1e3 * (metric(driver, "TaskDuration") - start) / len(steps)
    return {"work": stats.median(one[0] for one in found), "busy": busy}


def used(page: Path, loads: int) -> dict[str, Any]:
    """Load a page several times, and use it."""
    driver = chromium()
    try:
        clocks, busy = [], []
        for _ in range(loads):
            driver.get("about:blank")
            start = metric(driver, "TaskDuration")
            driver.get(page.as_uri())
            busy.append(metric(driver, "TaskDuration") - start)
            clocks.append(driver.execute_script(LOAD))
        best = [min(one) / 1e3 for one in zip(*clocks, strict=True)]
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found = {
            "list": best[0], "paint": best[1], "loaded": best[2], "busy": min(busy),
            "heap": metric(driver, "JSHeapUsedSize") / 1e6,
        }  # fmt: skip
        axes = driver.execute_script("return JSON.parse(document.getElementById('meta').text).axes")
        found["search"] = timed(driver, "search", ["a", "an", "ani", "anim", "7", "70", ""])
        opened = [f"#axis-{axis}" for axis in range(0, axes, axes // 16)]
        found["axis"] = timed(driver, "open", opened)
        found["row"] = timed(driver, "open", [f"#row-{row}" for row in range(0, 1000, 90)])
        frames = driver.execute_async_script(SCROLL)
        found["frames"] = [stats.median(frames), float(np.quantile(frames, 0.95)), max(frames)]
        driver.execute_script("document.getElementById('mode-rows').click()")
        found["rows"] = timed(driver, "search", ["a", "an", "ani", "anim"])
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found["heap after"] = metric(driver, "JSHeapUsedSize") / 1e6
    finally:
        driver.quit()
    return found


# ----------------------------------------------------------------------------------- the sections


def measured(kind: str, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = written(Path(folder), quick, kind)
        found = {"size": path.stat().st_size / 1e6, "sizes": sizes(path), "seconds": seconds}
        return found | used(path, 2 if quick else 4)


def all_measured(quick: bool) -> dict[str, Any]:
    return {kind: measured(kind, quick) for kind in PAGES}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def size_table(found: dict[str, Any]) -> str:
    head = ["page", "MB in all", *(f"MB of {what}" for what in KINDS.values()), "s to write"]
    rows = [
        [
            kind,
            f"{one['size']:.1f}",
            *(f"{one['sizes'][each]:.1f}" for each in KINDS),
            f"{one['seconds']:.0f}",
        ]
        for kind, one in found.items()
    ]
    return table(head, rows)


def time_table(found: dict[str, Any]) -> str:
    lines = {
        "list ready, s": lambda one: f"{one['list']:.2f}",
        "first paint, s": lambda one: f"{one['paint']:.2f}",
        "everything loaded, s": lambda one: f"{one['loaded']:.2f}",
        "processor of the page for that, s": lambda one: f"{one['busy']:.2f}",
        "keystroke in the search for axes, ms": lambda one: pair(one["search"]),
        "keystroke in the search for rows, ms": lambda one: pair(one["rows"]),
        "axis opened, with its thumbnails, ms": lambda one: pair(one["axis"]),
        "row opened, ms": lambda one: pair(one["row"]),
        "frame while scrolling: median, 95 %, longest, ms": lambda one: ", ".join(
            f"{frame:.0f}" for frame in one["frames"]
        ),
        "heap of the script when loaded, MB": lambda one: f"{one['heap']:.1f}",
        "heap after all of this, MB": lambda one: f"{one['heap after']:.1f}",
    }
    rows = [[what, *(cell(one) for one in found.values())] for what, cell in lines.items()]
    return table(["", *found], rows)


def both_tables(found: dict[str, Any], folder: Path) -> str:
    return f"{size_table(found)}\n{time_table(found)}"


def pair(one: dict[str, float]) -> str:
    return f"{one['work']:.0f} ({one['busy']:.0f})"


def machine(quick: bool) -> str:
    """The machine, the version of Chromium, and how much else is running."""
    driver = chromium()
    version = driver.capabilities["browserVersion"]
    driver.quit()
    load = os.getloadavg()[1]
    return (
        f"{sections.machine(PACKAGES)} Chromium {version}. On average, {load:.0f} processes wanted "
        "to run at the end.\n"
    )


SECTIONS: dict[str, sections.Section] = {
    "pages": (all_measured, both_tables),
    "machine": (machine, lambda text, folder: text),
}

if __name__ == "__main__":
    assert __doc__
    sections.main("cedar_browser", __doc__, SECTIONS)
