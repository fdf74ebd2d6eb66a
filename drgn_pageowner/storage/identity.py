# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Identify a dump by its contents, without symbols and without drgn.

All dump formats have VMCOREINFO as plain text near the beginning: in the notes of an ELF core, in
the header of makedumpfile's format, and in the flattened form of both.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

__all__ = ("DumpIdentity", "identify", "new_id")

# Numbers of bytes to read from the start of a dump: the next one is tried if VMCOREINFO does not
# end within the previous one, because the notes of thousands of CPUs take several megabytes.
_HEADS = (1 << 17, 1 << 20, 16 << 20)
_FIRST_LINE = b"OSRELEASE="
_TEXT = re.compile(rb"(?:[\w().+-]+=[^\0\n]*\n)+")
_SAMPLES, _SAMPLE = 16, 4096
_KINDS = (b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0")
_ELF, _ET_CORE = b"\x7fELF", 4
_BUILD_ID = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class DumpIdentity:
    """Facts that identify a dump, from its headers."""

    id: str
    """ID of 16 hexadecimal digits, derived from VMCOREINFO, the time of the crash and the size."""
    size: int
    """Size of the file, in bytes."""
    release: str | None
    """``OSRELEASE``; ``None`` if there is no VMCOREINFO."""
    build_id: str | None
    """``BUILD-ID`` of VMCOREINFO, in hexadecimal. Added in Linux kernel commit 0935288c6e00
    ("kdump: append kernel build-id string to VMCOREINFO") (in v5.9)."""
    crash_time: int | None
    """``CRASHTIME``, in seconds since 1970; a hypervisor's dump has none."""
    is_dump: bool
    """Whether the file begins with the signature of a dump format or of ELF."""
    is_core: bool
    """Whether the file may be a dump; false for an ELF file that is not a core dump, such as a
    vmlinux or a program."""


def identify(file: BinaryIO, size: int) -> DumpIdentity:
    """
    Identify the dump in *file*.

    :param file: Seekable file, open for reading bytes.
    :param size: Size of the file, in bytes.
    :raises OSError: if the file cannot be read
    """
    head, info = b"", b""
    for length in _HEADS:
        head += file.read(length - len(head))
        info = _vmcoreinfo(head)
        if len(head) < length or (info and not head.endswith(info)):
            break
    values: dict[str, str] = {}
    for line in info.decode(errors="replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            values.setdefault(key, value)
    crash_time = _integer(values.get("CRASHTIME"))
    digest = hashlib.blake2b(info, digest_size=8)
    digest.update(size.to_bytes(8, "little"))
    if not info or crash_time is None:
        # Two dumps of the same boot may have the same size, so hash some of their contents, too.
        for place in _places(size):
            file.seek(place)
            digest.update(file.read(_SAMPLE))
    build_id = values.get("BUILD-ID", "").lower()
    return DumpIdentity(
        id=digest.hexdigest(),
        size=size,
        release=values.get("OSRELEASE") or None,
        build_id=build_id if _BUILD_ID.fullmatch(build_id) else None,
        crash_time=crash_time,
        is_dump=head.startswith(_KINDS),
        is_core=not head.startswith(_ELF) or _elf_type(head) == _ET_CORE,
    )


def _elf_type(head: bytes) -> int:
    order: Literal["little", "big"] = "big" if head[5:6] == b"\2" else "little"
    return int.from_bytes(head[16:18], order)


def new_id(*parts: object) -> str:
    """Return an ID of 16 hexadecimal digits, derived from *parts*, for data not from a dump."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _places(size: int) -> list[int]:
    step = max(size - _SAMPLE, 0) / (_SAMPLES - 1)
    return sorted({int(step * number) for number in range(_SAMPLES)})


def _vmcoreinfo(head: bytes) -> bytes:
    """Return the longest text in *head* that begins as VMCOREINFO does."""
    found, place = b"", head.find(_FIRST_LINE)
    while place >= 0:
        match = _TEXT.match(head, place)
        text = match.group() if match is not None else b""
        found = max(found, text, key=len)
        place = head.find(_FIRST_LINE, place + max(len(text), 1))
    return found


def _integer(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
