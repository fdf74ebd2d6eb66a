# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on stderr: only on a terminal, only for work that takes over two seconds."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TypeVar

from drgn_pageowner.escape import word

__all__ = ("progress", "warn")

T = TypeVar("T")

_DELAY_SECONDS = 2.0


def progress(items: Iterable[T], *, description: str, total: int, unit: str) -> Iterator[T]:
    """
    Yield *items*, showing on stderr how many of *total* are done.

    :param unit: What one item is, with a leading space (``" section"``).
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(
        items, desc=description, total=total, unit=unit, delay=_DELAY_SECONDS, leave=False
    )


def warn(message: str) -> None:
    """
    Print *message* on stderr: on one line, or on a terminal wrapped between words to its width.
    """
    line = f"drgn-pageowner: {word(message)}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size((80, 24)).columns
        line = textwrap.fill(
            line, max(width, 40), subsequent_indent="  ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
    print(line, file=sys.stderr)
