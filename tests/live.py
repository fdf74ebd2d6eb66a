# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulate a running kernel: dumps that change while they are read."""

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
    """Return a separate program, which a test may change."""
    prog = drgn.Program()
    prog.set_core_dump(str(dump.vmcore))
    prog.load_debug_info([str(dump.vmlinux)], main=True)
    return prog


def taken_for_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every program look like a running kernel."""
    for module in (kernel, live, reader, session):
        monkeypatch.setattr(module, "is_live", lambda prog: True)


class Changing:
    """Memory with different contents at each reading, until :meth:`rest` is called."""

    def __init__(self, prog: drgn.Program, address: int, versions: Sequence[bytes | None]) -> None:
        """
        :param versions: Contents at each reading, the last one also for all later readings; all of
            the same size; ``None`` if the read should fail.
        """
        self.readings = 0
        self._versions = versions
        size = max(len(version) for version in versions if version is not None)
        self._original = prog.read(address, size)
        prog.add_memory_segment(address, size, self._read)

    def rest(self) -> None:
        """Restore the first contents permanently."""
        self._versions = [self._original]

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        version = self._versions[min(self.readings, len(self._versions) - 1)]
        self.readings += 1
        if version is None:
            raise FaultError("gone", address)
        return version[offset : offset + count]


class Computed:
    """Memory whose contents are returned by a function at every reading."""

    def __init__(
        self, prog: drgn.Program, address: int, size: int, content: Callable[[], bytes]
    ) -> None:
        self._content = content
        prog.add_memory_segment(address, size, self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return self._content()[offset : offset + count]
