"""A ``drgn.Program`` as the commands' :class:`~drgn_pageowner.commands.session.Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from drgn import FaultError, Program

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.clock import panic_message
from drgn_pageowner.kernel.facts import read_facts
from drgn_pageowner.kernel.kallsyms import module_names
from drgn_pageowner.kernel.reader import snapshot
from drgn_pageowner.kernel.source import source_frames
from drgn_pageowner.page_info import PageInfo
from drgn_pageowner.snapshot import Facts, Snapshot

__all__ = ("ProgramSession",)

T = TypeVar("T")


class ProgramSession:
    """Answers from *prog*; what it cannot read it says in one line."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        return _in_one_line(lambda: snapshot(self._prog, columns=columns, freed=freed))

    def add_source(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        snapshot.source.update(source_frames(self._prog, pcs))

    def facts(self) -> Facts:
        return _in_one_line(self._facts)

    def _facts(self) -> Facts:
        facts = read_facts(self._prog)
        if not facts.live:
            facts.panic_message = panic_message(self._prog)
        return facts

    def modules(self) -> list[str]:
        return module_names(self._prog)

    def page(self, what: str) -> PageInfo:
        from drgn_pageowner.kernel.page_report import page_report

        return _in_one_line(lambda: page_report(self._prog, what))


def _in_one_line(answer: Callable[[], T]) -> T:
    """
    *answer*, with what drgn raises said in words.

    :raises PageOwnerError: instead of drgn's own exceptions
    """
    try:
        return answer()
    except FaultError as fault:
        raise PageOwnerError(
            f"the dump lacks memory that everything else hangs on ({fault}): "
            "it is damaged or cut off"
        ) from fault
    except LookupError as error:
        raise PageOwnerError(
            f"the debugging symbols lack what is needed ({error}): pass the vmlinux with debug "
            "info of this very kernel with -s"
        ) from error
