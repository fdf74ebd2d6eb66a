# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Fixtures for the real dumps of testdata/, each unpacked and opened once.

``DRGN_PAGEOWNER_DUMPS=DIR`` tests other dumps as well: every directory of DIR that holds
``vmcore``, ``vmlinux`` and ``truth/`` as testdata/README.md describes them.
``DRGN_PAGEOWNER_FEW_DUMPS="NAME..."`` uses only these of the bundled dumps, and skips tests marked
``once``. Tests marked ``one_of_a_kernel`` use one dump of each kernel.
``DRGN_PAGEOWNER_SAMPLE=N`` takes a sample: every test that is repeated for many dumps uses one of N
of them, not the same in all files, unless it is marked ``every_dump``; and tests marked
``thorough`` are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import io
import os
import runpy
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from asking import ask
from quick import is_quick, needs_drgn

from drgn_pageowner import sources
from drgn_pageowner.cli import main
from drgn_pageowner.model.records import Snapshot

if TYPE_CHECKING:
    from drgn import Program

    from drgn_pageowner.kernel.dump.kernel import Kernel
    from drgn_pageowner.kernel.session import ProgramSession

# A shell's background job ignores SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A wide terminal, for tests that are not about the width of tables.
os.environ["COLUMNS"] = "400"

ROOT = Path(__file__).resolve().parent.parent
_UNPACK: dict[str, Any] = runpy.run_path(str(ROOT / "testdata/unpack.py"))


try:
    importlib.import_module("drgn")
    WITHOUT_DRGN = False
except ModuleNotFoundError:
    WITHOUT_DRGN = True


def pytest_report_header() -> list[str]:
    return ["drgn: not installed; only tests that do not need it are run"] if WITHOUT_DRGN else []


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore the test files that cannot be imported without drgn."""
    is_test = collection_path.match("test_*.py")
    return True if WITHOUT_DRGN and is_test and needs_drgn(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark tests that need neither a dump nor drgn as ``quick``, and deselect tests by their markers.

    ``one_of_a_kernel`` deselects the dumps in :data:`_SECOND`; ``once`` deselects the test if
    ``DRGN_PAGEOWNER_FEW_DUMPS`` is set, ``thorough`` if ``DRGN_PAGEOWNER_SAMPLE`` is set.
    """
    left_out, kept = [], []
    for item in items:
        if is_quick(item):
            item.add_marker("quick")
        second = item.get_closest_marker("one_of_a_kernel") and _names_of(item) & _SECOND
        once = _FEW and item.get_closest_marker("once")
        if second or once or (_SAMPLE and item.get_closest_marker("thorough")):
            left_out.append(item)
        else:
            kept.append(item)
    if _SAMPLE:
        beyond = set(_not_in_the_sample(kept))
        left_out += beyond
        kept = [item for item in kept if item not in beyond]
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_collection_finish() -> None:
    """Collect garbage less often: tests hold millions of objects, of dumps that they share."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _not_in_the_sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the items with dumps that ``DRGN_PAGEOWNER_SAMPLE`` leaves out. Tests in one file use
    the same dumps, because reading them takes longest; together, all files use every dump."""
    repeated: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        names = _names_of(item) & _BUNDLED
        if len(names) == 1 and not item.get_closest_marker("every_dump"):
            test = item.nodeid.split("[")[0]
            repeated.setdefault(test, {}).setdefault(*names, []).append(item)
    left_out = []
    for test, of_dumps in repeated.items():
        first = zlib.crc32(test.split("::")[0].encode())
        places = {name: (place - first) % _SAMPLE for place, name in enumerate(sorted(_BUNDLED))}
        # A test of few dumps may have none of its file's.
        nearest = min(places[name] for name in of_dumps)
        for name, of_dump in of_dumps.items():
            if places[name] != nearest:
                left_out += of_dump
    return left_out


def _names_of(item: pytest.Item) -> set[str]:
    """Return the names of the dumps that a test is run with."""
    called = getattr(item, "callspec", None)
    return set() if called is None else {dump_id(value) for value in called.params.values()}


_LAST: list[tuple[Dump, ProgramSession]] = []


