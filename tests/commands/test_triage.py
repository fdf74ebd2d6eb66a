# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``triage``: the files in its directory, and its exit status."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.analysis import report
from drgn_pageowner.analysis.account import account
from drgn_pageowner.analysis.leaks import leaks, reach, suspects
from drgn_pageowner.analysis.owners import sums
from drgn_pageowner.commands import leaks as leaks_command
from drgn_pageowner.commands import triage
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel import session
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.read import pages, record_parts
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model import scratch

pytestmark = pytest.mark.once

# Parts that are skipped if their extra is not installed.
EXTRAS = ("report", "ticket", "snapshot")


def index(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((directory / "index.json").read_text())
    assert result["schema"] == 1
    return result


def parts(directory: Path) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in index(directory)["parts"]}


def run(dump: Dump, directory: Path, **options: Any) -> int:
    """Run a command line in this process."""
    return run_said(dump, directory, **options)[0]


def run_said(dump: Dump, directory: Path, **options: Any) -> tuple[int, str]:
    """Run a command line; return the exit status and the output."""
    known = {"drgn": False, "force": False, "min_pages": 16, **options}
    args = argparse.Namespace(**known, directory=directory)
    out = io.StringIO()
    return triage.run(args, ProgramSession(dump.prog), out), out.getvalue()


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, *functions: tuple[ModuleType, str]) -> Iterator[Any]:
    """Count the calls of functions, by their names."""
    calls: Counter[str] = Counter()

    def counted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def count(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*args, **more)

        return count

    with monkeypatch.context() as patch:
        for module, name in functions:
            patch.setattr(module, name, counted(getattr(module, name), name))
        yield calls


