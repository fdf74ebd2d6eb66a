# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps that change while they are read, as a running kernel does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import drgn
import pytest
from conftest import Dump
from drgn import FaultError

from drgn_pageowner.kernel import session
from drgn_pageowner.kernel.dump import kernel, live
from drgn_pageowner.kernel.read import records as reader


def fresh_program(dump: Dump) -> drgn.Program:
    """A program of its own, for a test to change."""
    prog = drgn.Program()
    prog.set_core_dump(str(dump.vmcore))
    prog.load_debug_info([str(dump.vmlinux)], main=True)
    return prog


def taken_for_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every program is one that runs."""
    for module in (kernel, live, reader, session):
        monkeypatch.setattr(module, "is_live", lambda prog: True)


class Changing:
    """Memory that says something else from reading to reading, until it is told to rest."""

    def __init__(self, prog: drgn.Program, address: int, versions: Sequence[bytes | None]) -> None:
        """
        :param versions: What is there at each reading, and from the last on; all of the same size;
            ``None``: nothing.
        """
        self.readings = 0
        self._versions = versions
        size = max(len(version) for version in versions if version is not None)
        self._original = prog.read(address, size)
        prog.add_memory_segment(address, size, self._read)

    def rest(self) -> None:
        """From now on it is what it was at first."""
        self._versions = [self._original]

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        version = self._versions[min(self.readings, len(self._versions) - 1)]
        self.readings += 1
        if version is None:
            raise FaultError("gone", address)
        return version[offset : offset + count]


class Computed:
    """Memory whose content a function says at every reading."""

    def __init__(
        self, prog: drgn.Program, address: int, size: int, content: Callable[[], bytes]
    ) -> None:
        self._content = content
        prog.add_memory_segment(address, size, self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return self._content()[offset : offset + count]
