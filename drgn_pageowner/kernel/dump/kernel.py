# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cache facts about the kernel of a program.

A fact is computed by a function that takes a :class:`Kernel`. The function is in the file of its
kernel concept, and one of two decorators caches its result:

- :func:`once` for facts that never change: layouts, sizes, constants, names, symbol addresses;
- :func:`once_per_reading` for facts that a running kernel changes: sections, CPUs, zones, modules.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.dump.bulk import page_size, word_dtype
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.live import is_live
from drgn_pageowner.kernel.dump.truncated import keep_to_the_file
from drgn_pageowner.kernel.dump.vmcoreinfo import VmcoreInfo, vmcoreinfo
from drgn_pageowner.model.contents import DumpContents
from drgn_pageowner.model.threads import allow_threads

__all__ = ("Kernel", "Loss", "once", "once_per_reading")

T = TypeVar("T")
_Fact = Callable[["Kernel"], T]

# Key in drgn.Program.cache, which drgn provides for helpers.
_CACHE_KEY = "drgn_pageowner"

# Maximum number of names in a line about many items of one kind.
_NAMED = 3


class Loss(NamedTuple):
    """Damage that :meth:`Kernel.tolerate` ignored; the members are its arguments."""

    cost: str
    error: str
    """Text of the exception."""
    of: str | None
    gap: bool


