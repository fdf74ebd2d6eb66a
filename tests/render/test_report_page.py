# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that HTML, Markdown and JSON of a report have the same numbers, and that the HTML has no
foreign scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import Dump, bundled

from drgn_pageowner.analysis.owners.flame import FlameStack
from drgn_pageowner.analysis.report import Report, ZoneMap, report
from drgn_pageowner.commands.report import read
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.crash import LogLine
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.report.html import HtmlRenderer
from drgn_pageowner.render.report.json import report_object
from drgn_pageowner.render.report.markdown import MarkdownRenderer

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("plotly", reason="the extra report is not installed")

EVIL = "</script><img src=x onerror=alert(1)>|`*[x](javascript:alert(1))\udcff\x1b\u202e"


class Page(HTMLParser):
    """The elements, tables and scripts of the page, as a browser parses it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[float | None]]] = {}
        self.scripts: list[str] = []
        self._table: list[list[float | None]] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._table = self.tables.setdefault(str(attributes["data-table"]), [])
        elif tag == "tr":
            self._table.append([])
        elif tag == "td":
            value = attributes.get("data-value")
            self._table[-1].append(float(value) if value is not None else None)
        elif tag == "script":
            self._in_script = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    def column(self, table: str, number: int) -> list[float | None]:
        return [row[number] for row in self.tables[table] if row]


@pytest.fixture(scope="module")
def traps() -> Report:
    return report(read(ProgramSession(bundled("linux-6.12/traps").prog)))


@pytest.fixture(scope="module")
def html(traps: Report) -> str:
    return "".join(HtmlRenderer()(traps))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def text_of(result: Report) -> str:
    return "".join(MarkdownRenderer()(result))


def leaks_by_owner(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of leaks, summed up as in the page: by function, those known by PFN
    last."""
    found: dict[tuple[bool, str], dict[str, Any]] = {}
    for group in whole["leaks"]["groups"]:
        name = re.sub(r"\+0x[0-9a-f]+/0x[0-9a-f]+", "", group["allocator"])
        one = found.setdefault((group["verdict"] == "known only by PFN", name), {"owner": name})
        for member in ("pages", "bytes", "allocations"):
            one[member] = one.get(member, 0) + group[member]
    return [found[key] for key in sorted(found, key=lambda k: (k[0], -found[k]["pages"], k[1]))]


def test_the_tables_are_the_json(traps: Report, page: Page) -> None:
    whole = json.loads(json.dumps(report_object(traps)))
    for table, rows, columns in (
        ("classes", whole["account"]["classes"], {1: "pages", 2: "bytes"}),
        ("allocator", whole["top"]["allocator"]["groups"], {1: "pages", 4: "allocations"}),
        ("stack", whole["top"]["stack"]["groups"], {1: "pages", 2: "bytes", 6: "handle"}),
        ("comm", whole["top"]["comm"]["groups"], {1: "pages", 4: "allocations"}),
        ("process", whole["holders"]["process"]["holders"], {1: "pages", 2: "bytes"}),
        ("driver", whole["holders"]["driver"]["holders"], {1: "pages", 2: "bytes"}),
        ("leaks", leaks_by_owner(whole), {1: "pages", 2: "bytes", 3: "allocations"}),
        ("ages", whole["ages"], {1: "pages", 5: "allocations"}),
        ("zones", whole["frag"]["zones"], {2: "managed", 3: "free", 6: "largest_free_run"}),
        ("culprits", whole["frag"]["culprits"]["blocking"], {2: "blocks", 3: "only_blocker"}),
        ("sizes", whole["frag"]["sizes"], {2: "blocks", 5: "blocked", 8: "for_half"}),
    ):
        assert rows
        for column, member in columns.items():
            assert page.column(table, column) == [row[member] for row in rows], (table, member)


