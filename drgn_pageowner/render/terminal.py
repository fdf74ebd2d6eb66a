# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Fit text to the width of the terminal, and colour it.

The width is ``COLUMNS`` if that is set, otherwise that of the terminal. It is 80 if the output is
not a terminal, because a file is usually read in a terminal later.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

__all__ = ("columns", "cut", "fold", "paint", "shortened", "wants_colour")

_ELLIPSIS = "..."
# Minimum width that is used, because no table fits into less.
_LEAST = 40

# Two or more spaces between the name at the start of a line and its text.
_GAP = re.compile(r"\S {2,}(?=\S)")

# What can be left out of a name, and the rest.
_SHORTER = (
    (re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+(?= \[[\w-]+\]$|$)"), ""),
    (re.compile(r"^[^ ]*/([^ /]+:\d+ (?:\[[\w-]+\] )?func:)"), r"\1"),
    (
        re.compile(r"^[^ ]+:\d+ (\[[\w-]+\] )?func:([^ ]+)$"),
        lambda m: f"{m[2]} {m[1] or ''}".rstrip(),
    ),
    (re.compile(r"^0x[0-9a-f]+ \(([^ ]*GFP_[^ ]*)\)$"), r"\1"),
)

_RED, _YELLOW, _GREEN, _CYAN = "31", "33", "32", "36"
_SEVERITIES = {"bad": _RED, "warning": _YELLOW, "ok": _GREEN, "good": _GREEN}
_SEVERITY = re.compile(r"^(?P<word>bad|warning|ok|good)(?=: | {2,}|$)", re.IGNORECASE)
# The module of a frame, as %pS prints it.
_MODULE = re.compile(r"(?<=\S )\[(?!\d+\])[\w-]+\](?=\s|$)")


def columns() -> int:
    """Return the width that lines for people may have, in characters."""
    return max(shutil.get_terminal_size((80, 24)).columns, _LEAST)


def wants_colour(choice: str, out: Any, environment: Mapping[str, str] | None = None) -> bool:
    """
    Decide whether to print in colour.

    :param choice: The value of ``--color``: ``auto``, ``always`` or ``never``.
    :param out: The stream to print to; ``auto`` colours a terminal, unless ``NO_COLOR`` is set to
        anything, or ``TERM`` is ``dumb``.
    """
    if choice != "auto":
        return choice == "always"
    known = os.environ if environment is None else environment
    return out.isatty() and not known.get("NO_COLOR") and known.get("TERM") != "dumb"


def shortened(text: str, width: int) -> str:
    """
    Return *text* in at most *width* characters.

    A frame first loses its offset, an allocation tag its directory and then its line, and flags
    lose their number. What is still too long has ``...`` in place of its middle.
    """
    for pattern, shorter in _SHORTER:
        if len(text) <= width:
            return text
        text = pattern.sub(shorter, text)
    if len(text) <= width:
        return text
    if width <= len(_ELLIPSIS):
        return text[:width]
    kept = width - len(_ELLIPSIS)
    # Keep more of the end, which has the offset, the module or the file name.
    first = kept // 2
    return text[:first] + _ELLIPSIS + text[len(text) - (kept - first) :]


def cut(text: str, width: int) -> str:
    """Return the beginning of *text* in at most *width* characters, with ``...`` for the rest."""
    return text if len(text) <= width else text[: width - len(_ELLIPSIS)] + _ELLIPSIS


def fold(line: str, width: int) -> list[str]:
    """
    Break a line of prose into lines of at most *width* characters.

    The lines that follow the first begin below its text: below the second column if the line is a
    name and a text, with more than one space between them.
    """
    if len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    gap = _GAP.search(line, indent)
    text_at = gap.end() if gap is not None and gap.end() <= width // 2 else indent + 2
    hanging = " " * min(text_at, width // 2)
    longest = width - len(hanging)
    words = [
        shortened(part, longest)
        for word in line[indent:].split(" ")
        for part in _flags(word, longest)
    ]
    return textwrap.wrap(
        " ".join(words),
        width,
        initial_indent=" " * indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )


def _flags(word: str, width: int) -> list[str]:
    """Break a word of flags behind ``|``, each line as long as *width* allows."""
    parts: list[str] = []
    for flag in re.findall(r"[^|]*\||[^|]+", word) if len(word) > width else [word]:
        if parts and len(parts[-1]) + len(flag) <= width:
            parts[-1] += flag
        else:
            parts.append(flag)
    return parts


def paint(line: str) -> str:
    """Return *line* with its severity and the modules of frames in colour."""
    line = _SEVERITY.sub(lambda m: _painted(m["word"], _SEVERITIES[m["word"].lower()]), line)
    return _MODULE.sub(lambda m: _painted(m.group(), _CYAN), line)


def _painted(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m"
