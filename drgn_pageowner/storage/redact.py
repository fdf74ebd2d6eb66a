# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Replace names that identify a site (tasks, hosts, cgroups) in the data of a session, before they are
saved.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.arrays import Array, distinct
from drgn_pageowner.model.crash import Crash, Oom
from drgn_pageowner.model.fingerprint import Clue, Contents, Fingerprint
from drgn_pageowner.model.heap import Area, Heap, Inventory, LeakSearch
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.object_owners import ObjectOwners
from drgn_pageowner.model.packed import Packing
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.model.records import Memcg, Snapshot, Summing
from drgn_pageowner.model.session import Begun, Finish, Session

__all__ = ("RedactedSession", "Redactor", "redacted")

T = TypeVar("T")

# TASK_COMM_LEN, without the terminating NUL.
_COMM = 15
_DIGITS = 10
# Names of kernel threads that do not contain the name of a device, a workqueue or a file. These
# names are not replaced, even if a process has given itself such a name.
_KERNEL_THREADS = re.compile(
    r"(swapper|ksoftirqd|migration|cpuhp|idle_inject|rcuc|rcuop|rcuog|rcuos|watchdog)/\d+"
    r"|(kswapd|kcompactd)\d+|kworker/(u?\d+:\d+H?|R)"
    r"|swapper|kthreadd|khugepaged|ksmd|kdevtmpfs|oom_reaper|khungtaskd|rcu_sched|rcu_preempt|rcu_gp"
    r"|rcu_par_gp|rcu_tasks_kthre|rcu_tasks_rude_|rcu_tasks_trace|kauditd|writeback|kblockd"
)
# Cgroups with the same names on every machine: those of systemd, Kubernetes, Docker and LXC.
_CGROUPS = frozenset({"", "init.scope", "system.slice", "user.slice", "machine.slice", "kubepods",
                      "kubepods.slice", "docker", "lxc"})  # fmt: skip
# The cache of a memory cgroup is CACHE(ID:CGROUP) before Linux kernel commit 9855609bde03 ("mm:
# memcg/slab: use a single set of kmem_caches for all accounted allocations") (in v5.9).
_CGROUP_CACHE = re.compile(r"(.*\(\d+:)(.*)(\))")
_OF_A_TASK = re.compile(r"(stack of )?(.*)( \(pid -?\d+\))", re.DOTALL)
# Kernel parameters about memory and crashes, whose values are not replaced.
_PARAMETERS = frozenset({
    "page_owner", "crashkernel", "slub_debug", "slab_debug", "slab_nomerge", "slub_nomerge",
    "hugepages", "hugepagesz", "default_hugepagesz", "transparent_hugepage", "movablecore",
    "kernelcore", "cma", "hugetlb_cma", "mem", "numa", "numa_balancing", "kasan",
    "kfence.sample_interval",
    "debug_pagealloc", "init_on_alloc", "init_on_free", "page_poison", "panic", "panic_on_oops",
    "sysctl.vm.mem_profiling", "cgroup_disable", "swapaccount", "maxcpus", "nr_cpus", "log_buf_len",
    "stack_depot_disable", "kmemleak", "memtest", "movable_node", "memory_hotplug.memmap_on_memory",
})  # fmt: skip


