"""The browser of axes and the reports in Chromium: what they do, for whom, and what they do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import laplex.demo
from chromium_cases import Tab, chromium_offline
from laplex._support.html_pages import Table, render_page
from laplex.cedar import CEDAR, browse, name_axes, report, top_examples
from laplex.early_exit import report as exits_report
from laplex.early_exit.evaluation.evaluator import evaluate_outputs
from laplex.early_exit.evaluation.outputs import Outputs

D, ROWS = 24, 3000
#: Each of them would change the title of the page if it ran.
HOSTILE = (
    "<img src=x onerror=\"document.title = 'ran'\">",
    "</script><script>document.title = 'ran'</script>",
    "<!--<script>",
    '"onfocus="document.title = \'ran\'" autofocus x="',
    "javascript:document.title='ran'",
    "two\u2028lines\u2029here",
    "\u202eright to left",
    "\u0627\u0644\u0645\u062d\u0648\u0631",
    "half a pair \ud800",
    "&lt;b&gt; {{ 7 * 7 }} ${7 * 7} `",
)
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    with chromium_offline() as browser:
        yield browser


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((ROWS, D)) * (rng.random((ROWS, D)) < 0.2)
    return codes @ np.linalg.qr(rng.standard_normal((D, D)))[0]


@pytest.fixture(scope="module")
def model(embeddings) -> CEDAR:
    return CEDAR(k=4, n_init=3, random_state=0).fit(embeddings)


@pytest.fixture(scope="module")
def names(model):
    """Axes 0 to 9 have hostile names; from 10 on, only one end has a name; the last has none."""
    words = [*HOSTILE, *(f"up {axis}" for axis in range(len(HOSTILE), D - 1))]
    words += [f"{word} below" for word in HOSTILE]
    texts = np.vstack([np.eye(D)[:-1], -np.eye(D)[: len(HOSTILE)]]) @ model.atoms_
    return name_axes(model, texts, words, text_mean=np.zeros(D), threshold=0.5)


@pytest.fixture(scope="module")
def pages(model, embeddings, names, tmp_path_factory) -> dict[str, str]:
    """The addresses of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    items = [f"text number {row}, {HOSTILE[row % len(HOSTILE)]}" for row in range(ROWS)]
    pictures = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8), np.uint8)
    about: dict[str, Any] = {"names": names, "items": items, "title": HOSTILE[1]}
    browse(model, embeddings, out=folder / "texts.html", **about)
    browse(model, embeddings, out=folder / "pictures.html", thumbnails=pictures, **about)
    large = 1e4 * embeddings
    odd = np.vstack([large, np.full((1, D), 1e30)])
    without = [None, *[""] * ROWS]
    browse(CEDAR(k=2, max_iter=3).fit(large), odd, out=folder / "plain.html", items=without)
    report(
        model, embeddings, out=folder / "cedar.html", compare=False, max_axes=4, names=names,
        items=items,
    )  # fmt: skip
    exits_report(_evaluation(), out=folder / "exits.html")
    (folder / "demo.html").write_text(_demo(), encoding="utf-8")
    return {path.stem: path.as_uri() for path in folder.iterdir()}


REPORTS = ("cedar", "exits", "demo")
BROWSERS = (
    "texts",
    "texts#axis-3",
    "texts#row-1",
    "pictures#axis-2",
    "plain#axis-0",
    "plain#row-5",
)


def _evaluation() -> Any:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 120, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 120)
    logits[:, np.arange(120), labels] += np.array([1, 2, 3])[:, None]
    return evaluate_outputs(Outputs(logits, labels, ("a", "b", "output")), (0.4, 0.7, 1.05))


def _demo() -> str:
    """The page of the demo with stand-ins for its results, which take seconds."""
    template = (Path(laplex.demo.__file__).parent / "report.html").read_text("utf-8")
    values: dict[str, Any] = dict.fromkeys(re.findall(r"\{\{ (\w+) \}\}", template), "A sentence.")
    for name in re.findall(r"\{\{ table\((\w+)\) \}\}", template):
        values[name] = Table(["name", "number"], [["one", "1.0"], ["two", "2.0"]], {(1, 1)})
    for name in re.findall(r"\{\{ picture\((\w+)", template):
        values[name] = b""
    return render_page("laplex.demo", "report.html", extra="demo", title="Demo", **values)


@pytest.fixture
def tab(chromium, pages) -> Tab:
    found = Tab(chromium, pages)
    found.complaints()  # those of other tests
    return found


# --- the browser of axes --------------------------------------------------------------------------


