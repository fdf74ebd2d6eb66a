# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that a bug in this program is reported as an internal error in one line, not as damage of
the dump."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Dump

from drgn_pageowner.commands import COMMANDS

pytestmark = pytest.mark.once

ERRORS = (
    AttributeError("'Snapshot' object has no attribute 'pagse'"),
    NameError("name 'recrods' is not defined"),
    KeyError("pagse"),
    IndexError("index 7 is out of bounds"),
    TypeError("unsupported operand"),
    ValueError("shapes (3,) and (4,) are not aligned"),
    ZeroDivisionError("division by zero"),
)
# Command -> its arguments, and a function that it always calls.
PLACES: dict[str, tuple[str, str]] = {
    "info": ("info", "drgn_pageowner.commands.info.summarize"),
    "list": ("list", "drgn_pageowner.commands.list.select"),
    "top": ("top", "drgn_pageowner.commands.top.top"),
    "allocinfo": ("allocinfo", "drgn_pageowner.commands.allocinfo.check_tag_keys"),
    "account": ("account", "drgn_pageowner.commands.account.account"),
    "leaks": ("leaks", "drgn_pageowner.commands.leaks.reach"),
    "why": ("why pfn:0x1000", "drgn_pageowner.commands.why.explain_node"),
    "refs": ("refs pfn:0x1000", "drgn_pageowner.commands.refs.references"),
    "typegraph": ("typegraph", "drgn_pageowner.commands.typegraph.infer_types"),
    "diff": ("diff {vmcore}", "drgn_pageowner.commands.diff.diff"),
    "frag": ("frag", "drgn_pageowner.commands.frag.zone_summaries"),
    "report": ("report --format json", "drgn_pageowner.analysis.report.reach"),
    "save": ("save {out}", "drgn_pageowner.storage.save.record_tables"),
    "layout": ("layout {out}", "drgn_pageowner.kernel.layout.pack.ElfFile"),
    "sql": ("sql {query}", "drgn_pageowner.render.relations.page_classes"),
    "page": ("page pfn:0x1000", "drgn_pageowner.commands.page.page_text"),
}


def plant(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    def mistaken(*_: Any, **__: Any) -> Any:
        raise type(error)(*error.args)

    monkeypatch.setattr(place, mistaken)


def test_every_command_is_here() -> None:
    # watch only reads running kernels; parts of triage are tested in test_triage.py; fleet does not
    # open dumps itself.
    assert PLACES.keys() == COMMANDS.keys() - {"watch", "triage", "fleet"}


@pytest.mark.parametrize("command", PLACES)
def test_a_mistake_in_a_command_is_an_internal_error(
    one_dump: Dump, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, place = PLACES[command]
    for module in {"save": ["pyarrow"], "sql": ["duckdb", "pyarrow"]}.get(command, []):
        pytest.importorskip(module)
    words = [word.format(vmcore=one_dump.vmcore, out=tmp_path / "out",
                         query="select * from pages limit 1") if "{" in word else word
             for word in line.split()]  # fmt: skip
    # Each kind of error in several commands, and several kinds in each command.
    number = list(PLACES).index(command)
    for error in (ERRORS[number % len(ERRORS)], ERRORS[(number + 3) % len(ERRORS)]):
        plant(monkeypatch, place, error)
        result = one_dump.run(*words, fresh=True)
        assert result.returncode == 4, result.stderr
        lines = [line for line in result.stderr.splitlines() if "internal error" in line]
        assert len(lines) == 1, result.stderr
        said = lines[0]
        assert said.startswith(
            f"drgn-pageowner: internal error, please report: {type(error).__name__}: "
        )
        assert str(error.args[0]) in said
        assert "(at drgn_pageowner." in said
        assert "damaged" not in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("error", ERRORS[:3], ids=lambda error: type(error).__name__)
def test_a_mistake_where_memory_is_read_is_an_internal_error(
    one_dump: Dump, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "drgn_pageowner.kernel.read.inventory.read_slabs", error)
    result = one_dump.run("account", fresh=True)
    assert result.returncode == 4, result.stderr
    assert "internal error" in result.stderr


@pytest.mark.parametrize("error", [ERRORS[0], ERRORS[2]], ids=lambda error: type(error).__name__)
def test_a_mistake_is_not_told_as_a_broken_part_of_the_dump(
    dump_named: Callable[[str], Dump], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "drgn_pageowner.kernel.linux.cma.name_of", error)
    result = dump_named("linux-6.12/traps").run("frag", "cma")
    assert result.returncode == 4, result.stderr
    assert "internal error" in result.stderr


def test_asking_a_type_for_what_it_has_not_is_a_mistake(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = one_dump.prog.type("int [4]")
    monkeypatch.setattr(
        "drgn_pageowner.kernel.read.inventory.read_slabs", lambda *_, **__: array.size
    )
    result = one_dump.run("account", fresh=True)
    assert result.returncode == 4
    assert "array type does not have a size (at drgn_pageowner.kernel" in result.stderr


def test_a_member_that_a_kernel_lacks_is_no_mistake(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = one_dump.prog["init_task"]
    monkeypatch.setattr(
        "drgn_pageowner.kernel.read.inventory.read_slabs", lambda *_, **__: task.no_such_member
    )
    result = one_dump.run("account", fresh=True)
    assert result.returncode == 1
    assert "layout is not known" in result.stderr


def test_the_traceback_is_there_if_asked_for(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "drgn_pageowner.commands.top.top", ERRORS[1])
    for words in (("--traceback", "top"), ("top", "--traceback")):
        result = one_dump.run(*words, fresh=True)
        assert result.returncode == 4
        assert "Traceback" in result.stderr
        assert "in mistaken" in result.stderr


def test_too_little_memory_is_no_damage(one_dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "drgn_pageowner.commands.top.top", MemoryError("Unable to allocate 9 GiB"))
    result = one_dump.run("top")
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) == 1
    assert "not enough memory" in result.stderr
    assert "9 GiB" in result.stderr


def test_a_report_has_the_parts_that_did_not_fail(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "drgn_pageowner.analysis.report.reach", ERRORS[2])
    result = one_dump.run("report", "--format", "json")
    assert result.returncode == 4
    document = json.loads(result.stdout)
    assert document["leaks"] is None
    assert document["account"] is not None
    assert any("internal error" in problem for problem in document["problems"])


def test_in_drgns_shell_it_is_one_line_too(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = pytest.importorskip("drgn.commands")
    import drgn_pageowner.plugin  # noqa: F401 - registers the command

    plant(monkeypatch, "drgn_pageowner.commands.top.top", ERRORS[2])
    with pytest.raises(commands.CommandError, match="internal error, please report: KeyError"):
        commands.run_command(one_dump.prog, "pageowner top")
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(commands.CommandError):
        commands.run_command(one_dump.prog, "pageowner top --traceback")
    assert "in mistaken" in capfd.readouterr().err


def test_damage_is_never_caught_without_sparing_mistakes() -> None:
    """Check every ``except DAMAGE``, because without a call of unless_mistaken() it would hide bugs
    in this program."""
    for path in sorted((ROOT / "drgn_pageowner").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler) or "DAMAGE" not in ast.dump(
                node.type or node
            ):
                continue
            assert node.name is not None, f"{path}:{node.lineno}"
            assert f"unless_mistaken({node.name})" in ast.unparse(node), f"{path}:{node.lineno}"
        assert "suppress(*DAMAGE" not in path.read_text()
