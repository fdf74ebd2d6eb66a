# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test names that could mislead readers or change a terminal, in every command and format."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drgn
import pytest
from asking import ask
from conftest import Dump, bundled
from damaged import Patch, apply
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import pfn_to_page
from live import fresh_program

from drgn_pageowner import page_owner
from drgn_pageowner.commands import run_command
from drgn_pageowner.escape import escaped, without_surrogates, word
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import csv_cell

pytestmark = pytest.mark.once

# A formula, a new title of the terminal's window, a C1 control, a carriage return, text from right
# to left, a line feed and a byte that is not UTF-8; as long as a task name.
HOSTILE = b"=\x1b]0;p\x07\x9b\r\xe2\x80\xae\n\xff"
# The escaped form for people.
SHOWN = r"=\x1b]0;p\x07\x9b\x0d\u202e\x0a\xff"


def _string_at(value: drgn.Object) -> int:
    """Return the address of a string, which may be an array or a pointer."""
    if value.type_.kind == drgn.TypeKind.POINTER:
        return int(value)
    return int(value.address_ or 0)


def _patches(dump: Dump, prog: drgn.Program) -> Iterator[Patch]:
    def name(value: drgn.Object) -> Patch:
        return Patch(_string_at(value), HOSTILE + b"\0")

    rows = dump.snapshot
    biggest = int(rows["pfn"][rows["allocated"]][rows.pages[rows["allocated"]].argmax()])
    comm = bytes(rows["comm"][rows["pfn"] == biggest][0])
    for pfn in rows["pfn"][rows["comm"] == comm].tolist()[:3000]:
        yield name(page_owner(pfn_to_page(prog, pfn)).comm)
    modules = list_for_each_entry("struct module", prog["modules"].address_of_(), "list")
    yield from (name(module.name) for module in modules)
    caches = list_for_each_entry("struct kmem_cache", prog["slab_caches"].address_of_(), "list")
    yield from (name(cache.name) for cache in caches if len(cache.name.string_()) > 12)
    yield name(prog["init_uts_ns"].name.nodename)
    yield name(prog["node_data"][0].node_zones[1].name)
    for task in list_for_each_entry(
        "struct task_struct", prog["init_task"].tasks.address_of_(), "tasks"
    ):
        yield name(task.comm)


@pytest.fixture(scope="module")
def hostile() -> ProgramSession:
    """Return a dump with leaks in which many names are :data:`HOSTILE`."""
    dump = bundled("linux-6.12/traps")
    prog = fresh_program(dump)
    apply(prog, list(_patches(dump, prog)))
    return ProgramSession(prog)


def harmless(text: str) -> bool:
    """Return whether *text* has no characters that affect a terminal."""
    return all(c.isprintable() or c in "\n\t" for c in text)


PEOPLE = (
    "info",
    "list --limit 2000",
    "top",
    "top --by comm",
    "top --by module,comm,zone",
    "account --caches --zones",
    "leaks --slab --all --limit 0",
    "leaks --suspects",
    "frag all --order 9 --stacks",
    "frag --explain pfn:0x1000",
    "page {pfn}",
    "why {pfn}",
    "refs {pfn}",
    "diff {vmcore}",
    "diff {vmcore} --by comm",
    "report --format md",
    "top --format folded --by stack,comm",
)


def _asked(session: ProgramSession, line: str) -> str:
    dump = bundled("linux-6.12/traps")
    rows = session.snapshot(("comm",))
    pfn = int(rows["pfn"][rows["comm"] == HOSTILE][0])
    line = line.format(pfn=f"pfn:{pfn:#x}", vmcore=dump.vmcore)
    status, out, err = ask(session, line, lambda path: ProgramSession(dump.prog, path))
    assert status == 0, err
    assert harmless(err)
    assert out
    return out


@pytest.mark.parametrize("line", PEOPLE)
def test_what_people_read_is_escaped(hostile: ProgramSession, line: str) -> None:
    if line.startswith("report"):
        pytest.importorskip("jinja2")
    out = _asked(hostile, line)
    assert harmless(out)
    if "comm" in line:
        # In folded stacks, ; separates functions.
        assert (SHOWN.replace(";", ":") if "folded" in line else SHOWN) in out


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_what_sql_says_is_escaped(hostile: ProgramSession, form: str) -> None:
    pytest.importorskip("duckdb")
    args = argparse.Namespace(
        command="sql", format=form, query="select comm, hostname from records, meta limit 5000"
    )
    out = io.StringIO()
    assert run_command(args, hostile, out) == 0
    assert harmless(out.getvalue().replace("\r\n", "\n"))
    shown = {"table": SHOWN, "csv": f"'{SHOWN}", "json": r"\\xff"}[form]
    assert shown in out.getvalue()


