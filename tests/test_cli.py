# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the command line as a separate process; other tests run it in their own process, with an
open dump."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from conftest import Dump, run_cli

from drgn_pageowner import cli


@pytest.mark.once
@pytest.mark.parametrize(
    "command",
    ["info", "list --format debugfs", "leaks", "list --comm", "top --pid x",
     *(pytest.param(more, marks=pytest.mark.thorough)
       for more in ("top --limit 5", "frag all --order 4", "account"))],
)  # fmt: skip
def test_a_process_says_what_tests_see_of_a_command(one_dump: Dump, command: str) -> None:
    process = run_cli("-c", one_dump.vmcore, "-s", one_dump.vmlinux, *command.split())
    here = one_dump.run(*command.split())
    assert (process.returncode, process.stdout, process.stderr) == (
        here.returncode, here.stdout, here.stderr,
    )  # fmt: skip


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(arguments: object, interrupts: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("numpy cannot be imported")

    monkeypatch.setattr(cli, "_main", importing)
    assert cli.main(["top"]) == 130
    assert capsys.readouterr().err == ""


def test_an_interrupt_that_python_swallowed_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def swallowing(arguments: object, interrupts: object) -> int:
        Dying()
        time.sleep(20)
        return 0

    monkeypatch.setattr(cli, "_main", swallowing)
    assert cli.main(["top"]) == 130
    assert capsys.readouterr().err == ""


def test_an_import_is_not_interrupted_but_what_follows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # As extension modules do that use NumPy's import_array().
    (tmp_path / "interrupted_extension.py").write_text(
        "import signal, sys, traceback\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    traceback.print_exc()\n"
        "    raise ImportError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    imported = []

    def importing(arguments: object, interrupts: object) -> int:
        imported.append(importlib.import_module("interrupted_extension"))
        time.sleep(20)
        imported.clear()
        return 0

    monkeypatch.setattr(cli, "_main", importing)
    assert cli.main(["top"]) == 130
    assert capsys.readouterr().err == ""
    assert imported


def test_an_interrupt_does_not_come_again_after_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "last_extension.py").write_text("import signal; signal.raise_signal(2)")
    monkeypatch.syspath_prepend(tmp_path)

    def importing(arguments: object, interrupts: object) -> int:
        importlib.import_module("last_extension")
        return 130

    monkeypatch.setattr(cli, "_main", importing)
    assert cli.main(["top"]) == 130
    time.sleep(0.1)


def test_what_a_library_warns_of_after_an_interrupt_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    # As modules made by Cython do.
    def importing(arguments: object, interrupts: object) -> int:
        warnings.warn("before", RuntimeWarning, stacklevel=1)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        warnings.warn("Cython module failed to patch module", RuntimeWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_main", importing)
    assert cli.main(["top"]) == 130
    warnings.warn("after", RuntimeWarning, stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["before", "after"]


@pytest.mark.parametrize(
    ("mine", "threads"), [(None, 1), ("2", min(2, len(os.sched_getaffinity(0))))]
)
def test_numpy_starts_no_threads_unless_asked_to(mine: str | None, threads: int) -> None:
    code = (
        "import os\n"
        "from drgn_pageowner.cli import main\n"
        "main(['info', '--no-such-option'])\n"
        "import numpy\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    name = "OPENBLAS_NUM_THREADS"
    environment = {key: value for key, value in os.environ.items() if key != name}
    if mine is not None:
        environment[name] = mine
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(process.stdout) == threads


def test_nothing_is_left_for_python_to_collect_at_exit() -> None:
    before = gc.get_freeze_count()
    garbage: list[object] = [[]]
    assert cli.main(["info", "--no-such-option"]) == 2
    assert gc.get_freeze_count() > before
    assert all(one is not garbage for one in gc.get_objects())


@pytest.mark.parametrize("after", [0, 0.02, 0.05, 0.1, 0.2])
def test_an_interrupt_ends_a_command_from_its_first_moment_on(
    one_dump: Dump, tmp_path: Path, after: float
) -> None:
    # Python swallows an interrupt that arrives in a callback of its import system, of the first
    # modules, too, before main() can note it.
    code = (
        "import os, sys\n"
        "hook = sys.unraisablehook\n"
        "sys.unraisablehook = lambda _: os._exit(130)\n"
        "print(flush=True)\n"
        "from drgn_pageowner.cli import main\n"
        "sys.unraisablehook = hook\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    # The command that runs longest before it prints, so that it is interrupted before its output.
    command = ["-c", str(one_dump.vmcore), "-s", str(one_dump.vmlinux), "triage"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # During the import of the first module, Python itself is killed by the signal.
    assert process.returncode in (130, -signal.SIGINT), err
    assert out == ""
    if process.returncode == 130:
        assert err == ""
