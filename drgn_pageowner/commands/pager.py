# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show long answers in a pager, as git does."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

__all__ = ("paged", "pager_command")

_DEFAULT = "less"
# Options of less, as git sets them: exit if the text fits on one screen, show colours, do not clear
# the screen at the end.
_LESS = "FRX"


def pager_command() -> list[str] | None:
    """
    Return the pager to run and its arguments: ``PAGER``, or ``less``.

    :return: ``None`` if ``PAGER`` is empty or ``cat``, which means that no pager is wanted.
    """
    wanted = os.environ.get("PAGER")
    try:
        words = shlex.split(_DEFAULT if wanted is None else wanted)
    except ValueError:
        return None
    return None if words in ([], ["cat"]) else words


class _Paged:
    """A stream to a pager that is started when the first text is written."""

    def __init__(self, out: TextIO, words: list[str]) -> None:
        self._out = out
        self._words = words
        self._process: subprocess.Popen[str] | None = None
        self._failed = False

    def _stream(self) -> TextIO:
        if self._process is None and not self._failed:
            try:
                self._process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    errors="surrogateescape",
                    env={"LESS": _LESS, "LV": "-c", **os.environ},
                )
            except OSError:
                # The pager cannot be started: print without it.
                self._failed = True
        if self._process is None or self._process.stdin is None:
            return self._out
        return cast(TextIO, self._process.stdin)

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def writelines(self, pieces: Iterable[str]) -> None:
        self._stream().writelines(pieces)

    def flush(self) -> None:
        if self._process is not None:
            self._stream().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)

    def wait(self) -> None:
        """Wait until the user has quit the pager."""
        if self._process is None:
            return
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except BrokenPipeError:
            pass
        while True:
            try:
                self._process.wait()
                return
            except KeyboardInterrupt:
                # Ctrl-C is handled by the pager.
                continue


@contextmanager
def paged(out: TextIO, *, wanted: bool) -> Iterator[TextIO]:
    """
    Yield a stream to a pager, if *out* is a terminal; else *out* itself.

    :param wanted: Whether to use a pager at all.
    """
    words = pager_command() if wanted and out.isatty() else None
    if words is None:
        yield out
        return
    stream = _Paged(out, words)
    try:
        yield cast(TextIO, stream)
    except BrokenPipeError:
        # The user quit the pager before the end of the output.
        pass
    finally:
        stream.wait()
