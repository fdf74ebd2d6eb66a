# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recognize files that are not usable as a dump or as symbols, and tell the user what to do."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from drgn_pageowner.elf import ET_CORE, ET_REL, Elf

__all__ = ("not_a_dump", "not_symbols")

_HEAD = 1 << 12

_TAKE_A_DUMP = (
    "take the dump with kdump, virsh dump --memory-only, or QEMU's dump-guest-memory instead"
)


class _Magic(NamedTuple):
    offset: int
    bytes: bytes
    what: str
    do: str
    """Advice to the user, or a command to run; ``{}`` stands for the path of the file."""


_PACKED = (
    _Magic(0, b"\x1f\x8b", "compressed with gzip", "gunzip -k {}"),
    _Magic(0, b"\xfd7zXZ\0", "compressed with xz", "unxz -k {}"),
    _Magic(0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd {}"),
    _Magic(0, b"BZh", "compressed with bzip2", "bunzip2 -k {}"),
    _Magic(0, b"\x04\x22\x4d\x18", "compressed with lz4", "unlz4 {}"),
    _Magic(0, b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", "lzop -d {}"),
    _Magic(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x {}"),
    _Magic(0, b"PK\3\4", "a ZIP archive", "unzip {}"),
    _Magic(257, b"ustar", "a tar archive", "tar xf {}"),
    _Magic(0, b"!<arch>\n", "an ar archive or a Debian package", "dpkg-deb -x {} DIR"),
    _Magic(0, b"\xed\xab\xee\xdb", "an RPM package", "rpm2cpio {} | cpio -id"),
)

_MACHINES = (
    _Magic(
        0, b"LibvirtQemud", "a machine that libvirt saved (virsh save)",
        f"virsh restore {{}}, then {_TAKE_A_DUMP}",
    ),
    _Magic(0, b"QEVM", "a state of a machine that QEMU saved (savevm, migrate)",
           f"load it, then {_TAKE_A_DUMP}"),
    _Magic(0, b"QFI\xfb", "a disk image of QEMU (qcow2), which may have a state of a machine in it",
           f"load that (loadvm), then {_TAKE_A_DUMP}"),
    _Magic(0, b"KDMV", "a disk image of VMware (VMDK)", "pass the dump that lies on it"),
    # Signatures of VMware's files with the state of a suspended machine (.vmss) or of a snapshot
    # (.vmsn).
    *(
        _Magic(0, magic, "a state of a machine that VMware saved (.vmss, .vmsn)",
               "vmss2core -N6 {} and the .vmem beside it, and pass what that writes")
        for magic in (b"\xd0\xbe\xd0\xbe", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe",
                      b"\xd1\xba\xd1\xba", b"\xd2\xba\xd2\xba")
    ),
    _Magic(0, b"EMiL", "memory in LiME's format, which has no VMCOREINFO", _TAKE_A_DUMP),
    _Magic(0, b"AVML", "memory in AVML's format, which has no VMCOREINFO", _TAKE_A_DUMP),
    _Magic(0, b"PAGEDU", "a dump of Windows", "pass one of Linux"),
    _Magic(0, b"PAR1", "a Parquet file", "if save wrote it, pass it with -S"),
)  # fmt: skip

_KERNEL = "pass the vmlinux with debugging symbols, of which this is made"
_KERNELS = (
    _Magic(0x202, b"HdrS", "a compressed kernel (bzImage), without debugging symbols", _KERNEL),
    _Magic(0, b"MZ", "a compressed kernel (EFI stub) or a program of Windows", _KERNEL),
    _Magic(0x38, b"ARM\x64", "a kernel image of arm64, without debugging symbols", _KERNEL),
)


_DUMPS = (b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0")


def _magic(head: bytes, known: Sequence[_Magic]) -> _Magic | None:
    """
    Find the kind of a file by its magic number.

    :param head: The first bytes of the file.
    :return: The matching element of *known*; ``None`` if no element matches.
    """
    return next((m for m in known if head[m.offset :].startswith(m.bytes)), None)


def not_a_dump(path: str) -> str | None:
    """
    Return a message for the user if *path* is not a dump: what the file is, and what to do.

    :return: ``None`` if the file may be a dump.
    """
    head = _head(path)
    if head is None:
        return None
    if isinstance(head, str):
        return f"{path} is {head}: -c takes a vmcore"
    magic = _magic(head, (*_PACKED, *_MACHINES))
    if magic is not None:
        return f"{path} is {magic.what}: {magic.do.format(path)}"
    magic = _magic(head, _KERNELS)
    if magic is not None:
        return f"{path} is {magic.what}: -c takes a vmcore, and -s the vmlinux"
    elf = Elf.read(path)
    if elf is not None:
        return _elf_that_is_no_dump(path, elf)
    return None if head.startswith(_DUMPS) else _raw_or_text(path, head)


def _elf_that_is_no_dump(path: str, elf: Elf) -> str | None:
    if elf.kind != ET_CORE:
        what = "a kernel module" if elf.kind == ET_REL else "a kernel or a program (a vmlinux?)"
        return (
            f"{path} is {what}, and no dump: -c takes a vmcore, and -s the vmlinux; "
            "are the two swapped?"
        )
    if elf.of_a_process:
        return f"{path} is a core dump of a process: -c takes a vmcore, which is of a kernel"
    return None


def _raw_or_text(path: str, head: bytes) -> str:
    if _is_text(head):
        return f"{path} is text (a kernel log?): -c takes a vmcore"
    if path.endswith(".vmem"):
        return (
            f"{path} is memory of a machine of VMware (.vmem) without its state: run vmss2core -N6 "
            f"with the .vmss or .vmsn beside it, or {_TAKE_A_DUMP}"
        )
    return (
        f"{path} begins like no dump: if it is raw memory, nothing in it says where its parts "
        f"belong; {_TAKE_A_DUMP}"
    )


def not_symbols(path: str, release: str) -> str | None:
    """
    Return a message for the user if *path* cannot have debugging symbols.

    :param release: Release of the kernel whose symbols are needed.
    :return: ``None`` for an ELF file that is not a core dump, which may have symbols.
    """
    head = _head(path)
    if head is None:
        return f"{path} cannot be read"
    if isinstance(head, str):
        more = "; name the file in it, or pass it with --debug-directory" * head.endswith("ory")
        return f"{path} is {head}: -s takes the vmlinux of {release}{more}"
    magic = _magic(head, _PACKED)
    if magic is not None:
        return f"{path} is {magic.what}: {magic.do.format(path)}, and pass what that writes"
    magic = _magic(head, _KERNELS)
    if magic is not None:
        return f"{path} is {magic.what}: {magic.do}"
    elf = Elf.read(path)
    if head.startswith(_DUMPS) or (elf is not None and elf.kind == ET_CORE):
        return f"{path} is a dump: it goes with -c, and -s takes the vmlinux of {release}"
    return (
        f"{path} is not an ELF file: pass the vmlinux of {release} with -s" if elf is None else None
    )


def _head(path: str) -> bytes | str | None:
    """
    Read the first bytes of a file.

    :return: The bytes; a description of the file if it is a directory or empty; ``None`` if it
        cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return "a directory"
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            return None
        with open(path, "rb") as file:
            return file.read(_HEAD) or "empty"
    except OSError:
        return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut off.
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return all(c.isprintable() or c in "\n\r\t\x1b\f" for c in text)