def test_leaks_are_found(
    dump_named: Callable[[str], Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = dump_named("linux-6.12/traps")
    with counting(
        monkeypatch,
        (account, "_Counters"), (reach, "_allocations"), (reach, "find_references"),
        (leaks, "_leaks_of_records"), (report, "zone_summaries"), (suspects, "_signs"),
        (pages, "sections_with_rows"), (sums, "summed"), (record_parts, "read_record_parts"),
        (session, "read_records"),
    ) as calls:  # fmt: skip
        status, said = run_said(dump, tmp_path / "out")
    # Pages are read for the inventory, for frag, for the snapshot and its owners of slab objects,
    # and to find missing pages.
    assert calls.pop("sections_with_rows") <= 5
    # Tables of top are summed up once for text and JSON, from the records of the inventory.
    assert calls.pop("summed") == 2
    # info, once for text and JSON, and the snapshot have records of freed pages, too.
    assert calls.pop("read_record_parts") == 2
    # frag has records with another column than the inventory, because of a CMA area.
    assert calls.pop("read_records") <= 1
    assert set(calls.values()) == {1}
    assert status == 3
    assert said.startswith("found leak: ")
    found = index(tmp_path / "out")
    assert found["status"] == 3
    assert found["found"] is True
    assert [finding["kind"] for finding in found["verdicts"]["findings"]] == ["leak"]
    said_json = json.loads((tmp_path / "out/leaks.json").read_text())
    assert found["verdicts"]["leaks"]["pages"] == said_json["lost_pages"]
    assert found["verdicts"]["leaks"]["first"]["handle"] == said_json["groups"][0]["handle"]
    owners = json.loads((tmp_path / "out/allocators.json").read_text())["groups"]
    assert [o["pages"] for o in found["verdicts"]["owners"]] == [o["pages"] for o in owners[:5]]
    assert {z["node"] for z in found["verdicts"]["fragmentation"]["zones"]} == {0, 1}
    for name, part in parts(tmp_path / "out").items():
        assert name in EXTRAS or part["status"] == "ok"
        assert all((tmp_path / "out" / file).stat().st_size for file in part["files"])
    text = (tmp_path / "out/stacks.txt").read_text()
    assert text == dump.run("top", "--limit", "200").stdout


def test_another_process_saves_the_snapshot_from_the_beginning_on(
    dump_named: Callable[[str], Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump, process = dump_named("linux-6.12/kdump"), os.getpid()
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    really, ran = triage.run_part, tmp_path / "ran"

    def noted(part: triage.Part, *more: Any) -> Any:
        directory = more[1]
        if part.name == "info" and directory.name in ("several", "dies"):
            while not ran.read_text():
                time.sleep(0.01)
        with ran.open("a") as file:
            print(part.name, os.getpid() == process, file=file)
        if part.name == "snapshot" and directory.name == "dies" and os.getpid() != process:
            (directory / ".snapshot.parquet.0123456789abcdef").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return really(part, *more)

    monkeypatch.setattr(triage, "run_part", noted)
    kernel, found = Kernel.of(dump.prog), {}
    for name, jobs in (("alone", 1), ("several", 2), ("dies", 2), ("limited", 2)):
        monkeypatch.setattr(scratch, "_limit", 1 << 30 if name == "limited" else None)
        ran.write_text("")
        try:
            kernel.jobs = jobs
            run(dump, tmp_path / name)
        finally:
            kernel.jobs = 1
        mine = [line.split()[1] for line in ran.read_text().splitlines() if "snapshot" in line]
        dies = ["False", "True"]
        assert mine == {"several": ["False"], "dies": dies}.get(name, ["True"])
        (tmp_path / name / "index.json").rename(tmp_path / f"{name}.json")
        found[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        entries = json.loads((tmp_path / f"{name}.json").read_text())["parts"]
        found[name]["parts"] = [{**entry, "seconds": None} for entry in entries]
    assert found["several"] == found["dies"] == found["limited"] == found["alone"]


def test_an_error_in_the_search_is_recorded_while_another_process_saves(
    dump_named: Callable[[str], Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = dump_named("linux-6.12/kdump")
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(leaks_command, "reach", fails)
    kernel = Kernel.of(dump.prog)
    try:
        kernel.jobs = 2
        assert run(dump, tmp_path / "out") == 4
    finally:
        kernel.jobs = 1
    found = {name: part["status"] for name, part in parts(tmp_path / "out").items()}
    crashed = [name for name, status in found.items() if status == "crashed"]
    assert crashed == ["leaks", "verdicts", "snapshot"]
    assert "no such luck" in (tmp_path / "out/snapshot.traceback").read_text()
    assert not list((tmp_path / "out").glob(".*"))


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Run only some parts, as JSON; the others are tested elsewhere."""
    chosen = [
        part if part.step is not None else replace(part, formats={"json": f"{part.name}.json"})
        for part in triage.PARTS
        if part.name in names
    ]
    monkeypatch.setattr(triage, "PARTS", chosen)


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "7.2"])
def test_every_guest_with_leaks_is_found(
    dump_named: Callable[[str], Dump],
    kernel: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "verdicts")
    assert run(dump_named(f"linux-{kernel}/traps"), tmp_path) == 3


def test_a_guest_that_holds_what_it_has_is_not_accused(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    assert run(dump_named("linux-5.10/noleak"), tmp_path) == 0
    found = index(tmp_path)
    assert found["verdicts"]["findings"] == []
    # Linux 5.10 records no task names, so this part fails; the other parts still run.
    assert parts(tmp_path)["tasks"]["status"] == "failed"
    assert "comm" in parts(tmp_path)["tasks"]["error"]
    assert parts(tmp_path)["frag"]["status"] == "ok"


@pytest.mark.one_of_a_kernel
def test_verdicts_are_those_of_the_report(
    dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "pages", "verdicts")
    session = ProgramSession(dump.prog)
    status = run(dump, tmp_path)
    judged = index(tmp_path)["verdicts"]
    answered, said, _ = ask(session, "report --format json")
    assert answered == 0
    whole = json.loads(said)
    assert judged["all"] == whole["verdicts"]
    found = [verdict["finding"] for verdict in whole["verdicts"] if verdict["finding"] is not None]
    assert [finding["kind"] for finding in judged["findings"]] == found
    assert status == (3 if found else 0)
    assert {z["verdict"] for z in judged["fragmentation"]["zones"]} == {
        z["verdict"] for z in whole["frag"]["zones"]
    }


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_without_records_the_rest_is_there(
    dump_named: Callable[[str], Dump],
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(dump_named(name), tmp_path) == 0
    # The reason is given once, not for everything that is left out because of it.
    assert capsys.readouterr().err.count("boot with page_owner=on") == 1
    found = index(tmp_path)
    assert found["found"] is False
    assert found["verdicts"]["leaks"]["pages"] == 0
    states = {part["name"]: part["status"] for part in found["parts"]}
    assert states["suspects"] == states["stacks"] == "failed"
    assert states["account"] == states["frag"] == states["leaks"] == "ok"
    assert (tmp_path / "account.txt").stat().st_size
    assert "page_owner=on" in parts(tmp_path)["stacks"]["error"]


@pytest.mark.parametrize("share", [0.2, 0.99])
def test_a_truncated_dump_gives_what_it_can(
    dump_named: Callable[[str], Dump], cli: Callable[..., Any], share: float, tmp_path: Path
) -> None:
    dump = dump_named("linux-6.12/traps")
    cut = tmp_path / "cut"
    shutil.copy(dump.vmcore, cut)
    with cut.open("r+b") as file:
        file.truncate(int(cut.stat().st_size * share))
    result = cli("-c", cut, "-s", dump.vmlinux, "triage", tmp_path / "out")
    assert result.returncode in (0, 1, 3)
    assert "Traceback" not in result.stderr
    found = index(tmp_path / "out")
    assert found["status"] == result.returncode
    assert not [part for part in found["parts"] if part["status"] == "crashed"]
    assert found["error"] or found["verdicts"]["unreadable"]


def test_an_error_of_ours_stops_no_other_part(
    one_dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ProgramSession, **_: bool) -> None:
        raise TypeError("of\nours")

    monkeypatch.setattr(ProgramSession, "inventory", broken)
    only(monkeypatch, "account", "verdicts")
    assert run(one_dump, tmp_path) == 3
    account = parts(tmp_path)["account"]
    assert account["status"] == "crashed"
    assert account["error"].startswith("internal error, please report: TypeError: of ours (at ")
    assert "broken" in (tmp_path / "account.traceback").read_text()
    assert parts(tmp_path)["verdicts"]["status"] == "ok"


def test_nothing_found_by_a_triage_that_failed_is_no_all_clear(
    one_dump: Dump,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mistaken(*_: Any) -> None:
        raise KeyError("recrods")

    monkeypatch.setattr("drgn_pageowner.commands.info.summarize", mistaken)
    only(monkeypatch, "info")
    assert run(one_dump, tmp_path) == 4
    assert index(tmp_path)["status"] == 4
    assert "internal error, please report: KeyError" in capsys.readouterr().err


def test_a_folder_in_use_is_left_alone(
    one_dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(UsageError, match="--force"):
        run(one_dump, tmp_path)
    assert (tmp_path / "index.json").read_text() == "{}"
    (tmp_path / "mine").write_text("mine")
    only(monkeypatch, "info")
    assert run(one_dump, tmp_path, force=True) == 1
    assert index(tmp_path)["status"] == 1
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_is_no_folder(one_dump: Dump, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UsageError, match="not a directory"):
            run(one_dump, path)
    with pytest.raises(PageOwnerError, match="cannot write"):
        run(one_dump, Path("/proc/nowhere"))


def test_a_dump_that_cannot_be_opened_leaves_an_index(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    result = cli("-c", tmp_path / "nowhere", "triage", tmp_path / "out")
    assert result.returncode == 1
    assert index(tmp_path / "out")["status"] == 1
    assert index(tmp_path / "out")["error"] in result.stderr


def test_what_an_earlier_triage_left_is_removed(tmp_path: Path) -> None:
    for name in ("index.json", "account.traceback", "leaks.json", "snapshot.parquet", "mine"):
        (tmp_path / name).write_text("old")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    # A link in the directory must not make triage overwrite another file.
    (tmp_path / "report.html").symlink_to(victim)
    triage._prepare(tmp_path, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "victim"]
    assert victim.read_text() == "precious"


def test_two_do_not_write_into_one_folder(
    one_dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "info")
    with (
        triage._only_one(tmp_path),
        pytest.raises(UsageError, match="another triage is writing into it"),
    ):
        run(one_dump, tmp_path, force=True)
    assert not list(tmp_path.iterdir())
    assert run(one_dump, tmp_path) == 1


def _rules(directory: Path, severity: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "free.toml").write_text(
        f'severity = "{severity}"\ntext = "{{pages}} are held"\nlink = "LINK"\n'
        '[stack]\nfunctions = ["*"]\n'
    )
    (directory / "bad.toml").write_text("nonsense")
    return directory


@pytest.mark.parametrize(("severity", "status"), [("bad", 3), ("warning", 0), ("note", 0)])
def test_rules_are_verdicts(
    dump_named: Callable[[str], Dump],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    severity: str,
    status: int,
) -> None:
    only(monkeypatch, "verdicts")
    rules = _rules(tmp_path / "rules", severity)
    dump = dump_named("linux-5.10/noleak")
    found, said = run_said(dump, tmp_path / "out", rules=[str(rules)])
    assert found == status
    judged = index(tmp_path / "out")
    [verdict] = [one for one in judged["verdicts"]["all"] if one["area"] == "rule"]
    assert (verdict["rule"], verdict["level"], verdict["link"]) == ("free", severity, "LINK")
    assert verdict["text"] == f"{verdict['pages']:,} are held"
    assert judged["found"] is (severity == "bad")
    assert [one["kind"] for one in judged["verdicts"]["findings"]] == ["known cause"] * (
        status // 3
    )
    assert ("See LINK" in said) is (severity == "bad")
    # A bad rule is not a problem of the dump.
    [line] = capsys.readouterr().err.splitlines()
    assert f"{rules / 'bad.toml'}: it is not TOML" in line
    assert not any("TOML" in line for line in judged["verdicts"]["unreadable"])
    assert parts(tmp_path / "out")["rules"]["status"] == "ok"


def test_a_directory_without_rules_is_a_usage_error(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="it has no files"):
        run(dump_named("linux-5.10/noleak"), tmp_path / "out", rules=[str(tmp_path)])
    assert not (tmp_path / "out").exists()