class Dump:
    """A dump, its symbols, and the files that its kernel printed just before."""

    def __init__(self, name: str, directory: Path, vmlinux: Path) -> None:
        self.name = name
        self.kernel = name.split("/")[0].removeprefix("linux-").split("-")[0]
        """Kernel version: "6.12"."""
        self.bundled = name.startswith("linux-")
        self.drift = 1 if self.bundled else 6
        """Factor for the number of changes between text and dump, relative to bundled dumps:
        kernels with KASAN or with pages of 64 KiB are slow, and the quarantine frees objects all
        the time."""
        self.vmcore = directory / "vmcore"
        self.vmlinux = vmlinux
        self.truth_directory = directory / "truth"

    def __repr__(self) -> str:
        return self.name

    def truth(self, path: str) -> bytes:
        """Return the contents of the file *path* (without leading slash) of the guest."""
        return (self.truth_directory / path).read_bytes()

    def facts(self) -> list[dict[str, str]]:
        """Return the facts that the guest's own programs and modules logged: a dictionary per
        line."""
        lines = self.truth("facts").decode(errors="surrogateescape").splitlines()
        return [
            {"kind": line.split()[0], **dict(w.split("=", 1) for w in line.split()[1:] if "=" in w)}
            for line in lines
        ]

    def has_truth(self, path: str) -> bool:
        return (self.truth_directory / path).exists()

    @functools.cached_property
    def prog(self) -> Program:
        from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program

        return open_program(ProgramOptions(core=str(self.vmcore), symbols=(str(self.vmlinux),)))

    @property
    def linux(self) -> Kernel:
        """The kernel of :attr:`prog`."""
        from drgn_pageowner.kernel.dump.kernel import Kernel

        return Kernel.of(self.prog)

    @functools.cached_property
    def snapshot(self) -> Snapshot:
        """Return all records, including those of freed pages."""
        from drgn_pageowner import snapshot

        return snapshot(self.prog, freed=True)

    def run(
        self, *args: object, check: bool = False, fresh: bool = False, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """
        Run our command line on this dump, in this process if possible, because the dump is open
        here.

        :param fresh: Read the heap again, even if an earlier command has read it.
        """
        command = ["-c", self.vmcore, "-s", self.vmlinux, *args]
        if kwargs or "--source" in args:
            return run_cli(*command, check=check, **kwargs)
        result = self._run_here([str(word) for word in command], fresh)
        if check:
            result.check_returncode()
        return result

    def session(self, fresh: bool = False) -> ProgramSession:
        """Return the session for commands in this process; the last dump's is kept, with what it
        has read."""
        from drgn_pageowner.kernel.session import ProgramSession

        if fresh or not _LAST or _LAST[0][0] is not self:
            _LAST[:] = [(self, ProgramSession(self.prog, str(self.vmcore)))]
        return _LAST[0][1]

    def _run_here(self, command: list[str], fresh: bool) -> subprocess.CompletedProcess[str]:
        really_open = sources._open

        def open_session(args: argparse.Namespace) -> Any:
            mine = not args.snapshot and args.core == str(self.vmcore)
            return self.session(fresh) if mine else really_open(args)

        out, err = io.BytesIO(), io.StringIO()
        text = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(err),
            mock.patch.object(sources, "_open", open_session),
        ):
            try:
                status = main(command)
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                # main() disables garbage collection.
                gc.enable()
        printed = out.getvalue().decode(errors="surrogateescape")
        return subprocess.CompletedProcess(command, status, printed, err.getvalue())


def run_cli(*args: object, check: bool = False, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drgn_pageowner", *map(str, args)],
        capture_output=True,
        check=check,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=300,
        **kwargs,
    )


@functools.cache
def bundled(name: str) -> Dump:
    directory = _UNPACK["unpack"](name)
    return Dump(name, directory, directory.parent / "vmlinux")


def _others() -> list[Dump]:
    root = os.environ.get("DRGN_PAGEOWNER_DUMPS")
    if not root:
        return []
    directories = sorted(path.parent for path in Path(root).glob("*/vmcore"))
    return [Dump(path.name, path, path / "vmlinux") for path in directories]


_BUNDLED = set(_UNPACK["names"]())
_FEW = os.environ.get("DRGN_PAGEOWNER_FEW_DUMPS", "").split()
_SAMPLE = int(os.environ.get("DRGN_PAGEOWNER_SAMPLE", "0"))
# Dumps of kernels that have another dump with more features.
_SECOND = {
    "linux-5.10/kdump", "linux-5.10/noleak", "linux-6.1/kdump", "linux-6.12/kdump",
    "linux-6.12-arm64/kdump", "linux-7.2/kdump",
}  # fmt: skip

# Dumps of kernels whose page_owner was on.
DUMPS: list[Callable[[], Dump]] = [
    functools.partial(bundled, name)
    for name in (_FEW or _UNPACK["names"]())
    if "noowner" not in name and "owner-off" not in name
] + [functools.partial(lambda other: other, other) for other in _others()]


def traps() -> list[Callable[[], Dump]]:
    """Dumps of guests that ran the scenario "traps": leaks, and known fragmentation."""
    return [get for get in DUMPS if "traps" in dump_id(get)]


def leak_free() -> list[Callable[[], Dump]]:
    """Dumps of such guests with po.leak=0, in which the memory is held instead of leaked."""
    return [get for get in DUMPS if "noleak" in dump_id(get)]


def profiling() -> list[Callable[[], Dump]]:
    """Dumps of kernels with memory allocation profiling, whether or not page_owner was on."""
    names = [name for name in _FEW or _UNPACK["names"]() if "profiling" in name]
    mine = [functools.partial(bundled, name) for name in names]
    others = [other for other in _others() if "profiling" in other.name]
    return [*mine, *(functools.partial(lambda other: other, other) for other in others)]


def dump_id(get: Callable[[], Dump]) -> str:
    # pytest 8.0 calls this without a dump if the list of dumps is empty.
    return str(get.args[0]) if isinstance(get, functools.partial) and get.args else "none"


@pytest.fixture(scope="session", params=DUMPS, ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    """Yield every dump with page_owner on, one after another."""
    got: Dump = request.param()
    return got


@pytest.fixture(scope="session")
def one_dump() -> Dump:
    """Return one dump, for tests that do not depend on the kernel."""
    return bundled("linux-6.12/kdump")


@pytest.fixture(scope="session")
def dump_named() -> Callable[[str], Dump]:
    return bundled


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_cli


@pytest.fixture(scope="session")
def live() -> Callable[[Dump], ProgramSession]:
    """Return a function that returns a dump's session, for commands in this process."""
    return Dump.session


@pytest.fixture(scope="session")
def saved(
    tmp_path_factory: pytest.TempPathFactory, live: Callable[[Dump], ProgramSession]
) -> Callable[[Dump], Path]:
    """Return a function that returns a dump's snapshot, saved once for all tests; with leaks, if
    the guest has any."""
    pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    directory = tmp_path_factory.mktemp("snapshots")

    @functools.cache
    def of(dump: Dump) -> Path:
        path = directory / (dump.name.replace("/", "-") + ".parquet")
        leaks = "--leaks" if "traps" in dump.name else ""
        assert ask(live(dump), f"save {leaks} {path}")[::2] == (0, "")
        return path

    return of
