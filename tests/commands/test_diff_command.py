# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``diff`` on the command line and in the drgn shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from asking import ask
from conftest import ROOT, Dump

from drgn_pageowner import read_inventory
from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.compare.diff import Diff, diff
from drgn_pageowner.analysis.owners import sums
from drgn_pageowner.commands import diff as diff_command
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.model.records import Snapshot

pytestmark = pytest.mark.once

Cli = Callable[..., "CompletedProcess[str]"]


def test_two_kernels_each_with_its_own_symbols(dump_named: Callable[[str], Dump], cli: Cli) -> None:
    old, new = dump_named("linux-6.1/kdump"), dump_named("linux-6.12/kdump")
    symbols = "-s", new.vmlinux, "-s", old.vmlinux
    text = cli(*symbols, "diff", old.vmcore, new.vmcore, "--limit", "3", check=True).stdout
    lines = text.splitlines()
    assert lines[0].startswith("largest growth in memory of drivers and other kernel code: +")
    assert "6.1." in lines[1]
    assert "6.12." in lines[2]
    assert "different kernels" in lines[3]


def test_by_class_is_what_account_says_of_both(dump_named: Callable[[str], Dump], cli: Cli) -> None:
    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    words = "diff", before.vmcore, "--by", "class", "--limit", "0", "--format", "json"
    result = json.loads(after.run(*words, check=True).stdout)
    accounts = [account(read_inventory(dump.prog)) for dump in (before, after)]
    for change in result["changes"]:
        pages = [
            sum(row.pages for row in one.classes if row.name == change["key"]["class"])
            for one in accounts
        ]
        assert [change["before"]["pages"], change["after"]["pages"]] == pages
        assert change["growth"]["pages"] == pages[1] - pages[0] != 0
    assert result["growth"]["pages"] == 0


def test_one_dump_is_compared_with_that_of_the_options(dump_named: Callable[[str], Dump]) -> None:
    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    words = "--by", "allocator", "--module", "po_leak", "--format", "json"
    result = json.loads(after.run("diff", before.vmcore, *words, check=True).stdout)
    assert {change["state"] for change in result["changes"]} == {"new"}
    top = json.loads(after.run("top", *words, check=True).stdout)
    assert result["growth"] == top["total"]


