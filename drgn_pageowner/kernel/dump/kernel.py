# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel that a program holds, and the facts about it that were established already.

A fact is a function of a :class:`Kernel`. It lives in the file of the kernel concept that it
belongs to, and one of two decorators keeps its result:

- :func:`once` for what never changes: layouts, sizes, constants, names, addresses of symbols;
- :func:`once_per_reading` for what a running kernel changes: memory sections, CPUs, zones, modules.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.dump.bulk import page_size, word_dtype
from drgn_pageowner.kernel.dump.live import is_live
from drgn_pageowner.kernel.dump.truncated import keep_to_the_file
from drgn_pageowner.kernel.dump.vmcoreinfo import VmcoreInfo, vmcoreinfo
from drgn_pageowner.model.contents import DumpContents

__all__ = ("Kernel", "once", "once_per_reading")

T = TypeVar("T")
_Fact = Callable[["Kernel"], T]

# Key in drgn.Program.cache, which is there for helpers to keep what they found.
_CACHE_KEY = "drgn_pageowner"


class Kernel:
    """
    A program, and what was found out about its kernel.

    Every function of kernel/linux/ and kernel/read/ takes one instead of a program. Of a dump there
    is one, as long as the program lives; of a running kernel there is one for each reading.
    """

    def __init__(self, prog: Program, lasting: dict[Any, Any] | None = None) -> None:
        """:param lasting: Facts that do not change, from an earlier reading of *prog*."""
        self.prog = prog
        self._lasting: dict[Any, Any] = {} if lasting is None else lasting
        self._passing: dict[Any, Any] = {}

    @classmethod
    def of(cls, prog: Program) -> Kernel:
        """The kernel of *prog*: the same one for every call."""
        found: Kernel | None = prog.cache.get(_CACHE_KEY)
        if found is None:
            found = prog.cache[_CACHE_KEY] = cls(prog)
        return found

    def reading(self) -> Kernel:
        """
        Begin a reading.

        :return: Of a running kernel one without the facts that may have changed; of a dump itself.
        """
        return Kernel(self.prog, self._lasting) if is_live(self.prog) else self

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
        """What the kernel says of itself in VMCOREINFO."""
        return vmcoreinfo(self.prog)

    @functools.cached_property
    def contents(self) -> DumpContents | None:
        """
        The pages of the dump file; ``None`` of a running kernel or a file of an unknown format.

        A program that somebody else opened is kept to what its file holds from now on.
        """
        path = getattr(self.prog, "core_dump_path", None)
        if path is None or not os.path.isfile(path):
            return None
        return keep_to_the_file(self.prog, path)

    def _establish(self, facts: dict[Any, Any], function: _Fact[T]) -> T:
        """The result of *function*, from *facts* if it is there. What it raises is not kept."""
        if function not in facts:
            facts[function] = function(self)
        result: T = facts[function]
        return result


def once(function: _Fact[T]) -> _Fact[T]:
    """Call *function* once for each program: for a fact that does not change."""

    @functools.wraps(function)
    def fact(kernel: Kernel) -> T:
        return kernel._establish(kernel._lasting, function)

    return fact


def once_per_reading(function: _Fact[T]) -> _Fact[T]:
    """Call *function* once for each reading: for a fact that a running kernel may change."""

    @functools.wraps(function)
    def fact(kernel: Kernel) -> T:
        return kernel._establish(kernel._passing, function)

    return fact
