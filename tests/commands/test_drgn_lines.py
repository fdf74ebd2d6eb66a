# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that the lines of ``--drgn`` run, and compute the same result."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.errors import UsageError
from drgn_pageowner.storage.session import open_file


def lines_and_answer(session: Any, dump: Dump, command: str) -> tuple[list[str], Any]:
    """Run the lines of *command*, and the command; return the output of the lines, and the JSON of
    the command."""
    printed = run_lines(session, dump, command)
    status, said, error = ask(session, f"{command} --format json")
    assert status == 0, error
    found = [json.loads(line) for line in said.splitlines()] if command[:4] in LINED else None
    return printed, found or json.loads(said)


def run_lines(session: Any, dump: Dump, command: str) -> list[str]:
    """Run the lines that *command* ``--drgn`` prints; return what they print."""
    status, lines, error = ask(session, f"{command} --drgn")
    assert status == 0, error
    return output_of(lines, dump)


def output_of(lines: str, dump: Dump, *, unused: Collection[str] = ()) -> list[str]:
    """
    Run *lines*, which use all that they import; return what they print.

    :param unused: Names that they may import without need.
    """
    assert imported_and_unused(lines) <= {*unused}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {"prog": dump.prog})
    return printed.getvalue().splitlines()


def imported_and_unused(lines: str) -> set[str]:
    nodes = [*ast.walk(ast.parse(lines))]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    return {name.partition(".")[0] for name in names} - {
        node.id for node in nodes if isinstance(node, ast.Name)
    }


# Commands that print one JSON object per line.
LINED = ("list", "page")

