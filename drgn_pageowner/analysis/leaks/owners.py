# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up groups of leaks by their owner, and select those of interest."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drgn_pageowner.analysis.leaks.leaks import LeakGroup
from drgn_pageowner.analysis.owners.allocator import modules_of, without_offset
from drgn_pageowner.analysis.owners.select import contained
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.heap import LOST, Reachability

__all__ = ("CONFIDENCES", "LEAK_KEYS", "LeakFilter", "LeakOwner", "leak_owners")

CONFIDENCES = ("high", "medium", "low")
"""The values of :attr:`LeakGroup.confidence`, the surest first."""

_LOST = {Reachability(verdict).label for verdict in LOST}


def _module(group: LeakGroup) -> str:
    modules = modules_of(group.stack)
    if modules:
        return modules[0]
    return "(unloaded)" if group.module_gone else "(kernel)"


def _task(group: LeakGroup) -> str:
    if not group.tasks:
        return "(unknown)"
    task = group.tasks[0]
    return f"{task.comm or 'pid'} {task.pid}"


def _function(group: LeakGroup) -> str:
    if group.stack:
        # Leave out the offset, because a function may allocate in several places.
        return without_offset(group.allocator)
    if group.tag is not None:
        return group.tag
    return group.fingerprint.text if group.fingerprint is not None else group.allocator


LEAK_KEYS: Mapping[str, Callable[[LeakGroup], str]] = {
    "allocator": _function,
    "stack": lambda group: f"{_function(group)} ({group.handle})",
    "module": _module,
    "task": _task,
    "tag": lambda group: group.tag or "(no tag)",
}
"""The keys that leaks can be summed up by, and functions that return the key of a group."""


@dataclass(frozen=True)
class LeakFilter:
    """
    Criteria that select groups of leaks. A group must match every criterion that is given.

    Names are patterns (``*``, ``?``, ``[...]``). Of several patterns, one must match.
    """

    module: Sequence[str] = ()
    """Modules, one of which has a frame in the stack."""
    comm: Sequence[str] = ()
    """Names of tasks that allocated, among the ten that allocated most of the group."""
    pid: Sequence[int] = ()
    stack_contains: Sequence[str] = ()
    """Parts of the names of functions, all of which must be in the stack."""
    confidence: Sequence[str] = ()
    """Elements of :data:`CONFIDENCES`, one of which must be the confidence of the group."""
    min_age_ns: int | None = None
    """Nanoseconds since the newest allocation of the group."""
    max_age_ns: int | None = None
    """Nanoseconds since the oldest allocation of the group."""

    def takes(self, group: LeakGroup, now_ns: int | None) -> bool:
        """
        Return whether *group* is selected.

        :param now_ns: The time of the dump.
        :raises UsageError: if ages are asked for, and this kernel keeps no times
        """
        functions = [frame.name for frame in group.stack if frame.name is not None]
        modules = modules_of(group.stack)
        comms = [task.comm for task in group.tasks if task.comm is not None]
        return (
            (not self.confidence or group.confidence in self.confidence)
            and (not self.module or _any_matches(modules, self.module))
            and (not self.comm or _any_matches(comms, self.comm))
            and (not self.pid or any(task.pid in self.pid for task in group.tasks))
            and all(_any_matches(functions, [contained(part)]) for part in self.stack_contains)
            and self._has_age(group, now_ns)
        )

    def _has_age(self, group: LeakGroup, now_ns: int | None) -> bool:
        if self.min_age_ns is None and self.max_age_ns is None:
            return True
        if now_ns is None or group.newest_ns is None or group.oldest_ns is None:
            raise UsageError("ages are not known: this kernel keeps no times of allocations")
        if self.min_age_ns is not None and now_ns - group.newest_ns < self.min_age_ns:
            return False
        return self.max_age_ns is None or now_ns - group.oldest_ns <= self.max_age_ns


def _any_matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


@dataclass(frozen=True)
class LeakOwner:
    """Groups of leaks that have one owner."""

    owner: str
    """Value of the key: a function, a module, a task, an allocation tag."""
    verdict: str
    """The verdict of most of its pages."""
    verdicts: int
    """The number of different verdicts among its groups."""
    confidence: str
    """The confidence of most of its pages."""
    allocations: int
    pages: int
    """Number of base pages."""
    bytes: int
    oldest_ns: int | None
    newest_ns: int | None
    groups: Sequence[LeakGroup]

    @property
    def is_lost(self) -> bool:
        """Whether no root reaches it, as opposed to memory that is known by PFN, or reachable."""
        return self.verdict in _LOST


def leak_owners(groups: Sequence[LeakGroup], by: str, *, min_pages: int = 0) -> list[LeakOwner]:
    """
    Sum up *groups* by their owner.

    :param by: A key of :data:`LEAK_KEYS`. Lost memory, memory known by PFN and reachable memory of
        one owner are summed up separately.
    :param min_pages: Base pages that an owner must have.
    :return: Lost memory first, then what is known by PFN; within them the largest first.
    :raises UsageError: if there is no such key
    """
    if by not in LEAK_KEYS:
        raise UsageError(f"cannot sum up leaks by {by!r}: known are {', '.join(LEAK_KEYS)}")
    members: dict[tuple[int, str], list[LeakGroup]] = {}
    for group in groups:
        members.setdefault((_rank(group.verdict), LEAK_KEYS[by](group)), []).append(group)
    owners = [(rank, _sum(owner, found)) for (rank, owner), found in members.items()]
    chosen = [one for one in owners if one[1].pages >= min_pages]
    chosen.sort(key=lambda one: (one[0], -one[1].pages, one[1].owner))
    return [owner for _, owner in chosen]


def _rank(verdict: str) -> int:
    if verdict in _LOST:
        return 0
    return 1 if verdict == Reachability.PFN_ONLY.label else 2


def _sum(owner: str, groups: Sequence[LeakGroup]) -> LeakOwner:
    oldest = [group.oldest_ns for group in groups if group.oldest_ns is not None]
    newest = [group.newest_ns for group in groups if group.newest_ns is not None]
    return LeakOwner(
        owner=owner,
        verdict=_of_most(groups, lambda group: group.verdict),
        verdicts=len({group.verdict for group in groups}),
        confidence=_of_most(groups, lambda group: group.confidence),
        allocations=sum(group.allocations for group in groups),
        pages=sum(group.pages for group in groups),
        bytes=sum(group.bytes for group in groups),
        oldest_ns=min(oldest, default=None),
        newest_ns=max(newest, default=None),
        groups=groups,
    )


def _of_most(groups: Sequence[LeakGroup], value: Callable[[LeakGroup], str]) -> str:
    """Return the value that most pages have."""
    pages: dict[str, int] = {}
    for group in groups:
        pages[value(group)] = pages.get(value(group), 0) + group.pages
    return max(pages, key=lambda name: pages[name])