def test_lists_and_sorts_every_axis(tab, model, embeddings):
    tab.open("texts")
    codes = model.transform(embeddings)
    by_energy = np.argsort(-np.square(codes).sum(0))
    by_frequency = np.argsort(-(codes != 0).sum(0), kind="stable")
    stability = np.sort(model.confirmation_.cosine, axis=0)[-2]
    assert tab.text("#status") == f"{D} of {D} axes"
    first = tab.listed()
    assert len(first) > 8
    assert first == by_energy[: len(first)].tolist()
    for how, expected in (
        ("frequency", by_frequency),
        ("stability", np.argsort(-stability.astype(np.float32), kind="stable")),
        ("number", np.arange(D)),
    ):
        Select(tab.find("#sort")).select_by_value(how)
        assert tab.listed() == expected[: len(first)].tolist(), how


def test_names_are_sorted_and_axes_without_one_come_last(tab):
    tab.open("texts")
    Select(tab.find("#sort")).select_by_value("name")
    assert tab.run("document.querySelector('#items').style.height") == f"{56 * D}px"
    tab.find("#list").send_keys(Keys.END)
    tab.until(lambda: tab.listed()[-1] == D - 1)
    named = [axis for axis in tab.listed() if 10 <= axis < D - 1]
    assert named == sorted(named)


def test_searches_names_and_filters(tab, model):
    tab.open("texts")
    tab.search("UP 1")  # upper and lower case are the same
    assert sorted(tab.listed()) == list(range(10, 20))
    for query in ("12", "axis 12", "Axis 12"):
        tab.search(query)
        assert tab.listed()[0] == 12, query
    tab.search("no such name")
    assert (tab.listed(), tab.text("#status")) == ([], f"0 of {D} axes")
    tab.search("")
    tab.find("#named").click()
    assert tab.text("#status") == f"{D - 1} of {D} axes"
    tab.find("#confirmed-only").click()
    both = int(model.confirmed_[:-1].sum())
    assert tab.text("#status") == f"{both} of {D} axes"


def test_an_axis_shows_what_was_measured(tab, model, embeddings, names):
    axis = 12
    tab.open(f"texts#axis-{axis}")
    codes = model.transform(embeddings)[:, axis]
    found = top_examples(model, embeddings, 9)
    assert tab.texts("#shown h2") == [f"Axis {axis} ✓ confirmed"]
    figure = str(tab.find("#shown svg").get_attribute("aria-label"))
    assert f"{(codes < 0).sum()} below 0 and {(codes > 0).sum()} above 0" in figure
    for end, rows in (("up", found.positive[axis]), ("down", found.negative[axis])):
        shown = tab.texts(f".end.{end} li a")
        assert [int(re.findall(r"\d+", one)[0]) for one in shown] == rows.tolist()
    assert tab.texts(".end .name") == [f"up {axis}"]
    name = names[axis].positive
    note = f"score {name.score:.3f}, margin {name.margin:.3f} over “{name.runner_up}”"
    assert tab.text(".end.up .note") == note.replace("\ud800", "?")
    sizes = np.abs(model.transform(embeddings))
    cosines = sizes.T @ sizes[:, axis] / np.linalg.norm(sizes, axis=0)
    cosines[axis] = -1
    similar = tab.texts("#shown h3 + ul.texts:last-child a")
    assert int(similar[0].split()[1]) == cosines.argmax()


def test_a_row_shows_its_code(tab, model, embeddings):
    tab.open("texts#row-2999")
    code = model.transform(embeddings[2999:])[0]
    order = [axis for axis in np.argsort(-np.abs(code)) if code[axis]]
    assert [int(one.split()[1]) for one in tab.texts("td a")] == order
    values = [float(one.replace("−", "-")) for one in tab.texts("#shown td:nth-child(2)")]
    # Half precision keeps 11 bits, and three digits are shown.
    np.testing.assert_allclose(values, code[order], rtol=2**-11 + 0.5e-2)
    assert tab.text("#shown .text").startswith("text number 2999")


def test_searches_rows_by_number_and_text(tab):
    tab.open("texts")
    tab.find("label[for=mode-rows]").click()
    assert tab.text("#status") == "3,000 of 3,000 rows"
    assert 8 < len(tab.texts(".option")) < 40  # only those in view are in the page
    assert tab.find(".option").get_attribute("aria-setsize") == "3000"
    for query in ("2717", "row 2717", "Row 2,717"):
        tab.search("no such text")
        tab.until(lambda: tab.listed() == [])
        tab.search(query)
        tab.until(lambda: tab.text("#status") == "1 of 3,000 rows")
        assert tab.listed() == [2717], query
    tab.search("number 27")
    tab.until(lambda: tab.text("#status") == "111 of 3,000 rows")
    tab.find("#query").send_keys(Keys.ENTER)
    tab.until(lambda: tab.text("#shown h2") == "Row 27")


