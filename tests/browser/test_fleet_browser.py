# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the page of ``fleet report`` in a real browser, with typed-in answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drgn_pageowner.render.fleet_report import FleetSection, fleet_headline, fleet_html

pytest.importorskip("jinja2", reason="the extra report is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra browser (Playwright) is not installed"
)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TOTALS = {
    "dumps": 6, "hosts": 1, "kernels": 4, "dumps with findings": 5, "leaked pages": 1279,
}  # fmt: skip
LEAKS = FleetSection(
    "leaks",
    "Stacks with most leaked pages",
    ("stack_id", "allocator", "pages", "pages_per_hour", "dumps", "kernels", "worst_dump"),
    [
        ("182913f81a3aa3b8", "leak [m]", 80, None, 1, ["6.1.176"], "/srv/" + "dumps/" * 20 + "1"),
        ("4c9dc08e23c85cbf", "leak [m]", 60, None, 1, ["6.12.107"], "/srv/dumps/2"),
        ("d627a2acedb50995", "other", 9, None, 1, ["5.10", "6.1", "6.12", "7.2"], "/srv/dumps/2"),
    ],
)
CAUSES = FleetSection(
    "causes",
    "Known causes",
    ("rule", "level", "dumps", "for_example", "link", "worst_dump"),
    [("leak-of-module", "bad", 4, "The module m has leaked pages: nothing leads to them. " * 3,
      "https://docs.kernel.org/" + "mm/" * 30 + "page_owner.html", "/srv/dumps/1")],
)  # fmt: skip
HEADLINE = fleet_headline(TOTALS, LEAKS, CAUSES)

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt install chromium"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fleet") / "fleet.html"
    page = fleet_html("Fleet", "All dumps.", HEADLINE, list(TOTALS.items()), [LEAKS, CAUSES])
    path.write_text("".join(page))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, timeout=240_000)
        yield started
        started.close()


def opened(browser: Any, url: str, width: int, scheme: str = "light") -> Any:
    page = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme
    ).new_page()
    page.goto(url)
    return page


CUT = """[...document.querySelectorAll('.wide')].filter(
    box => box.scrollWidth > box.clientWidth || box.getBoundingClientRect().right > innerWidth)
    .length"""


@pytest.mark.parametrize("width", [390, 1400])
def test_the_first_screen_has_the_answer_and_nothing_is_cut_off(
    browser: Any, url: str, width: int
) -> None:
    page = opened(browser, url, width)
    headline = page.locator(".headline.bad")
    assert headline.inner_text() == (
        "5 of 6 dumps have findings; 1,279 pages leaked, 140 of these by leak [m], in 2 dumps; "
        "most common known cause: leak-of-module, in 4 dumps."
    )
    assert headline.bounding_box()["y"] < 400
    assert page.locator(".numbers li").all_inner_texts()[1].split() == ["1", "host"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == 0
    # No row has a value in this column.
    assert "pages per hour" not in page.inner_text("body")


def test_a_row_on_a_phone_is_a_list_of_named_values(browser: Any, url: str) -> None:
    page = opened(browser, url, 390)
    assert not page.locator("thead").first.is_visible()
    names = page.evaluate(
        "[...document.querySelectorAll('tbody tr')[0].cells].map("
        "cell => getComputedStyle(cell, '::before').content)"
    )
    assert names == [
        '"stack id"', '"allocator"', '"pages "', '"dumps "', '"kernels"', '"worst dump"',
    ]  # fmt: skip


def test_dark_and_paper_are_readable(browser: Any, url: str) -> None:
    colours = "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
    page = opened(browser, url, 1400, "dark")
    text, ground = (sum(map(int, c[4:-1].split(","))) for c in page.evaluate(colours))
    assert text - ground > 450
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print", color_scheme="dark")
    text, ground = (sum(map(int, c[4:-1].split(","))) for c in page.evaluate(colours))
    assert ground - text > 450
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate(CUT) == 0
    assert page.evaluate("getComputedStyle(document.querySelector('h2')).breakAfter") == "avoid"
