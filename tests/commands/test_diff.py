"""``diff`` on the command line and in the drgn shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
from conftest import Dump

Cli = Callable[..., "CompletedProcess[str]"]


def test_two_kernels_each_with_its_own_symbols(dump_named: Callable[[str], Dump], cli: Cli) -> None:
    old, new = dump_named("linux-6.1/kdump"), dump_named("linux-6.12/kdump")
    symbols = "-s", new.vmlinux, "-s", old.vmlinux
    text = cli(*symbols, "diff", old.vmcore, new.vmcore, "--limit", "3", check=True).stdout
    lines = text.splitlines()
    assert lines[0].startswith("grown most, and nothing accounts for it: +")
    assert "6.1." in lines[1]
    assert "6.12." in lines[2]
    assert "different kernels" in lines[3]
    classes = cli(*symbols, "diff", old.vmcore, new.vmcore, "--by", "class", "--format", "json",
                  "--limit", "0", check=True)  # fmt: skip
    result = json.loads(classes.stdout)
    accounts = [json.loads(d.run("account", "--format", "json", check=True).stdout)
                for d in (old, new)]  # fmt: skip
    for change in result["changes"]:
        pages = [
            sum(row["pages"] for row in account["classes"] if row["name"] == change["key"]["class"])
            for account in accounts
        ]
        assert [change["before"]["pages"], change["after"]["pages"]] == pages
        assert change["growth"]["pages"] == pages[1] - pages[0] != 0
    assert result["growth"]["pages"] == 0


def test_one_dump_is_compared_with_that_of_the_options(
    dump_named: Callable[[str], Dump], cli: Cli
) -> None:
    before, after = dump_named("linux-6.12/kdump"), dump_named("linux-6.12/traps")
    words = "--by", "allocator", "--module", "po_leak", "--format", "json"
    one = after.run("diff", before.vmcore, *words, check=True)
    two = cli("-s", after.vmlinux, "diff", before.vmcore, after.vmcore, *words, check=True)
    assert one.stdout == two.stdout
    result = json.loads(one.stdout)
    assert {change["state"] for change in result["changes"]} == {"new"}
    top = json.loads(after.run("top", *words, check=True).stdout)
    assert result["growth"] == top["total"]


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