@pytest.mark.parametrize(
    "words",
    [
        "--by stack", "--by allocator", "--by module,order", "--by comm", "--by age", "--by class",
        "--by memcg,kind", "--by stack --order 0", "--by stack --sort allocations",
    ],
)  # fmt: skip
def test_many_records_are_summed_up_before_they_are_compared(
    dump_named: Callable[[str], Dump], live: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    before, after = (live(dump_named(f"linux-6.12/{name}")) for name in ("kdump", "traps"))
    line = f"diff before {words} --limit 0 --format json"
    whole = ask(after, line, lambda _: before)
    assert whole[0] == 0
    compared: list[int] = []

    def counted(one: Snapshot, two: Snapshot, *rest: Any, **more: Any) -> Diff:
        compared.append(len(one) + len(two))
        return diff(one, two, *rest, **more)

    monkeypatch.setattr(record_parts, "_ROWS", 1000)
    monkeypatch.setattr(sums, "_ROWS", 1000)
    monkeypatch.setattr(diff_command, "diff", counted)
    assert ask(after, line, lambda _: before) == whole
    records = len(before.snapshot(("handle",))) + len(after.snapshot(("handle",)))
    assert compared[0] < records / 2


def test_the_shell_compares_its_program_with_a_dump(
    dump_named: Callable[[str], Dump], capfd: pytest.CaptureFixture[str]
) -> None:
    commands = pytest.importorskip("drgn.commands")
    import drgn_pageowner.plugin  # noqa: F401 - registers the command

    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    commands.run_command(after.prog, f"pageowner diff {before.vmcore} --limit 5")
    ours = capfd.readouterr().out
    assert ours == after.run("diff", before.vmcore, "--limit", "5", check=True).stdout


def test_a_kernel_without_records_is_compared_by_class(
    dump_named: Callable[[str], Dump], cli: Cli
) -> None:
    without, other = dump_named("linux-6.12-noowner/kdump"), dump_named("linux-6.12/kdump")
    words = "-s", without.vmlinux, "-s", other.vmlinux, "diff", without.vmcore, other.vmcore
    refused = cli(*words)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"drgn-pageowner: {without.vmcore}: this kernel was built")
    result = cli(*words, "--by", "class")
    assert result.returncode == 0
    assert "one of them has no records" in result.stdout.splitlines()[0]
    assert "anonymous" in result.stdout


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["nowhere", "nowhere2"], 1, "nowhere"),
        (["CORE", "CORE", "--by", "class", "--order", "3"], 2, "--by class"),
        (["CORE", "CORE", "--by", "class,comm"], 2, "--by class"),
        (["CORE", "CORE", "--by", "colour"], 2, "colour"),
        (["CORE", "CORE", "--sort", "colour"], 2, "colour"),
        (["CORE", "CORE", "--freed"], 2, "--freed"),
        (["CORE", "OTHER", "--handle", "7"], 2, "--handle"),
        (["OLD", "CORE"], 1, "of another kernel"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(
    dump_named: Callable[[str], Dump], cli: Cli, words: list[str], status: int, said: str
) -> None:
    paths = {
        "CORE": dump_named("linux-6.12/kdump").vmcore,
        "OTHER": dump_named("linux-6.12/traps").vmcore,
        "OLD": dump_named("linux-6.1/kdump").vmcore,
    }
    symbols = dump_named("linux-6.12/kdump").vmlinux
    result = cli("-s", symbols, "diff", *(paths.get(word, word) for word in words))
    assert result.returncode == status
    [line] = result.stderr.splitlines()
    assert line.startswith("drgn-pageowner: ")
    assert said in line
    assert result.stdout == ""


DRIP = ROOT / "testdata/linux-6.12/drip"


def test_a_leak_is_first_with_its_growth_and_rate() -> None:
    """Compare two snapshots of a guest, before and after a module leaked, without drgn."""
    pytest.importorskip("pyarrow")
    truth = json.loads((DRIP / "truth.json").read_text())
    words = ["diff", str(DRIP / "before.parquet"), str(DRIP / "after.parquet")]
    text = without_drgn(*words).splitlines()
    assert truth["function"] in text[0]
    assert f"+{truth['pages']:,} pages" in text[0]
    result = json.loads(without_drgn(*words, "--limit", "0", "--format", "json"))
    leak = result["changes"][0]
    assert leak == result["leak"]
    assert any(frame.startswith(truth["function"]) for frame in leak["stack"])
    assert leak["state"] == "new"
    assert leak["growth"]["pages"] == leak["growth"]["allocations"] == truth["pages"] == 1000
    first, last = truth["dripped"][0], truth["dripped"][-1]
    rate = (last["pages"] - first["pages"]) * 3600e9 / (last["ns"] - first["ns"])
    assert leak["pages_per_hour"] == pytest.approx(rate, rel=0.03)
    # A function that allocated pages and freed them has not grown.
    assert "po_drip_noise_one" not in str(result["changes"])


@pytest.mark.parametrize(
    "by, expected",
    [
        ("comm", {"po_drip": ("new", 1000), "dd": ("new", 300), "worker-ends": ("gone", -602)}),
        ("module", {"po_drip": ("new", 1000)}),
        ("class", {"driver or other kernel": ("grown", 1000), "shmem": ("grown", 300)}),
    ],
)
def test_every_side_of_it_is_seen(by: str, expected: dict[str, tuple[str, int]]) -> None:
    pytest.importorskip("pyarrow")
    words = ["diff", str(DRIP / "before.parquet"), str(DRIP / "after.parquet"), "--by", by]
    result = json.loads(without_drgn(*words, "--limit", "0", "--format", "json"))
    assert result["leak"]["growth"]["pages"] == 1000
    changes = {c["key"][by]: (c["state"], c["growth"]["pages"]) for c in result["changes"]}
    assert expected.items() <= changes.items()


def test_a_dump_and_its_snapshot_are_one(
    dump_named: Callable[[str], Dump], cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    saved = tmp_path / "before.parquet"
    before.run("save", saved, check=True)
    words = "--by", "stack,comm", "--format", "json", "--limit", "0"
    dumps = after.run("diff", before.vmcore, *words, check=True).stdout
    assert after.run("diff", saved, *words, check=True).stdout == dumps
    said = cli("-s", before.vmlinux, "diff", saved, before.vmcore, check=True).stdout
    assert re.fullmatch(r"no changes: \d+ same", said.splitlines()[-1])


def without_drgn(*words: str) -> str:
    code = (
        "import sys; sys.modules['drgn'] = None\n"
        "from drgn_pageowner.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_filter_that_the_records_of_one_dump_lack(
    dump_named: Callable[[str], Dump], live: Any
) -> None:
    tags, records = (
        live(dump_named(f"linux-6.12-profiling/{name}")) for name in ("owner-off-tags", "records")
    )
    for words in ("--comm sh", "--min-age 1s", "--by comm"):
        for one, other in ((tags, records), (records, tags)):
            status, said, problems = ask(one, f"diff before {words}", lambda _, o=other: o)
            assert (status, said) == (2, "")
            whose = "before" if other is tags else "the other dump"
            assert f"{whose}: page_owner is off: rows are allocations" in problems
            assert "tags do not say" in problems.splitlines()[-1]
