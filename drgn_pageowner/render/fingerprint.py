# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render clues to the owner of memory from its contents."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.escape import word
from drgn_pageowner.model.fingerprint import Fingerprint

__all__ = ("fingerprint_text",)


def fingerprint_text(found: Fingerprint, number: int, *, dump: bool) -> Iterator[str]:
    """
    Yield lines about the clues to an owner in the contents of memory.

    :param number: Number of allocations or objects that have the fingerprint.
    :param dump: Whether to dump the first bytes of an example.
    """
    share = f" ({found.shared:,} of {number:,})" if found.shared < number else ""
    yield f"  content: {word(found.text)}{share}, such as {found.example:#x}\n"
    if not dump or found.zero:
        return
    data = bytes.fromhex(found.bytes)
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"    {offset:04x}  {row.hex(' ', 4):35}  {letters}\n"