def test_fragments_lead_to_axes_and_rows_and_back(tab):
    tab.open("texts#axis-12")
    tab.find(".end.up li a").click()
    tab.until(lambda: tab.text("#shown h2").startswith("Row"))
    tab.find("#shown td a").click()
    tab.until(lambda: tab.text("#shown h2").startswith("Axis"))
    tab.chromium.back()
    tab.until(lambda: tab.text("#shown h2").startswith("Row"))
    tab.chromium.back()
    tab.until(lambda: tab.text("#shown h2").startswith("Axis 12"))
    assert tab.chromium.title.startswith("Axis 12 – ")
    opened = ".option.active[aria-selected=true] .number"  # where the keys of the list start
    tab.until(lambda: tab.text(opened) == "Axis 12")
    for nowhere in ("axis-24", "row-3000", "axis--1", "axis-1e3", "<img src=x>", "axis-1</script>"):
        tab.open(f"texts#{nowhere}")
        assert tab.text("#shown") == ""
        assert "Keys" in tab.text("#about")


def test_everything_works_with_the_keyboard(tab):
    tab.open("texts")
    tab.keys("/")
    assert tab.focused() == "query"
    tab.keys("up 1")
    assert tab.text("#status") == f"10 of {D} axes"
    tab.keys(Keys.ARROW_DOWN)
    assert tab.focused() == "list"
    second = tab.listed()[1]
    tab.keys(Keys.ARROW_DOWN)
    active = tab.find("#list").get_attribute("aria-activedescendant")
    assert tab.text(f"#{active}").startswith(f"Axis {second}")
    tab.keys(Keys.ENTER)
    tab.until(lambda: tab.text("#shown h2").startswith(f"Axis {second} "))
    assert tab.run("document.activeElement === document.querySelector('#shown h2')")
    assert tab.find(f"#{active}").get_attribute("aria-selected") == "true"
    tab.keys(Keys.ESCAPE)
    assert tab.focused() == "query"
    tab.keys(Keys.ESCAPE)
    assert tab.text("#status") == f"{D} of {D} axes"
    tab.keys(Keys.ARROW_DOWN, Keys.END)
    tab.until(lambda: tab.find("#list").get_attribute("aria-activedescendant") == f"option-{D - 1}")
    tab.keys(Keys.HOME, Keys.PAGE_DOWN)
    tab.until(lambda: tab.find("#list").get_attribute("aria-activedescendant") == "option-8")


def test_the_tab_key_reaches_every_control(tab):
    tab.open("texts#axis-12")
    tab.run("document.activeElement.blur()")
    reached = set()
    for _ in range(14):
        tab.keys(Keys.TAB)
        reached.add(tab.focused())
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle !== 'none' "
                       "|| document.activeElement.matches('[type=radio]')")  # fmt: skip
    controls = {"theme-auto", "mode-axes", "query", "sort", "named", "confirmed-only", "list"}
    assert reached >= controls


def test_nothing_hostile_runs(tab):
    for page in ("texts", "pictures"):
        tab.open(page)
        for axis, hostile in enumerate(HOSTILE):
            tab.run("location.hash = arguments[0]", f"axis-{axis}")
            tab.until(lambda: tab.text("#shown h2").startswith(f"Axis {axis} "))  # noqa: B023
            shown = tab.run("document.querySelector('.end.up .name').textContent")
            assert shown == hostile.replace("\ud800", "?")
            style = tab.run("getComputedStyle(document.querySelector('.end .name')).unicodeBidi")
            assert style == "isolate"
            assert tab.run("document.querySelectorAll('#shown script, #shown b').length") == 0
            sources = tab.run("[...document.images].map((one) => one.src)")
            assert all(one.startswith("data:image/webp;base64,") for one in sources)
        assert tab.chromium.title != "ran"
    assert tab.open("cedar").chromium.title == "CEDAR report"
    assert tab.complaints() == []


def test_thumbnails_are_drawn_without_loss(tab):
    tab.open("pictures#axis-12")
    script = "Promise.all([...document.images].map((one) => one.decode()))"
    tab.chromium.execute_async_script(f"{script}.then(arguments[arguments.length - 1])")
    assert tab.run("[...document.images].map((one) => one.naturalWidth)") == [8] * 18
    row = int(re.findall(r"\d+", tab.find(".end.up a").get_attribute("href"))[-1])
    pixels = tab.run(
        "((image) => { const canvas = document.createElement('canvas'); canvas.width = 8; "
        "canvas.height = 8; const on = canvas.getContext('2d'); on.drawImage(image, 0, 0); "
        "return [...on.getImageData(0, 0, 8, 8).data]; })(document.images[0])"
    )
    drawn = np.array(pixels).reshape(8, 8, 4)[:, :, 0]
    expected = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8), np.uint8)[row]
    np.testing.assert_array_equal(drawn, expected)