def test_the_charts_are_the_json(traps: Report, page: Page) -> None:
    whole = json.loads(json.dumps(report_object(traps)))
    data = json.loads(page.scripts[0])
    [treemap] = data["figures"]["treemap"]["data"]
    size = data["page_size"]
    tops = {
        label: value
        for label, parent, value in zip(
            treemap["labels"], treemap["parents"], treemap["values"], strict=True
        )
        if parent == "all"
    }
    assert tops == {row["name"]: row["bytes"] for row in whole["account"]["classes"]}
    assert treemap["values"][0] == whole["account"]["present"] * size
    bars = data["figures"]["ages"]["data"]
    assert [
        round(sum(column) * (1 << 20) / size)
        for column in zip(*(b["y"] for b in bars if b["type"] == "bar"), strict=True)
    ] == [band["pages"] for band in whole["ages"]]
    assert (
        sum(stack[0] for stack in data["flame"]["stacks"])
        == whole["top"]["stack"]["total"]["pages"]
    )
    for drawn, zone in zip(data["map"]["zones"], whole["frag"]["map"]["zones"], strict=True):
        assert [cell[4] for cell in drawn["cells"]] == [
            [cell[kind] for kind in ("free", "movable", "reclaimable", "unmovable", "unknown",
                                     "absent", "polluted")]
            for cell in zone["cells"]
        ]  # fmt: skip
        assert [
            [[data["map"]["owners"][who], pages] for who, pages in cell[5]]
            for cell in drawn["cells"]
        ] == [cell["owners"] for cell in zone["cells"]]


def test_markdown_has_the_same_findings(traps: Report) -> None:
    whole, text = report_object(traps), text_of(traps)
    plain = text.replace("\\", "")
    for verdict in whole["verdicts"]:
        assert verdict["text"] in plain
        assert verdict["detail"] in plain
    for row in whole["account"]["classes"]:
        assert f"| {row['name']} | {row['pages']:,} |" in plain
    for owner in leaks_by_owner(whole)[:20]:
        assert f"| `{owner['owner']}` | {owner['pages']:,} |" in text
    assert "Kernel panic - not syncing: sysrq triggered crash" in text


def test_nothing_is_loaded(html: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name) is None or str(attributes[name]).startswith("#"), tag
        assert not any(name.startswith("on") for name in attributes)
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|https?:", style[0])
    # Plotly contains URLs, which only maps of the earth would load; it is compressed.
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", html)


def test_the_policy_lets_only_these_scripts_run(page: Page) -> None:
    [policy] = [
        str(attributes["content"])
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    plotly = gzip.decompress(base64.b64decode(page.scripts[1]))
    assert hashes == [
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in (plotly, page.scripts[2].encode())
    ]


def test_the_same_dump_makes_the_same_page(traps: Report, html: str) -> None:
    assert "".join(HtmlRenderer()(traps)) == html


def evil(result: Report) -> Report:
    """Return *result* with names that an attacker could have chosen."""
    assert result.leaks is not None
    assert result.flame is not None
    assert result.crash is not None
    frame = Frame(1, EVIL, 0, 1, EVIL)
    tops = {
        key: replace(
            top,
            groups=[
                replace(group, key={key: EVIL}, stack=[frame]) if key != "stack" else group
                for group in top.groups[:3]
            ],
        )
        for key, top in result.tops.items()
    }
    leaks = replace(
        result.leaks,
        groups=[replace(result.leaks.groups[0], allocator=EVIL, stack=[frame], reasons=[EVIL])],
    )
    owners = [replace(kind, owners=[(EVIL, kind.pages)]) for kind in result.owners or ()]
    crash = replace(result.crash, command_line=EVIL, log=[LogLine(1, 0, EVIL)], task=(1, EVIL))
    return replace(
        result,
        facts=replace(result.facts, hostname=EVIL, panic_message=EVIL, release=EVIL),
        tops=tops,
        leaks=leaks,
        owners=owners,
        crash=crash,
        flame=replace(result.flame, functions=[EVIL] * len(result.flame.functions)),
        modules=[EVIL],
        problems=[EVIL],
    )


def test_names_of_a_hostile_machine_are_inert(traps: Report, page: Page) -> None:
    text = "".join(HtmlRenderer()(evil(traps)))
    text.encode()
    assert "<img" not in text
    seen = Page(text)
    assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in page.elements}
    assert len(seen.scripts) == len(page.scripts)
    assert seen.scripts[1:] == page.scripts[1:]
    data = json.loads(seen.scripts[0])
    assert not set("<>&") & set(seen.scripts[0])
    # plotly interprets some HTML in labels.
    for label in data["figures"]["treemap"]["data"][0]["labels"]:
        assert "<" not in label
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\xff\\x1b\\u202e" in text


