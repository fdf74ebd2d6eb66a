# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Escape text from a machine's memory before it is displayed.

Names of tasks, modules, caches, files, cgroups and hosts, and the kernel log, may contain any
bytes. Printed as they are, they could move the cursor of a terminal, change its title, or turn the
direction of the text around them.
"""

from __future__ import annotations

import re

__all__ = ("escaped", "without_surrogates", "word")

_ASCII_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""
    Return *text* with unprintable characters written as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.

    Line feeds and tabs are not changed. A byte that was not UTF-8 (a surrogate of
    ``surrogateescape``) is written as ``\xNN``.
    """
    if text.isascii():
        return _ASCII_CONTROLS.sub(_escape_match, text)
    return "".join([c if c.isprintable() or c in "\n\t" else _escape(c) for c in text])


def word(text: str) -> str:
    """
    Escape *text* for use within a line or a cell: as :func:`escaped` does, and line feeds and tabs,
    too.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else _escape(c) for c in text])


def without_surrogates(text: str) -> str:
    r"""Return *text* as valid Unicode: bytes that were not UTF-8 become ``\xNN``."""
    return text if text.isascii() else _SURROGATES.sub(_escape_match, text)


def _escape_match(found: re.Match[str]) -> str:
    return _escape(found.group())


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