def test_numbers_of_any_size_are_readable(tab):
    tab.open("plain#row-5")
    values = tab.texts("#shown td:nth-child(2)")
    assert len(values) == 2  # not rounded to 0 beside the row of 1e30
    assert all(re.fullmatch(r"−?(\d,\d{3}|\d\d,\d00)", value) for value in values)
    tab.open(f"plain#row-{ROWS}")
    assert all("e+" in value for value in tab.texts("#shown td:nth-child(2)"))


def test_rows_without_a_text_are_named_by_their_number(tab):
    tab.open("plain#axis-1")
    assert all(re.fullmatch(r"row [\d,]+", one) for one in tab.texts(".end li a"))
    tab.find("label[for=mode-rows]").click()
    assert tab.texts(".option .second")[:2] == ["", ""]


def test_what_is_not_known_is_not_offered(tab):
    tab.open("plain#axis-1")
    options = tab.texts("#sort option")
    assert options == ["energy", "frequency", "number"]
    assert tab.text("#shown h2") == "Axis 1 ? not tested"
    assert not tab.find("#named").is_displayed()
    assert not tab.find("#confirmed-only").is_displayed()
    tab.open("plain")
    assert "It is unknown whether other rows confirm these axes" in tab.text("#about")


# --- every page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*REPORTS, *BROWSERS[:4]])
def test_nobody_is_shut_out(tab, page):
    for theme in THEMES:
        # The dark theme differs in colours alone.
        options = {"runOnly": ["color-contrast"]} if theme == "dark" else None
        found = Axe().run(tab.open(page, theme).chromium, options=options)
        listed = [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]]
        assert listed == [], theme
    assert tab.complaints() == []


SMALL = ((360, 800), (320, 425), (640, 200), (1200, 107))  # the last three: zoomed by 200 to 400 %


@pytest.mark.parametrize("page", [*REPORTS, *BROWSERS])
def test_small_windows_scroll_in_one_direction_and_nothing_overlaps(tab, page):
    tab.open(page)
    for width, height in SMALL:
        tab.resize(width, height)
        assert tab.run("document.documentElement.scrollWidth") <= width
        heights = tab.run("[...document.querySelectorAll('.bar strong, .bar label')]"
                          ".map((one) => one.offsetHeight)")  # fmt: skip
        assert max(heights) < 40, "a word of the head is broken"
        if page in BROWSERS and height < 800:
            assert tab.run("document.querySelector('#list').clientHeight") > 150
            edge = "document.querySelector('%s').getBoundingClientRect().%s"
            assert tab.run(edge % ("#list", "bottom")) <= tab.run(edge % ("#detail", "top"))
            scrolled = "((one) => one.scrollHeight > one.clientHeight)"
            assert not tab.run(f"{scrolled}(document.querySelector('#detail'))")


@pytest.mark.parametrize("page", ["cedar", "texts"])
def test_the_theme_can_be_chosen(tab, page):
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}

    def background() -> str:
        return str(tab.run("getComputedStyle(document.body).backgroundColor"))

    for system in THEMES:
        tab.open(page, system)
        assert background() == backgrounds[system]
        for chosen in THEMES:
            tab.find(f"label[for=theme-{chosen}]").click()
            assert background() == backgrounds[chosen]
        tab.find("label[for=theme-auto]").click()
        assert background() == backgrounds[system]


@pytest.mark.parametrize("page", ["cedar", "texts#axis-12"])
def test_prints_the_content_alone_and_dark_on_white(tab, page):
    tab.open(page, "dark")
    tab.media("dark", "print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in (".bar", ".sections", ".panel"):
        for one in tab.chromium.find_elements(By.CSS_SELECTOR, selector):
            assert not one.is_displayed()
    assert tab.find("main h2:not(#about h2)").is_displayed()
    tab.media("light")
    printed = tab.chromium.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert printed.startswith("JVBERi")  # %PDF-


def test_sections_are_listed_and_linked(tab):
    tab.open("exits")
    assert tab.texts(".sections a") == tab.texts("h2")
    tab.find(".sections li:nth-child(3) a").click()
    top = tab.run("document.querySelector('#section-3').getBoundingClientRect().top")
    assert 0 <= top < 200  # in view, and not behind the bar
