"""The page as people meet it: Chromium, without a window and without a network."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resprout.report.gather import Gathered
from resprout.report.page import write_page
from resprout.studies._study import Finding

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'resprout[dev]'")
playwright.expect.set_options(timeout=30_000)  # machines are busy
EVIL = "<img src=x onerror=document.title='hit'></script><script>document.title='hit'</script>{{ 7 * 7 }}"


def chromium() -> str | None:
    """Where the machine's own browser is; none is downloaded."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page that is open, and what it has said and asked for."""

    def __init__(self, browser: Any, file: Path, **how: Any):
        self.page = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | how)).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.drawn()

    def drawn(self) -> None:
        """Wait until every figure is."""
        self.page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60_000)

    def width(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth")

    def hover(self, figure: str, mark: str) -> str:
        """Move the mouse to the first mark of a figure, and return what is read there."""
        place = self.page.locator(figure)
        place.locator(mark).first.scroll_into_view_if_needed()
        box = place.locator(mark).first.bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2 - 1, box["y"] + box["height"] / 2)
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        label = place.locator(".hoverlayer .hovertext").first
        label.wait_for(timeout=30_000)
        return label.text_content()


@pytest.fixture(scope="module")
def file(comparison: Path) -> Path:
    return write_page(comparison)


@pytest.fixture(scope="module")
def visit(browser: Any, file: Path) -> Visit:
    return Visit(browser, file, color_scheme="light")


def test_it_draws_every_figure_says_nothing_and_asks_for_nothing(visit: Visit, file: Path):
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [file.as_uri()]
    plots = visit.page.locator(".fig:not([hidden]) .plot:not(.empty)")
    assert plots.count() >= 9
    assert visit.page.locator(".fig:not([hidden]) .plot.js-plotly-plot .main-svg").count() >= plots.count()
    assert all(label for label in plots.evaluate_all("all => all.map(p => p.getAttribute('aria-label'))"))


def test_hovering_shows_the_value(visit: Visit, comparison: Path):
    said = visit.hover("#p0 .fig", ".scatterlayer .trace:nth-child(1) .points path")
    line = next(x for x in Gathered.read(comparison).lines if x.arm == "one_way" and x.asked == "0.5")
    assert "one_way" in said
    assert f"test accuracy {100 * line.test[0]:.2f} % ± {100 * line.test[1]:.2f}" in said


def test_a_choice_changes_all_figures_below_it(visit: Visit):
    title = visit.page.locator(".fig-title", has_text="The way of")
    before = title.text_content()
    panel = visit.page.locator(".panel", has=title)
    panel.get_by_role("radio", name="one_way", exact=True).check(force=True)
    playwright.expect(title).to_have_text(re.compile("The way of one_way to"))
    playwright.expect(panel.locator(".plot").first).to_have_attribute("aria-label", re.compile("one_way falls to"))
    assert title.text_content() != before
    panel.get_by_role("radio", name="90 %", exact=True).focus()
    visit.page.keyboard.press("ArrowLeft")  # the keyboard is enough
    playwright.expect(title).to_have_text("The way of one_way to 50 %")


def test_the_path_is_a_path_to_hover_over_and_arrow_keys_read_it(visit: Visit):
    plot = visit.page.locator(".fig", has=visit.page.locator(".fig-title", has_text="The way of")).locator(".plot")
    plot.focus()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowRight")
    playwright.expect(visit.page.locator("#live")).to_contain_text("after")
    assert "validation" in plot.locator(".hoverlayer").text_content()


def test_the_numbers_of_a_figure_can_be_read_as_a_table(visit: Visit):
    figure = visit.page.locator("#p0 .fig")
    figure.locator("summary").click()
    playwright.expect(figure.locator("table caption")).to_have_text("Test accuracy over sparsity")
    assert figure.locator("table tr").count() == 1 + 2 * 3 + 1  # head, two arms at three budgets, dense
    assert "test accuracy" in figure.locator("table tr").nth(1).text_content()


def test_the_dark_scheme_changes_page_and_plots(visit: Visit):
    def colours() -> list[str]:
        read = "(e, name) => getComputedStyle(e)[name]"
        plot = visit.page.locator("#p0 .plot")
        return [
            visit.page.locator("body").evaluate(read, "backgroundColor"),
            plot.locator(".xtick text").first.evaluate(read, "fill"),
            plot.locator(".scatterlayer .js-line").first.evaluate(read, "stroke"),
        ]

    light = colours()
    visit.page.emulate_media(color_scheme="dark")
    ink = visit.page.locator("#p0 .xtick text").first
    playwright.expect(ink).not_to_have_css("fill", light[1], timeout=60_000)
    dark = colours()
    assert all(a != b for a, b in zip(light, dark, strict=True)), (light, dark)
    visit.page.emulate_media(color_scheme="light")
    playwright.expect(ink).to_have_css("fill", light[1], timeout=60_000)
    assert visit.said == []


def test_on_a_phone_nothing_is_wider_than_the_page(browser: Any, file: Path):
    phone = Visit(browser, file, viewport={"width": 375, "height": 800}, is_mobile=True, has_touch=True)
    assert phone.width() == 375
    assert phone.said == []
    wide = phone.page.locator(".plot .main-svg").evaluate_all(
        "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    assert wide <= 375


def test_what_users_write_is_only_read(browser: Any, comparison: Path, finding: Finding, tmp_path: Path):
    folder = tmp_path / "comparison"
    shutil.copytree(comparison, folder)
    gathered = Gathered.read(folder)
    for cell, row in gathered.rows.items():
        (cell.folder(folder) / "row.json").write_text(json.dumps(row | {"note": EVIL, "machine": EVIL}))
        detail = cell.folder(folder) / "detail.json"
        if detail.exists():  # layers are named by whoever wrote the network
            known = json.loads(detail.read_text())
            known["damage"] = {
                when: {f"{n}{EVIL}": v for n, v in found.items()} for when, found in known["damage"].items()
            }
            detail.write_text(json.dumps(known))
    facts = json.loads((folder / "compare.json").read_text())
    (folder / "compare.json").write_text(json.dumps(facts | {"failed": {EVIL: EVIL}, "command": EVIL}))
    facts = {
        "figures": [
            {"title": EVIL, "words": EVIL, "traces": [{"x": [1], "y": [2], "name": EVIL, "text": [EVIL]}], "layout": {}}
        ]
    }
    study = tmp_path / "study" / "finding.json"
    finding.write(study, name=EVIL, claim=EVIL, command=EVIL, configuration=EVIL)
    study.write_text(
        json.dumps(json.loads(study.read_text()) | facts | {"verdict": EVIL, "tables": {EVIL: [{EVIL: EVIL}]}})
    )
    visit = Visit(browser, write_page(folder, study.parent, out=tmp_path / "page.html"))
    assert visit.said == []
    assert "hit" not in visit.page.title()
    assert visit.page.locator("img").count() == 0
    assert visit.page.locator("script").count() == 3
    assert visit.page.locator("h2", has_text="<img src=x onerror").count() == 1
    visit.page.locator(".numbers summary").first.click()
    assert visit.page.locator("img").count() == 0
    assert "{{ 7 * 7 }}" in visit.page.content()
