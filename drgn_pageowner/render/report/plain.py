# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text from a crashed machine, made harmless."""

from __future__ import annotations

import re

__all__ = ("plain",)

# Bytes that were no UTF-8 (surrogates of surrogateescape), and what is no character of a text:
# controls, and what turns the direction of writing.
_STRANGE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def plain(text: str) -> str:
    """*text* with everything that is no printable character written as ``\\xNN``."""
    return _STRANGE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
