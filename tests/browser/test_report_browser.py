# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the HTML page of a report in a real browser, without a network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import bundled

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("plotly", reason="the extra report is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra browser (Playwright) is not installed"
)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Long enough for a busy machine.
PATIENCE_MS = 240_000

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt install chromium"
)


class Opened:
    """An open page, with its messages and requests."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-drawn]", state="attached")

    def until(self, expression: str) -> None:
        """Wait until a condition is true. Playwright's own function needs eval(), which the page's
        policy forbids."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_text_contents()
        return found

    def bars(self) -> list[str]:
        """Return the drawn functions of the flame graph."""
        labels: list[str] = self.page.evaluate(
            "document.getElementById('chart-flame').data[0].labels"
        )
        return labels


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "traps.html"
    bundled("linux-6.12/traps").run("report", path, check=True)
    return path.as_uri()


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    """Return the report as JSON."""
    said = bundled("linux-6.12/traps").run("report", "--format", "json", check=True).stdout
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(
            executable_path=str(CHROMIUM), args=FLAGS, timeout=PATIENCE_MS
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def wide(browser: Any, url: str) -> Opened:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    return Opened(context.new_page(), url)


def test_all_charts_are_drawn_and_no_request_leaves_the_file(wide: Opened, url: str) -> None:
    empty = wide.page.evaluate(
        "[...document.querySelectorAll('.chart')].filter(c => !c.querySelector('svg'))"
        ".map(c => c.id)"
    )
    assert empty == []
    assert wide.page.locator(".chart").count() >= 6
    assert wide.page.locator("#chart-treemap .slice").count() > 40
    assert wide.said == []
    assert [asked for asked in wide.asked if not asked.startswith(("data:", "blob:"))] == [url]


def test_no_chart_is_wider_than_its_place(wide: Opened) -> None:
    # This is the first test that measures: later ones cause charts to be drawn again.
    too_wide = wide.page.evaluate(
        """[...document.querySelectorAll('.chart')].filter(
            chart => [...chart.querySelectorAll('svg')].some(svg =>
                svg.getBoundingClientRect().right > chart.getBoundingClientRect().right + 1))
        .map(chart => chart.id || chart.getAttribute('aria-label'))"""
    )
    assert wide.page.locator("#maps svg").count() >= 2
    assert too_wide == []


def test_search_finds_the_planted_allocators(wide: Opened) -> None:
    for planted in ("po_leak_kmalloc_large", "po_frag_comb"):
        wide.page.fill("#flame-search", planted)
        [found] = wide.texts("#flame-found")
        assert re.search(r"^1 function matches; through it \d", found)
        [match] = wide.texts("#flame-matches button")
        assert match.startswith(planted)
    wide.page.fill("#flame-search", "no_such_function")
    assert "No function" in wide.texts("#flame-found")[0]
    wide.page.fill("#flame-search", "")


def test_what_is_found_can_be_zoomed_into(wide: Opened) -> None:
    assert "all stacks" in wide.bars()
    wide.page.fill("#flame-search", "po_leak_kmalloc_large")
    wide.page.click("#flame-matches button")
    assert wide.bars()[0] == "po_leak_kmalloc_large [po_leak]"
    assert wide.texts("#flame-path button")[:2] == ["all stacks", "entry_SYSCALL_64_after_hwframe"]
    assert wide.texts("#flame-selected")[0].startswith(
        "po_leak_kmalloc_large [po_leak]: 320.0 KiB ("
    )
    wide.page.click("#flame-path button >> nth=0")
    assert wide.bars()[0] == "all stacks"
    wide.page.fill("#flame-search", "")


def test_reverse_begins_with_the_allocators(wide: Opened) -> None:
    wide.page.fill("#flame-search", "po_leak")
    wide.page.check("#flame-only")
    assert wide.bars()[:2] == ["stacks that match", "entry_SYSCALL_64_after_hwframe"]
    wide.page.check("#flame-reverse")
    assert wide.bars()[:2] == ["stacks that match", "po_leak_kmalloc_large [po_leak]"]
    wide.page.uncheck("#flame-reverse")
    wide.page.uncheck("#flame-only")
    wide.page.fill("#flame-search", "")
    assert wide.bars()[:2] == ["all stacks", "asm_exc_page_fault"]


def test_a_bar_is_zoomed_into_by_click_and_by_keyboard(wide: Opened) -> None:
    wide.page.evaluate(
        """[...document.querySelectorAll('#chart-flame g.slice')].find(
            slice => slice.textContent.startsWith('exc_page_fault')
        ).querySelector('path.surface').dispatchEvent(new MouseEvent('click', {bubbles: true}))"""
    )
    wide.until("document.getElementById('chart-flame').data[0].labels[0] === 'exc_page_fault'")
    wide.page.focus("#chart-flame")
    wide.page.keyboard.press("Escape")
    assert wide.bars()[0] == "asm_exc_page_fault"
    wide.page.keyboard.press("Escape")
    assert wide.bars()[0] == "all stacks"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        wide.page.keyboard.press(key)
    # Select the root, then its first child, then the next child.
    assert wide.texts("#flame-selected")[0].startswith("entry_SYSCALL_64_after_hwframe: ")
    wide.page.keyboard.press("Enter")
    assert wide.bars()[0] == "entry_SYSCALL_64_after_hwframe"
    wide.page.click("#flame-reset")


def test_the_first_screen_has_the_answer(wide: Opened) -> None:
    assert wide.texts(".headline") == [
        "1.2 MiB leaked, 1.0 MiB of it by 9 functions of the module po_leak."
    ]
    box = wide.page.locator(".headline").bounding_box()
    assert box["y"] + box["height"] < 900
    assert "traps/vmcore" in wide.page.title()
    assert re.search(r"build ID [0-9a-f]{40}", wide.texts(".source")[0])
    levels = wide.page.evaluate(
        "[...document.querySelectorAll('.verdict')].map(v => v.dataset.level)"
    )
    order = ["bad", "warning", "note", "good"]
    assert levels == sorted(levels, key=order.index)
    # Good verdicts are collapsed.
    assert not wide.page.locator("[data-level=good].verdict").first.is_visible()
    wide.page.click(".fine > summary")
    assert wide.page.locator("[data-level=good].verdict").first.is_visible()


def test_processes_and_drivers_come_first_and_are_those_of_json(
    wide: Opened, numbers: dict[str, Any]
) -> None:
    titles = wide.texts("#stacks h3")
    assert titles[0].startswith("Processes")
    assert titles[1].startswith("Drivers")
    for by in ("process", "driver"):
        shown = wide.texts(f"[data-table={by}] tbody td:nth-child(2)")
        held = [f"{one['pages']:,}" for one in numbers["holders"][by]["holders"]]
        assert shown == held[: len(shown)]


def test_headline_leaks_and_owners_are_those_of_json(wide: Opened, numbers: dict[str, Any]) -> None:
    assert wide.texts(".headline") == [numbers["headline"]]
    said = {v["text"] for v in numbers["verdicts"]}
    assert {text.strip() for text in wide.texts(".verdict > div > p:first-child")} == said
    classes = {c["name"]: c["pages"] for c in numbers["account"]["classes"]}
    tiles = dict(zip(wide.texts(".tile dt"), wide.texts(".tile span"), strict=True))
    assert tiles["Memory"] == f"{sum(classes.values()):,} pages"
    leaks = numbers["leaks"]
    assert tiles["Leaked"] == f"{leaks['lost_allocations']} allocations"
    # A row of the table is an owner, which has one or several groups of JSON.
    pages: dict[tuple[str, bool], int] = {}
    for group in leaks["groups"]:
        key = (re.sub(r"\+0x\w+/0x\w+", "", group["allocator"]), group["confidence"] == "low")
        pages[key] = pages.get(key, 0) + group["pages"]
    owners = wide.texts("[data-table=leaks] tbody td:first-child summary")
    confidences = wide.texts("[data-table=leaks] tbody td:nth-child(7)")
    found = [int(text) for text in wide.texts("[data-table=leaks] tbody td:nth-child(2)")]
    keys = zip(owners, (confidence == "low" for confidence in confidences), strict=True)
    assert dict(zip(keys, found, strict=True)) == pages
    for by in ("allocator", "stack", "comm", "module"):
        groups = numbers["top"][by]["groups"]
        for place, member in ((2, "pages"), (5, "allocations")):
            shown = wide.texts(f"[data-table={by}] tbody td:nth-child({place})")
            assert shown
            assert shown == [f"{group[member]:,}" for group in groups[: len(shown)]]
    shown = wide.texts("[data-table=classes] tbody td:nth-child(2)")
    assert len(shown) > 10
    assert shown == [f"{number:,}" for number in classes.values()][: len(shown)]


def test_files_are_those_of_json(wide: Opened, numbers: dict[str, Any]) -> None:
    shown = wide.texts("[data-table=files] tbody tr td:first-child")
    files = numbers["files"]
    assert "/bin/busybox" in {one["path"] for one in files}
    assert [text.strip() for text in shown] == [
        one["path"] or "(no path)" for one in files[: len(shown)]
    ]
    pages = wide.texts("[data-table=files] tbody tr td:nth-child(2)")
    assert pages == [f"{one['pages']:,}" for one in files[: len(pages)]]
    first = wide.texts("[data-table=process] tbody tr:first-child")[0]
    assert "Command line: /bin/truth" in first


# Find the chart (or its container) below a heading, and the elements between them.
PAPER = """() => [...document.querySelectorAll('.chart')].map(chart => {
    const before = [];
    let one = chart;
    while (one && !/^H[23]$/.test(one.tagName)) {
        one = one.previousElementSibling || one.parentElement;
        const style = getComputedStyle(one);
        if (!one.contains(chart) && style.display !== 'none') before.push(style.breakAfter);
    }
    return [one && one.textContent, getComputedStyle(chart).breakInside, before];
})"""


def test_no_heading_is_parted_from_its_chart_on_paper(wide: Opened) -> None:
    wide.page.emulate_media(media="print")
    charts = wide.page.evaluate(PAPER)
    assert len(charts) >= 4
    for title, inside, before in charts:
        assert title
        assert inside == "avoid", title
        assert before, title
        assert set(before) == {"avoid"}, title
    # Nobody can press keys on paper.
    assert not any(
        "keyboard" in text for text in wide.page.locator("main").inner_text().split("\n")
    )
    cards = "[...document.querySelectorAll('.card:has(.facts)')]"
    assert wide.page.evaluate(f"{cards}.map(card => getComputedStyle(card).breakInside)") == [
        "avoid", "avoid", "avoid"][: wide.page.locator(".card:has(.facts)").count()]  # fmt: skip
    # A paragraph before a chart or a table is not broken either.
    leading = "[...document.querySelectorAll('section > p, .table-block > .note')]"
    assert wide.page.evaluate(f"{leading}.length") > 5
    assert set(wide.page.evaluate(f"{leading}.map(p => getComputedStyle(p).breakInside)")) == {
        "avoid"
    }
    feet = "[...document.querySelectorAll('.table-foot')]"
    assert set(wide.page.evaluate(f"{feet}.map(p => getComputedStyle(p).breakBefore)")) == {"avoid"}
    pdf = wide.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    wide.page.emulate_media(media="screen")


def test_open_rows_are_as_wide_as_the_paper(wide: Opened) -> None:
    before = wide.texts("[data-table=leaks] details")
    wide.page.emulate_media(media="print")
    wide.until("document.querySelectorAll('[data-table=leaks] tr.across').length === 14")
    narrow, page = wide.page.evaluate("""[...document.querySelectorAll(
        '[data-table=leaks] tr.across pre')].map(pre => [pre.getBoundingClientRect().width,
        pre.closest('table').getBoundingClientRect().width])[0]""")
    assert narrow > 0.9 * page
    # Chromium repeats the header on every page, but not the buttons in it.
    header = wide.page.evaluate("""[...document.querySelectorAll('[data-table=leaks] th')].map(
        th => [getComputedStyle(th, '::before').content,
               getComputedStyle(th.querySelector('button')).display])""")
    assert header[0] == ['"owner"', "none"]
    wide.page.emulate_media(media="screen")
    wide.until("document.querySelectorAll('tr.across').length === 0")
    assert wide.texts("[data-table=leaks] details") == before


def test_no_table_is_cut_off_on_a_wide_screen(wide: Opened) -> None:
    cut = wide.page.evaluate("""[...document.querySelectorAll('.scroll')].filter(
        box => box.scrollWidth > box.clientWidth).map(box => box.querySelector('table').id)""")
    assert cut == []


def test_views_of_the_flame_graph_are_those_of_json(wide: Opened, numbers: dict[str, Any]) -> None:
    stacks = numbers["flame"]["stacks"]
    whole = {
        "all": numbers["flame"]["pages"],
        "kernel": sum(s["pages"] - s["process"] for s in stacks),
        "leaked": sum(s["lost"] for s in stacks),
    }
    assert whole["leaked"] == numbers["leaks"]["lost_pages"]
    for view, pages in whole.items():
        wide.page.check(f"input[name=flame-view][value={view}]")
        values = wide.page.evaluate("document.getElementById('chart-flame').data[0].values")
        assert values[0] == pages
    assert "po_leak_kmalloc_large [po_leak]" in wide.bars()
    # Bars that are wide enough show their size.
    texts = wide.page.evaluate("document.getElementById('chart-flame').data[0].text")
    assert texts[0] == "leaked  1.2 MiB"
    wide.page.check("input[name=flame-view][value=all]")
    colours = wide.page.evaluate(
        "[...document.querySelectorAll('#flame-legend .swatch')]"
        ".map(s => getComputedStyle(s).backgroundColor)"
    )
    assert len(set(colours)) == 4


def test_free_memory_can_be_hidden(wide: Opened, numbers: dict[str, Any]) -> None:
    chart = "document.getElementById('chart-treemap').data[0]"
    size = numbers["kernel"]["page_size"]
    classes = {one["name"]: one["pages"] for one in numbers["account"]["classes"]}
    free = sum(pages for name, pages in classes.items() if name.startswith("free"))
    before = wide.page.evaluate(f"{chart}.values[0]")
    wide.page.check("#treemap-used")
    wide.until(f"{chart}.values[0] === {before - free * size}")
    labels = wide.page.evaluate(f"{chart}.labels")
    assert "driver or other kernel" in labels
    assert not [label for label in labels if label.startswith("free")]
    visible = wide.page.evaluate(
        """[...document.querySelectorAll('#chart-treemap text.slicetext')].filter(
            text => text.style.visibility !== 'hidden').map(text => text.textContent)"""
    )
    assert any(text.startswith("driver or other kernel") for text in visible)
    wide.page.uncheck("#treemap-used")
    wide.until(f"{chart}.values[0] === {before}")


def test_ages_fit_the_uptime_and_add_up(wide: Opened, numbers: dict[str, Any]) -> None:
    traces = wide.page.evaluate("document.getElementById('chart-ages').data")
    [line] = [trace for trace in traces if trace["type"] == "scatter"]
    assert line["x"] == [band["age"] for band in numbers["ages"]]
    assert line["x"] == ["< 1 s", "1-2 s", "2-5 s", "5-10 s", "10-20 s", "> 20 s"]
    pages = [band["pages"] for band in numbers["ages"]]
    assert line["y"] == pytest.approx(
        [100 * sum(pages[: place + 1]) / sum(pages) for place in range(len(pages))]
    )


def test_paper_has_all_leaks_with_their_stacks(wide: Opened) -> None:
    wide.page.emulate_media(media="print")
    wide.until("document.querySelectorAll('[data-table=leaks] details[open]').length === 14")
    assert wide.page.locator("[data-table=leaks] pre").first.is_visible()
    assert wide.page.locator("[data-table=stack] details[open]").count() == 5
    wide.until(
        """[...document.querySelectorAll('.chart svg.main-svg')]
        .every(svg => svg.getBoundingClientRect().width <= 690)"""
    )
    wide.page.emulate_media(media="screen")
    wide.until("document.querySelectorAll('[data-table=leaks] details[open]').length === 0")


def test_the_treemap_opens_a_class(wide: Opened) -> None:
    wide.page.evaluate(
        """[...document.querySelectorAll('#chart-treemap g.slice')].find(
            slice => slice.textContent.startsWith('driver or other kernel')
        ).querySelector('path.surface').dispatchEvent(new MouseEvent('click', {bubbles: true}))"""
    )
    wide.until("document.getElementById('chart-treemap').textContent.includes('po_frag_comb')")


def test_tables_sort_and_say_so(wide: Opened) -> None:
    header = wide.page.locator("[data-table=leaks] th").nth(1)
    for wanted in ("descending", "ascending"):
        header.locator("button").focus()
        wide.page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == wanted
        values = [
            int(text.replace(",", ""))
            for text in wide.texts("[data-table=leaks] tbody td:nth-child(2)")
        ]
        assert len(values) == 14
        assert values == sorted(values, reverse=wanted == "descending")


def test_tables_filter_and_show_all(wide: Opened) -> None:
    block = "[data-block=allocator]"
    wide.page.fill(f"{block} input", "po_frag comb")
    names = wide.texts(f"{block} tbody summary")
    assert names == ["po_frag_comb [po_frag]"]
    assert wide.texts(f"{block} [data-count]")[0].startswith("1 of 1 rows, 100 without")
    wide.page.fill(f"{block} input", "")
    wide.page.click(f"{block} .table-foot button")
    assert wide.page.locator(f"{block} tbody tr").count() == 100


def test_a_row_opens_to_its_stack(wide: Opened) -> None:
    wide.page.fill("[data-block=leaks] input", "po_leak_kmalloc_large")
    row = wide.page.locator("[data-table=leaks] tbody tr").first
    row.locator("summary").focus()
    wide.page.keyboard.press("Enter")
    assert row.locator("pre").is_visible()
    assert "leak_all" in row.locator("pre").inner_text()


def test_the_map_is_read_by_keyboard(wide: Opened) -> None:
    wide.page.focus("#maps [role=application]")
    for key in ("End", "Home", "ArrowRight"):
        wide.page.keyboard.press(key)
    assert wide.texts("#map-cell")[0].startswith("Node 0, zone DMA32: pfn:0x200, ")


def test_everything_has_a_name(wide: Opened) -> None:
    nameless = wide.page.evaluate(
        """[...document.querySelectorAll('button, input, [role=application], [role=region], nav')]
        .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length
            || document.getElementById(e.getAttribute('aria-labelledby'))))
        .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    levels = wide.page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


TICK = "getComputedStyle(document.querySelector('#chart-free .xtick text')).fill"


def test_charts_follow_light_dark_and_print(wide: Opened) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, page = wide.page.evaluate(TICK), wide.page.evaluate(background)
    wide.page.emulate_media(color_scheme="dark")
    wide.until(f"{TICK} !== '{light}'")
    assert wide.page.evaluate(background) != page
    wide.page.emulate_media(color_scheme="dark", media="print")
    wide.until(f"{TICK} === '{light}'")
    assert not wide.page.locator("nav").is_visible()
    wide.page.emulate_media(color_scheme="light", media="screen")
    assert wide.said == []


def test_a_phone_does_not_scroll_sideways(wide: Opened) -> None:
    wide.page.set_viewport_size({"width": 390, "height": 844})
    wide.until(
        """[...document.querySelectorAll('.chart svg.main-svg')]
        .every(svg => svg.getBoundingClientRect().right <= 390)"""
    )
    assert wide.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert wide.said == []


def test_rows_are_low_on_a_phone(wide: Opened) -> None:
    wide.page.set_viewport_size({"width": 390, "height": 844})
    for table in ("process", "driver", "ages", "zones", "culprits"):
        heights = wide.page.evaluate(
            f"[...document.querySelectorAll('[data-table={table}] tbody tr')]"
            ".map(row => row.getBoundingClientRect().height)"
        )
        # A name may have two lines, and what is beside the screen only one.
        assert heights
        assert max(heights) < 80, table