def test_names_of_a_hostile_machine_are_inert_in_markdown(traps: Report) -> None:
    text = text_of(evil(traps))
    text.encode()
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        outside = (
            re.sub(r"(`+) ?.*?[^`]\1(?!`)", "", line.replace("\\`", "")) if "``" in line else line
        )
        assert not re.search(r"(?<!\\)<", outside), line
        assert not re.search(r"(?<!\\)\]\(", outside), line


def large(result: Report) -> Report:
    """Return *result* as on a machine with 8 GiB, with all lists at their limits."""
    assert result.flame is not None
    assert result.frag is not None
    assert result.leaks is not None
    functions = [
        f"some_subsystem_function_number_{i}.constprop.0 [module_{i % 90}]" for i in range(9000)
    ]
    stacks = [
        FlameStack(
            1 << 20 | i, 5000 - i, 5000 - i, [(i * 7 + j * 131) % 9000 for j in range(16)], 5
        )
        for i in range(4000)
    ]
    [zone, *_] = result.frag.maps
    cells = [replace(zone.map.cells[i % 90], pfn=i << 9) for i in range(4096)]
    owners = [[(functions[(i * 13 + j) % 900], 100) for j in range(3)] for i in range(4096)]
    maps = [ZoneMap(replace(zone.map, cells=cells), owners)]
    frames = [Frame(i, functions[i], 0x12345, 0x23456, None) for i in range(16)]
    leak = replace(result.leaks.groups[0], pfns=list(range(3000)), stack=frames)
    tops = {
        key: replace(
            top, groups=[replace(top.groups[0], stack=frames)] * 100, number_of_groups=4000
        )
        for key, top in result.tops.items()
    }
    culprits = replace(
        result.frag.culprits,
        blocking=[replace(result.frag.culprits.blocking[1], stack=frames)] * 100,
    )
    return replace(
        result,
        flame=replace(result.flame, functions=functions, stacks=stacks),
        frag=replace(result.frag, maps=maps, culprits=culprits),
        leaks=replace(result.leaks, groups=[leak] * 3000),
        tops=tops,
    )


def test_the_page_of_a_large_machine_can_be_mailed(traps: Report, html: str) -> None:
    assert len(html.encode()) < 3_000_000
    assert len("".join(HtmlRenderer()(large(traps))).encode()) < 5_000_000
    assert len(text_of(large(traps)).encode()) < 64_000


def test_json_of_any_name_is_utf8(traps: Report) -> None:
    json.dumps(report_object(evil(traps))).encode()


@pytest.mark.parametrize("package, renderer", [
    ("jinja2", HtmlRenderer), ("plotly.offline", HtmlRenderer), ("jinja2", MarkdownRenderer),
])  # fmt: skip
def test_a_missing_package_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, package: str, renderer: Callable[[], Any]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PageOwnerError, match=r"drgn-pageowner\[report\]"):
        renderer()


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_without_records_the_rest_is_there(dump_named: Callable[[str], Dump], name: str) -> None:
    result = report(read(ProgramSession(dump_named(name).prog)))
    seen = Page("".join(HtmlRenderer()(result)))
    assert {"classes", "zones", "free", "sizes", "map"} <= seen.tables.keys()
    assert not {"stack", "ages"} & seen.tables.keys()
    text = text_of(result)
    assert "page_owner=on" in text.replace("\\", "")
    assert "No leaked page was found" in text