class Kernel:
    """
    A program with cached facts about its kernel.

    Functions in kernel/linux/ and kernel/read/ take a Kernel instead of a program. Facts about a
    dump are cached as long as its program exists. Facts that a running kernel changes are cached
    for one reading of its memory, which begins with :meth:`reading`. A fact must not contain a drgn
    object, type or program, because the reference cycle would keep the program alive.
    """

    def __init__(
        self,
        prog: Program,
        lasting: dict[Any, Any] | None = None,
        passing: dict[Any, Any] | None = None,
    ) -> None:
        """
        :param lasting: Cache of facts that never change, from an earlier reading of *prog*.
        :param passing: Cache of facts that a running kernel changes, from the same reading.
        """
        self.prog = prog
        self._lasting: dict[Any, Any] = {} if lasting is None else lasting
        self._passing: dict[Any, Any] = {} if passing is None else passing
        self.losses: list[str] = self._passing.setdefault("losses", [])
        """Messages: one line for each part of memory that could not be read, and what is unknown
        because of that."""
        self.gaps: list[str] = self._passing.setdefault("gaps", [])
        """Messages about missing parts that may contain references. Memory that is referenced only
        from these parts is wrongly reported as leaked."""

    @classmethod
    def of(cls, prog: Program) -> Kernel:
        """Get the kernel of *prog*, with the facts that are already cached."""
        lasting, passing = prog.cache.setdefault(_CACHE_KEY, ({}, {}))
        return cls(prog, lasting, passing)

    def reading(self) -> Kernel:
        """
        Begin a new reading of the kernel's memory.

        :return: For a running kernel, a new Kernel without the facts that may have changed; for a
            dump, this Kernel.
        """
        return Kernel(self.prog, self._lasting) if is_live(self.prog) else self

    @property
    def jobs(self) -> int:
        """
        Maximum number of processes that read memory at the same time; 1 by default. As many threads
        work on large arrays.

        See :mod:`drgn_pageowner.kernel.dump.parallel` and :mod:`drgn_pageowner.model.threads`.
        """
        found: int = self._lasting.get("jobs", 1)
        return found

    @jobs.setter
    def jobs(self, jobs: int) -> None:
        self._lasting["jobs"] = jobs
        allow_threads(jobs)

    @functools.cached_property
    def page_size(self) -> int:
        """``PAGE_SIZE``, in bytes."""
        return page_size(self.prog)

    @functools.cached_property
    def page_shift(self) -> int:
        """``PAGE_SHIFT``."""
        return int(self.prog["PAGE_SHIFT"])

    @functools.cached_property
    def word(self) -> np.dtype[Any]:
        """The dtype of ``unsigned long``."""
        return word_dtype(self.prog)

    @functools.cached_property
    def struct_page_size(self) -> int:
        """``sizeof(struct page)``."""
        return int(self.prog.type("struct page").size)

    @functools.cached_property
    def vmcoreinfo(self) -> VmcoreInfo:
        """The kernel's VMCOREINFO."""
        return vmcoreinfo(self.prog)

    @property
    def contents(self) -> DumpContents | None:
        """
        The pages in the dump file; ``None`` for a running kernel or a file of an unknown format.

        If the program was not opened by :func:`~drgn_pageowner.kernel.dump.open.open_program`, the
        first access also makes its reads fail for pages that the file lists but does not contain.
        """
        if "contents" not in self._lasting:
            path = getattr(self.prog, "core_dump_path", None)
            self.contents = None
            if path is not None and os.path.isfile(path):
                self.contents = keep_to_the_file(self.prog, path)
        found: DumpContents | None = self._lasting["contents"]
        return found

    @contents.setter
    def contents(self, contents: DumpContents | None) -> None:
        self._lasting["contents"] = contents

    def problems(self, *known: Iterable[str]) -> list[str]:
        """
        Return all messages about parts of memory that could not be read, without duplicates.

        :param known: Lists of further messages, which come first.
        """
        return list(dict.fromkeys([*chain(*known), *self.gaps, *self.losses]))

    @contextlib.contextmanager
    def tolerate(self, cost: str, *, of: str | None = None, gap: bool = False) -> Iterator[None]:
        """
        Ignore damage that ends a ``with`` block, but add a message to :attr:`losses`.

        :param cost: Message: what cannot be read, and what is unknown because of that.
        :param of: Name of the affected item, where *cost* may apply to many items of one kind. The
            names of all affected items replace ``{}`` in one common message.
        :param gap: Whether the missing part may contain references; the message is then added to
            :attr:`gaps` instead.
        """
        try:
            yield
        except DAMAGE as error:
            unless_mistaken(error)
            loss = Loss(cost, str(error), of, gap)
            self.lose([loss])
            noted: list[Loss] | None = self._passing.get("noted")
            if noted is not None:
                noted.append(loss)

    def lose(self, losses: Iterable[Loss]) -> None:
        """Add messages to :attr:`losses` and :attr:`gaps`, as :meth:`tolerate` does."""
        for loss in losses:
            lines = self.gaps if loss.gap else self.losses
            if loss.of is None:
                lines.append(f"{loss.cost} ({loss.error})")
                continue
            shared: dict[str, tuple[int, str, list[str]]] = self._passing.setdefault("shared", {})
            place, first, names = shared.setdefault(loss.cost, (len(lines), loss.error, []))
            if loss.of not in names:
                names.append(loss.of)
            line = f"{loss.cost.format(_enumerated(names))} ({first})"
            lines[place : place + 1] = [line]

    @contextlib.contextmanager
    def noting(self) -> Iterator[list[Loss]]:
        """
        Note what :meth:`tolerate` ignores in a ``with`` block.

        :return: A list, to which each loss is appended; to be passed to :meth:`lose` in another
            process.
        """
        noted: list[Loss] = []
        self._passing["noted"] = noted
        try:
            yield noted
        finally:
            del self._passing["noted"]

    def _establish(self, facts: dict[Any, Any], function: _Fact[T]) -> T:
        """Return the result of *function*, cached in *facts*. Exceptions are not cached."""
        if function not in facts:
            facts[function] = function(self)
        result: T = facts[function]
        return result


def _enumerated(names: Sequence[str]) -> str:
    """Format a list of names; of a long list, the first three and the number of the others."""
    if len(names) > _NAMED + 1:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def once(function: _Fact[T]) -> _Fact[T]:
    """Decorate a function whose result never changes, so that it is called once per program."""

    @functools.wraps(function)
    def fact(kernel: Kernel) -> T:
        return kernel._establish(kernel._lasting, function)

    return fact


def once_per_reading(function: _Fact[T]) -> _Fact[T]:
    """
    Decorate a function whose result a running kernel changes, so that it is called once per
    reading.
    """

    @functools.wraps(function)
    def fact(kernel: Kernel) -> T:
        return kernel._establish(kernel._passing, function)

    return fact