def test_the_page_of_a_report_is_escaped(hostile: ProgramSession, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    status, _, err = ask(hostile, f"report {tmp_path / 'out.html'}")
    assert (status, err) == (0, "")
    page = (tmp_path / "out.html").read_text()
    own = page.split('<script type="text/plain" id="plotly">')
    assert harmless(own[0].replace("\r", ""))
    assert "\\u202e" in page
    assert "\x1b" not in page


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize(
    "line",
    ["info", "list --limit 2000", "top --by comm,module", "account --caches", "leaks --slab --all",
     "leaks --suspects", "frag all --order 9", "page {pfn}", "why {pfn}", "refs {pfn}",
     "diff {vmcore} --by comm", "report"],
)  # fmt: skip
def test_json_is_valid_for_every_parser(hostile: ProgramSession, line: str) -> None:
    out = _asked(hostile, line + " --format json")
    lines = out.splitlines() if line.startswith(("list", "page")) else [out]
    whole = [json.loads(text, parse_constant=no_constant) for text in lines]
    json.dumps(whole, ensure_ascii=False).encode("utf-8")
    if "comm" in line or line.startswith("list"):
        assert any(text in out for text in (r"=\u001b]0;p\u0007\\x9b\r\u202e\n\\xff",))


@pytest.mark.parametrize("line", ["list --limit 5000", "top --by comm,module --limit 0"])
def test_no_cell_of_csv_is_a_formula(hostile: ProgramSession, line: str) -> None:
    out = _asked(hostile, line + " --format csv")
    assert harmless(out.replace("\r\n", "\n"))
    cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
    assert f"'{SHOWN}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@", "\t", "\r"))]


def test_the_kernels_own_text_has_names_as_they_are(hostile: ProgramSession) -> None:
    out = _asked(hostile, "list --format debugfs")
    assert b"(" + HOSTILE + b")" in out.encode("utf-8", "surrogateescape")


def test_a_name_that_is_no_utf8_goes_through_a_pipe_of_drgns_shell(
    hostile: ProgramSession, tmp_path: Path
) -> None:
    commands = pytest.importorskip("drgn.commands")
    import drgn_pageowner.plugin  # noqa: F401 - registers the command

    for line in ("list --format debugfs", "list --format csv", "list", "list --format json"):
        whole = tmp_path / "out"
        commands.run_command(hostile._kernel.prog, f"pageowner {line} | cat > {whole}")
        assert whole.stat().st_size > 100_000
        commands.run_command(hostile._kernel.prog, f"pageowner {line} > {whole}")
        assert whole.stat().st_size > 100_000


@pytest.mark.parametrize(
    "text, lines, one",
    [
        ("plain", "plain", "plain"),
        ("Grüße, 世界", "Grüße, 世界", "Grüße, 世界"),
        ("a\tb\nc", "a\tb\nc", r"a\x09b\x0ac"),
        ("\x1b[2J\x07\r", r"\x1b[2J\x07\x0d", r"\x1b[2J\x07\x0d"),
        ("\x7f\x80\x9b", r"\x7f\x80\x9b", r"\x7f\x80\x9b"),
        ("\u202e\u2066\u200b\ufeff\u2028", r"\u202e\u2066\u200b\ufeff\u2028",
         r"\u202e\u2066\u200b\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041", r"\U000e0041"),
        (b"\xff\xc3".decode(errors="surrogateescape"), r"\xff\xc3", r"\xff\xc3"),
    ],
)  # fmt: skip
def test_what_is_escaped(text: str, lines: str, one: str) -> None:
    assert escaped(text) == lines
    assert word(text) == one


def test_cells_of_csv() -> None:
    cells = {"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@a": "'@a", "\t=1": r"\x09=1",
             "a=b": "a=b", "": "", -1: -1, None: None}  # fmt: skip
    assert {value: csv_cell(value) for value in cells} == cells


def test_numbers_and_texts_that_are_no_json() -> None:
    value = {"a": [float("nan"), float("inf"), 1.5], "b\udcff": "x\udcffy", "c": "\U0001f600"}
    document = json.loads(json_document(value), parse_constant=no_constant)
    assert document == {"a": [None, None, 1.5], "b\\xff": "x\\xffy", "c": "\U0001f600"}
    assert without_surrogates("é\ud800") == r"é\ud800"
