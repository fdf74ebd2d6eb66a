# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: the note in which a kernel describes itself to readers of its dump."""

from __future__ import annotations

import re
from typing import NamedTuple

from drgn import FaultError, Program

__all__ = ("Release", "VmcoreInfo", "vmcoreinfo")


class Release(NamedTuple):
    """Version numbers of a release string; 0 for a missing number."""

    major: int
    minor: int
    patch: int


class VmcoreInfo:
    """The lines of a VMCOREINFO note. If a key occurs twice, the first line counts."""

    def __init__(self, data: bytes) -> None:
        """:param data: The note, made of lines ``KEY=VALUE``."""
        self._values: dict[str, str] = {}
        for line in data.decode(errors="replace").split("\n"):
            key, equals, value = line.partition("=")
            if equals:
                self._values.setdefault(key, value)

    def text(self, key: str) -> str | None:
        """Get the value of *key* (``OSRELEASE``, ...); return ``None`` if there is no such line."""
        return self._values.get(key)

    def integer(self, key: str, base: int = 10) -> int | None:
        """Get the value of *key* as a number; return ``None`` if it is missing or no number."""
        try:
            return int(self._values[key], base)
        except (KeyError, ValueError):
            return None

    def number(self, name: str) -> int | None:
        """Get ``NUMBER(name)``, a constant or variable; return ``None`` if it is missing."""
        return self.integer(f"NUMBER({name})")

    def symbol(self, name: str) -> int | None:
        """Get ``SYMBOL(name)``, a virtual address; return ``None`` if it is missing."""
        return self.integer(f"SYMBOL({name})", 16)

    def config(self, name: str) -> bool:
        """Return whether there is a line ``CONFIG_name=y``."""
        return self._values.get(f"CONFIG_{name}") == "y"

    @property
    def page_type_bits(self) -> dict[str, int]:
        """
        The page types exported as ``PAGE_name_MAPCOUNT_VALUE``, for makedumpfile.

        :return: Lower-case name -> bits that are cleared in ``page.page_type``.
        """
        bits = {}
        for key in self._values:
            match = re.fullmatch(r"NUMBER\(PAGE_(\w+)_MAPCOUNT_VALUE\)", key)
            value = self.integer(key)
            if match is not None and value is not None:
                bits[match.group(1).lower()] = ~value & 0xFFFFFFFF
        return bits

    @property
    def release(self) -> Release:
        """The version numbers of ``OSRELEASE``, which is ``UTS_RELEASE``."""
        match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", self.text("OSRELEASE") or "")
        numbers = match.groups() if match is not None else (None, None, None)
        return Release(*(int(number or 0) for number in numbers))


def vmcoreinfo(prog: Program) -> VmcoreInfo:
    """Parse the VMCOREINFO of *prog*; the result is empty if there is none."""
    try:
        return VmcoreInfo(prog["VMCOREINFO"].string_())
    except (LookupError, FaultError):
        return VmcoreInfo(b"")
