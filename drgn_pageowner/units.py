# SPDX-License-Identifier: LGPL-2.1-or-later
"""Format numbers, sizes, shares and durations for people."""

from __future__ import annotations

__all__ = ("age", "are", "counted", "have", "pages_size", "share")


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: ``"1 page"``, ``"2,000 pages"``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def are(number: int) -> str:
    """Return the verb that goes with a number of things: ``"is"`` or ``"are"``."""
    return "is" if number == 1 else "are"


def have(number: int) -> str:
    """Return the verb that goes with a number of things: ``"has"`` or ``"have"``."""
    return "has" if number == 1 else "have"


def pages_size(size: int) -> str:
    """Format a size in bytes: ``"12.3 MiB"``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def share(part: int, whole: int) -> str:
    """Format *part* of *whole* in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def age(nanoseconds: int | None) -> str:
    """Format a duration: ``"3.2 s"``, ``"14 min"``, ``"2.5 h"``, ``"3 d"``."""
    if nanoseconds is None:
        return "-"
    value = nanoseconds / 10**9
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / divisor:.1f} {unit}"
    return f"{value / 86400:.1f} d"