# Command -> function that converts its JSON to the expected lines.
ANSWERS: dict[str, Callable[[Any], list[str]]] = {
    "info": lambda a: [
        f"{a['kernel']['release']} {a['page_owner']}",
        *(f"{source['name']} {source['state']}" for source in a["sources"]),
        f"{a['records']} {a['pages']} {a['freed_records']} {a['stacks']} {a['first_ns']} "
        + " ".join(a["modules"]),
    ],
    "account": lambda a: [f"{c['pages']} {c['bytes']} {c['name']}" for c in a["classes"]],
    "leaks --suspects --limit 5": lambda a: [
        f"{s['pages']} {s['allocations']} {s['allocator']} {'; '.join(s['reasons'])}"
        for s in a["suspects"]
    ],
    "typegraph --limit 7": lambda a: [
        " ".join(map(str, (c["bytes"], c["objects"], c["typed_objects"], c["cache"], *c["types"])))
        for c in a["caches"]
    ],
    "typegraph --by type --limit 7": lambda a: [
        f"{g['bytes']} {g['objects']} {g['cache']} {g['type']}" for g in a["groups"]
    ],
    "frag": lambda a: [
        f"{z['node']} {z['zone']} {z['free']} {z['largest_free_run']} {z['polluted']} "
        f"{z['verdict']}"
        for z in a["zones"]
    ],
    "frag contiguity": lambda a: [
        f"{s['order']} {s['node']} {s['zone']} {s['blocks']} {s['free']} {s['movable']} "
        f"{s['blocked']}"
        for s in a["sizes"]
    ],
    "frag culprits --sort pages --limit 5": lambda a: [
        f"{c['blocks']} {c['only_blocker']} {c['pages']} {c['allocator']}" for c in a["blocking"]
    ],
    "frag cma": lambda a: [
        f"{r['name']} {r['pages']} {r['allocated']} {r['longest_allocatable_run']} "
        f"{len(r['stuck'])}"
        for r in a["areas"]
    ],
    "frag why --order 9 --gfp GFP_KERNEL|__GFP_COMP": lambda a: [
        a["verdict"],
        *(f"{z['node']} {z['zone']} {z['free']} {z['usable']} {z['verdict']}" for z in a["zones"]),
    ],
    "top --slab --limit 6": lambda a: [
        f"{g['objects']} {g['bytes']} {g['cache']} {g['owner']}" for g in a["groups"]
    ],
    "top --by process --limit 6": lambda a: [
        f"{h['pages']} {h['bytes']} {h['name']}" for h in a["holders"]
    ],
    "top --by driver --limit 6 --module po_leak": lambda a: [
        f"{h['pages']} {h['bytes']} {h['name']}" for h in a["holders"]
    ],
    "report": lambda a: [
        a["headline"], *(f"{v['level']} {v['text']}" for v in a["verdicts"])
    ],
    "why task:1": lambda a: [
        a["verdict"], *(f"{h['expression']} {h['kind']}" for h in a["chain"])
    ],
    "refs task:1 --limit 9": lambda a: [
        a["verdict"], *(f"{h['expression']} {h['kind']}" for h in a["references"])
    ],
    "list --module po_leak --limit 4": lambda records: [
        line
        for record in records
        for line in (f"{record['pfn']:#x}", f"  {record['order']}",
                     *(f"  {frame}" for frame in record["stack"]))
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", ANSWERS)
def test_the_lines_of_a_command_give_its_answer(
    command: str,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    dump = dump_named("linux-6.12/traps")
    _, lines, _ = ask(live(dump), f"{command} --drgn")
    assert max(map(len, lines.splitlines())) <= 80
    printed, answer = lines_and_answer(live(dump), dump, command)
    expected = ANSWERS[command](answer)
    assert expected
    assert printed == expected


@pytest.mark.parametrize(
    "options", ["--limit 6", "--by module,function --sort calls --limit 9 --file kernel/*"]
)
def test_the_lines_of_allocinfo_give_its_answer(
    options: str, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named("linux-6.12-profiling/records")
    printed, answer = lines_and_answer(live(dump), dump, f"allocinfo {options}")
    groups = answer["groups"]
    assert printed == [
        f"{g['bytes']} {g['calls']} {g['found_bytes']} {g['key']}" for g in groups
    ] != []  # fmt: skip


@pytest.mark.parametrize(
    "options", ["--limit 8", "--by allocator,order --module po_* --limit 9", "--by class"]
)
@pytest.mark.parametrize("both", [False, True])
def test_the_lines_of_diff_give_its_answer(
    options: str, both: bool, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    paths = f"{before.vmcore} {after.vmcore}" if both else str(before.vmcore)
    sessions = {str(dump.vmcore): live(dump) for dump in (before, after)}
    command = f"diff {paths} {options}"
    status, lines, error = ask(live(after), f"{command} --drgn")
    assert status == 0, error
    # Two dumps that are named need no session of the program.
    printed = output_of(lines, after, unused=("ProgramSession",))
    status, said, error = ask(live(after), f"{command} --format json", sessions.__getitem__)
    assert status == 0, error
    changes = json.loads(said)["changes"]
    assert printed == [
        f"{c['growth']['pages']} {c['growth']['bytes']} {c['state']} {c['key']}" for c in changes
    ] != []  # fmt: skip


def test_the_lines_of_leaks_find_the_same_groups(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named("linux-6.12/traps")
    command = "leaks --limit 0 --by stack --module po_leak --confidence high"
    printed, answer = lines_and_answer(live(dump), dump, command)
    owners: dict[int, list[int]] = {}
    for group in answer["groups"]:
        pages, allocations = owners.get(group["handle"], [0, 0])
        owners[group["handle"]] = [pages + group["pages"], allocations + group["allocations"]]
    assert owners
    assert sorted([int(n) for n in line.split()[:2]] for line in printed) == sorted(owners.values())


def test_the_lines_of_a_page_print_its_record_and_stack(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named("linux-6.12/traps")
    session = live(dump)
    _, said, _ = ask(session, "list --module po_leak --limit 1 --format json")
    pfn = json.loads(said)["pfn"]
    printed, [page] = lines_and_answer(session, dump, f"page pfn:{pfn:#x}")
    text = " ".join(printed)
    record = page["record"]
    for name in ("order", "gfp_mask", "handle", "ts_nsec", "pid"):
        assert re.search(rf"\.{name} = \([\w ]+\){record[name]}\b", text), name
    frames = [line for line in printed if re.match(r"#\d+ ", line)]
    names = [re.sub(r"[+/].*", "", frame) for frame in record["stack"]]
    # Frames of modules are named, too.
    assert [name for name in names if not any(name in frame for frame in frames)] == []
    assert any("po_hold_" in frame for frame in frames)


@pytest.mark.parametrize(
    "options",
    [
        "--by allocator",
        "--by comm,order --sort allocations --limit 5",
        "--module po_leak --min-age 1s --stack-contains leak --gfp GFP_KERNEL",
        "--freed --pfn 0x1000-0x2000",
    ],
)
def test_the_lines_give_the_same_answer(
    options: str, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named("linux-6.12/traps")
    status, lines, _ = ask(live(dump), f"top {options} --drgn")
    assert status == 0
    printed = output_of(lines, dump)
    more = "" if "--limit" in options else " --limit 20"
    status, said, _ = ask(live(dump), f"top {options}{more} --format json")
    assert status == 0
    groups = json.loads(said)["groups"]
    assert groups
    assert printed == [f"{group['pages']} {group['bytes']} {group['key']}" for group in groups]


def test_what_has_no_lines_is_refused(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    for command in (
        "top --skip 1", "top --min-pages 3", "top --slab --by type", "leaks --slab",
        "leaks po_leak_order", "frag map", "frag sideways", "frag --explain 0", "account --slab",
        "list --source", "page --types pfn:0x1000", "why pfn:1 pfn:2", "report out.html",
        "save --redact out.parquet", "triage --rules builtin",
    ):  # fmt: skip
        status, _, error = ask(session, f"{command} --drgn")
        assert status == 2
        assert "--drgn" in error or "no view" in error


@pytest.mark.parametrize("command", ["sql", "sql nothing", "layout", "fleet", "fleet top nowhere"])
def test_a_command_without_lines_says_why(
    command: str, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    with pytest.raises(UsageError, match=r"^--drgn: there are no such lines: \w+ "):
        ask(live(dump_named("linux-6.12/traps")), f"{command} --drgn")


def test_the_lines_of_triage_give_its_verdicts(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any], tmp_path: Path
) -> None:
    dump = dump_named("linux-6.12/traps")
    status, _, error = ask(live(dump), f"triage {tmp_path / 'out'}")
    assert status == 3, error
    verdicts = json.loads((tmp_path / "out/index.json").read_text())["verdicts"]
    assert run_lines(live(dump), dump, "triage") == [
        verdicts["headline"], *(f"{f['kind']} {f['text']}" for f in verdicts["findings"])
    ]  # fmt: skip


def test_the_lines_of_save_write_the_same_file(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    dump = dump_named("linux-6.12/traps")
    mine, lines = tmp_path / "mine", tmp_path / "lines"
    status, said, error = ask(live(dump), f"save --leaks {mine}")
    assert status == 0, error
    [printed] = run_lines(live(dump), dump, f"save --leaks {lines}")
    records, pages = printed.split()
    assert f"{int(records):,} records, {int(pages):,} pages" in " ".join(said.split())
    answers = [ask(open_file(str(path)), "leaks --format json") for path in (mine, lines)]
    assert answers[0] == answers[1]
