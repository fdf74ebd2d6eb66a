"""Where a command gets its data, and what a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from drgn_pageowner.crash import Crash
    from drgn_pageowner.heap import Heap, Inventory, Target, Verdicts, Word
    from drgn_pageowner.page_info import PageInfo
    from drgn_pageowner.pages import Memory
    from drgn_pageowner.snapshot import Array, Facts, Frame, Snapshot


__all__ = ("Command", "Opener", "Session")


class Session(Protocol):
    """A dump, a running kernel or a saved snapshot, as far as the commands need to know it."""

    def members(self) -> Mapping[str, Session]:
        """What is asked, by name: itself, or every one of several snapshots."""
        ...

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        """The records, with at least *columns* (``None`` for all)."""
        ...

    def add_source(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        """Fill in ``snapshot.source`` for *pcs*."""
        ...

    def is_live(self) -> bool:
        """Whether it runs while it is read, so that another snapshot may say something else."""
        ...

    def facts(self) -> Facts:
        """The kernel as a whole, also where it has no page_owner."""
        ...

    def memory(self, columns: Iterable[str]) -> Memory:
        """Every page and every free list, with at least *columns* of ``struct page``."""
        ...

    def inventory(self) -> Inventory:
        """Every page with what there is to tell its use."""
        ...

    def heap(self) -> Heap:
        """Who points to whom."""
        ...

    def verdicts(self, *, slab: bool) -> Verdicts | None:
        """What a search that was saved found; ``None`` where there is memory to search."""
        ...

    def slab_objects(self, objects: Array) -> tuple[Array, list[tuple[list[Frame], int] | None]]:
        """Addresses of the heap's slab objects, and stack and pid of their allocations."""
        ...

    def target(self, what: str) -> Target:
        """The heap's node that *what* names."""
        ...

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        """The words of some of the heap's nodes that lead to others."""
        ...

    def modules(self) -> list[str]:
        """Names of the loaded modules."""
        ...

    def crash(self) -> Crash:
        """How the machine died, and what machine it was."""
        ...

    def page(self, what: str) -> PageInfo:
        """All about the page that *what* names."""
        ...


Opener = Callable[[str], Session]
"""
Opens another dump or snapshot by its path; commands find it as ``args.open_session``.

:raises PageOwnerError: if it is neither, or cannot be read
"""


class Command(Protocol):
    """A module of :mod:`drgn_pageowner.commands`."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what the command takes to *parser*."""
        ...

    def run(self, args: argparse.Namespace, session: Session, out: TextIO) -> int:
        """Answer on *out*; return the exit status."""
        ...
