# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse VMCOREINFO, the note in which a kernel describes itself to programs that read its dump."""

from __future__ import annotations

import re
from typing import NamedTuple

from drgn import FaultError, Program

__all__ = ("Release", "VmcoreInfo", "vmcoreinfo")


class Release(NamedTuple):
    """Version numbers of a kernel release; a number that the release string lacks is 0."""

    major: int
    minor: int
    patch: int


class VmcoreInfo:
    """Values in a VMCOREINFO note, by key. If a key occurs twice, its first value is used."""

    def __init__(self, data: bytes) -> None:
        """:param data: Contents of the note: lines ``KEY=VALUE``."""
        self._values: dict[str, str] = {}
        for line in data.decode(errors="replace").split("\n"):
            key, equals, value = line.partition("=")
            if equals:
                self._values.setdefault(key, value)

    def text(self, key: str) -> str | None:
        """Get the value of *key*, such as ``OSRELEASE``; return ``None`` if it is missing."""
        return self._values.get(key)

    def integer(self, key: str, base: int = 10) -> int | None:
        """
        Get the value of *key* as an integer; return ``None`` if it is missing or not an integer.

        :param base: Base in which the integer is written.
        """
        try:
            return int(self._values[key], base)
        except (KeyError, ValueError):
            return None

    def number(self, name: str) -> int | None:
        """Get the constant or variable ``NUMBER(name)``; return ``None`` if it is missing."""
        return self.integer(f"NUMBER({name})")

    def symbol(self, name: str) -> int | None:
        """Get the virtual address ``SYMBOL(name)``; return ``None`` if it is missing."""
        return self.integer(f"SYMBOL({name})", 16)

    def config(self, name: str) -> bool:
        """Return whether the note has the line ``CONFIG_name=y``."""
        return self._values.get(f"CONFIG_{name}") == "y"

    @property
    def page_type_bits(self) -> dict[str, int]:
        """
        The page types that the note has for makedumpfile, as ``PAGE_name_MAPCOUNT_VALUE``.

        :return: Name of the type in lower case -> bits that are cleared in ``page.page_type``.
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
    """Parse the VMCOREINFO of *prog*; the result is empty if it is missing."""
    try:
        return VmcoreInfo(prog["VMCOREINFO"].string_())
    except (LookupError, FaultError):
        return VmcoreInfo(b"")