class Redactor:
    """Replaces names by words: equal names by equal words, from which the name cannot be derived
    without the key."""

    def __init__(self, key: bytes) -> None:
        """
        :param key: Key of the hash; with the same key, a name is replaced by the same word in every
            snapshot.
        """
        self._key = hashlib.blake2b(key).digest()
        self.known: dict[str, str] = {}
        """The names of tasks and hosts replaced so far, and their replacements."""

    def _word(self, kind: str, name: str) -> str:
        data = f"{kind}\0{name}".encode(errors="surrogateescape")
        digest = hashlib.blake2b(data, key=self._key, digest_size=_DIGITS // 2)
        return f"{kind}-{digest.hexdigest()}"

    def task(self, comm: str) -> str:
        """Return the replacement of a task name; names of kernel threads are returned unchanged."""
        if not comm or _KERNEL_THREADS.fullmatch(comm):
            return comm
        word = self._word("task", comm)
        assert len(word) <= _COMM
        self.known[comm] = word
        return word

    def host(self, name: str) -> str:
        """Return the replacement of a host name."""
        if not name:
            return name
        word = self._word("host", name)
        self.known[name] = word
        return word

    def cgroup(self, path: str) -> str:
        """Return the path of a cgroup with every component replaced."""
        return "/".join(
            name if name in _CGROUPS else self._word("cgroup", name) for name in path.split("/")
        )

    def file(self, path: str | None) -> str | None:
        """Return the replacement of the path of a file, as a whole."""
        return self._word("file", path) if path is not None else None

    def cache(self, name: str) -> str:
        """Return the name of a slab cache; if it contains the name of a cgroup, this is
        replaced."""
        match = _CGROUP_CACHE.fullmatch(name)
        return f"{match[1]}{self.cgroup(match[2])}{match[3]}" if match is not None else name

    def of_a_task(self, text: str) -> str:
        """Replace the task name in ``"comm (pid 7)"`` and in ``"stack of comm (pid 7)"``."""
        match = _OF_A_TASK.fullmatch(text)
        if match is None:
            return text
        return f"{match[1] or ''}{self.task(match[2])}{match[3]}"

    def comms(self, column: Array) -> Array:
        """
        Replace all task names of a column.

        :param column: ``S16``, shape ``(n,)``.
        """
        names, which = distinct(column)
        words = [
            self.task(name.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            for name in names.tolist()
        ]
        result: Array = np.array(words, column.dtype)[which] if words else column
        return result

    def text(self, line: str) -> str:
        """Replace the names in :attr:`known` in a line of text."""
        names = [name for name in self.known if len(name) > 1]
        if not names:
            return line
        every = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return re.sub(rf"(?<![\w-])(?:{every})(?![\w-])", lambda m: self.known[m[0]], line)

    def clue(self, kind: str, text: str) -> str:
        """Return the text of a clue with a text from memory, or the name of a cgroup, replaced."""
        return self._word("text", text) if kind == "text" else self.cache(text)

    def command_line(self, line: str) -> str:
        """Replace the values of the kernel's parameters, except for :data:`_PARAMETERS`."""
        words = []
        for word in line.split():
            name, equals, value = word.partition("=")
            kept = name in _PARAMETERS or not equals
            words.append(word if kept else f"{name}={self._word('value', value)}")
        return " ".join(words)


class RedactedSession:
    """
    A session in which names of tasks, hosts and cgroups are replaced, and texts are left out.

    It wraps another session, and passes calls of all other methods to that session: code, symbols,
    modules, addresses and numbers are not changed.
    """

    def __init__(self, session: Session, key: bytes) -> None:
        """
        :param key: Key of the hash; see :class:`Redactor`.
        """
        self._session = session
        self._redactor = Redactor(key)
        self._known: dict[int, tuple[object, weakref.ref[Any]]] = {}
        """``id()`` of an object -> the object, and its redacted copy, while that is in use."""
        self._asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def _once(self, original: T, redact: Callable[[T], T]) -> T:
        """
        Return the result of *redact* for *original*; the same object on every call, as long as it
        is in use.
        """
        _, known = self._known.get(id(original), (None, None))
        found = known() if known is not None else None
        if found is None:
            found = redact(original)
            reference = weakref.ref(found)
            self._known[id(original)] = original, reference
            weakref.finalize(found, self._drop, id(original), reference).atexit = False
        return cast(T, found)

    def _drop(self, key: int, reference: weakref.ref[Any]) -> None:
        """Forget an object whose redacted copy is not in use any more."""
        if key in self._known and self._known[key][1] is reference:
            del self._known[key]

    def _lines(self, lines: Iterable[str]) -> list[str]:
        return [self._text(line) for line in lines]

    def _text(self, line: str) -> str:
        """Redact a line of text. The first call collects all names of tasks and hosts before."""
        if not self._asked:
            self._asked = True
            self._redactor.host(self._session.facts().hostname)
            # Without records, only the names of running tasks are known.
            with suppress(PageOwnerError):
                for part in self._session.record_parts(("comm",), freed=True):
                    if "comm" in part:
                        self._redactor.comms(part["comm"])
            try:
                for comm in self._session.inventory().tasks.values():
                    self._redactor.task(comm)
            except PageOwnerError:
                # Methods that need the inventory report the error.
                pass
        return self._redactor.text(line)

    # --- answers ------------------------------------------------------------------------------

    def facts(self) -> Facts:
        return self._once(self._session.facts(), self._facts)

    def _facts(self, facts: Facts) -> Facts:
        return replace(
            facts,
            hostname=self._redactor.host(facts.hostname),
            panic_message=self._text(facts.panic_message) if facts.panic_message else None,
            problems=self._lines(facts.problems),
        )

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        return self._once(self._session.snapshot(columns, freed=freed), self._records)

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        parts = self._session.record_parts(columns, freed=freed, summing=summing)
        part = next(parts)
        # These are complete, and redacted, when the last part is returned.
        facts = replace(part.facts, hostname="", panic_message=None, problems=[])
        problems: list[str] = []
        following: Snapshot | None = part
        while following is not None:
            part, following = following, next(parts, None)
            if following is None:
                vars(facts).update(vars(self._facts(part.facts)))
                problems += self._lines(part.problems)
            yield self._with(part, facts, problems)

    def at_once(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        return self._session.at_once(functions)

    def beside(self, function: Begun) -> AbstractContextManager[Finish | None]:
        return self._session.beside(function)

    def _records(self, records: Snapshot) -> Snapshot:
        facts = self._once(records.facts, self._facts)
        return self._with(records, facts, self._lines(records.problems))

    def _with(self, records: Snapshot, facts: Facts, problems: list[str]) -> Snapshot:
        """Return *records* with *facts* and *problems*, which are redacted already."""
        columns = dict(records.columns)
        if "comm" in columns:
            columns["comm"] = self._redactor.comms(np.asarray(columns["comm"]))
        return replace(
            records,
            facts=facts,
            columns=columns,
            memcgs=[self._memcg(memcg) for memcg in records.memcgs],
            problems=problems,
        )

    def _memcg(self, memcg: Memcg) -> Memcg:
        path = self._redactor.cgroup(memcg.path)
        name = path.rpartition("/")[2] if memcg.path.endswith(memcg.name) and memcg.name else ""
        return memcg._replace(path=path, name=name or self._redactor.cgroup(memcg.name))

    def memory(self, columns: Iterable[str], *, packing: Packing | None = None) -> Memory:
        return self._once(self._session.memory(columns, packing=packing), self._memory)

    def _memory(self, memory: Memory) -> Memory:
        pages = replace(memory.pages, facts=self._once(memory.pages.facts, self._facts))
        return replace(memory, pages=pages, problems=self._lines(memory.problems))

    def inventory(self, *, owners: bool = True) -> Inventory:
        return self._once(self._session.inventory(owners=owners), self._inventory)

    def covering_records(self, memory: Memory, columns: Iterable[str]) -> tuple[Snapshot, Array]:
        records, covering = self._session.covering_records(memory, columns)
        return self._once(records, self._records), covering

    def uses(self, columns: Iterable[str], *, packing: Packing | None = None) -> Inventory:
        return self._once(self._session.uses(columns, packing=packing), self._inventory)

    def _inventory(self, inventory: Inventory) -> Inventory:
        records, slabs = inventory.records, inventory.slabs
        return replace(
            inventory,
            memory=self._once(inventory.memory, self._memory),
            records=self._once(records, self._records) if records is not None else None,
            slabs=replace(
                slabs,
                caches=[self._redactor.cache(name) for name in slabs.caches],
                problems=self._lines(slabs.problems),
            ),
            areas=[self._area(area) for area in inventory.areas],
            stacks=[self._area(area) for area in inventory.stacks],
            tasks={pid: self._redactor.task(comm) for pid, comm in inventory.tasks.items()},
            command_lines={},
            files=[replace(one, path=self._redactor.file(one.path)) for one in inventory.files],
            problems=self._lines(inventory.problems),
            gaps=self._lines(inventory.gaps),
        )

    def _area(self, area: Area) -> Area:
        return replace(area, name=self._redactor.of_a_task(area.name))

    def heap(self, *, types: bool = False) -> Heap:
        return self._once(self._session.heap(types=types), self._heap)

    def forget_heap(self) -> None:
        self._known = {
            key: known for key, known in self._known.items() if not isinstance(known[0], Heap)
        }
        self._session.forget_heap()

    def forget(self) -> None:
        self._known = {}
        self._session.forget()

    def _heap(self, heap: Heap) -> Heap:
        return replace(
            heap,
            inventory=self._once(heap.inventory, self._inventory),
            records=self._once(heap.records, self._records),
            roots=[self._redactor.of_a_task(root) for root in heap.roots],
        )

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        found = self._session.saved_search(slab=slab)
        return self._once(found, self._search) if found is not None else None

    def _search(self, found: LeakSearch) -> LeakSearch:
        lost = found.lost
        return replace(
            found,
            inventory=self._once(found.inventory, self._inventory),
            records=self._once(found.records, self._records),
            fingerprints=[self._fingerprint(one) for one in found.fingerprints],
            lost=None if lost is None else replace(
                lost,
                facts=self._object_facts(lost.facts),
                fingerprints=[self._fingerprint(one) for one in lost.fingerprints],
            ),
        )  # fmt: skip

    def _fingerprint(self, one: Fingerprint) -> Fingerprint:
        clues = [
            Clue(clue.offset, clue.kind, self._redactor.clue(clue.kind, clue.text))
            for clue in one.clues
        ]
        return replace(one, clues=clues, bytes="")

    def object_owners(self) -> ObjectOwners:
        owners = self._session.object_owners()
        return replace(
            owners,
            memcgs=[self._redactor.cgroup(path) for path in owners.memcgs],
            problems=self._lines(owners.problems),
        )

    def slab_objects(self, objects: Array) -> ObjectFacts:
        return self._object_facts(self._session.slab_objects(objects))

    def _object_facts(self, facts: ObjectFacts) -> ObjectFacts:
        return replace(facts, memcgs=[self._redactor.cgroup(path) for path in facts.memcgs])

    def contents(self, nodes: Array) -> Contents:
        found = self._session.contents(nodes)
        return replace(
            found, tokens=[(kind, self._redactor.clue(kind, text)) for kind, text in found.tokens]
        )

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        return [b""] * len(addresses)

    def losses(self) -> Sequence[str]:
        return self._lines(self._session.losses())

    def crash(self) -> Crash:
        crash = self._session.crash()
        line, task = crash.command_line, crash.task
        return replace(
            crash,
            command_line=self._redactor.command_line(line) if line is not None else None,
            task=(task[0], self._redactor.task(task[1])) if task is not None else None,
            oom=Oom(crash.oom.kills, crash.oom.victims),
            log=(),
        )

    def members(self) -> Mapping[str, Session]:
        return self._session.members()


def redacted(session: Session, key: bytes) -> Session:
    """
    Return a session with the data of *session*, in which names that identify the site are replaced.

    :param key: Key of the hash; see :class:`Redactor`.
    """
    return cast(Session, RedactedSession(session, key))
