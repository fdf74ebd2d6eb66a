# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the tasks of a kernel."""

from __future__ import annotations

from drgn import Object

from drgn_pageowner.kernel.dump.damage import DAMAGE, every_entry, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.units import counted

__all__ = ("comm_of", "every_task")


def every_task(kernel: Kernel, problems: list[str]) -> list[Object]:
    """
    Get every process and its threads, without idle tasks, as ``for_each_process_thread()`` does.

    If the lists of processes and threads are broken, they can still be walked from both ends,
    unlike the tree of PIDs that drgn's ``for_each_task()`` walks.

    :param problems: List of messages, to which a line is added if lists are broken.
    :return: The ``struct task_struct *`` of each task.
    """
    type_ = "struct task_struct"
    head = kernel.prog["init_task"].tasks.address_of_()
    found: dict[int, Object] = {}
    broken: list[str] = []
    for leader in every_entry(type_, head, "tasks", "the list of tasks", problems):
        found[int(leader)] = leader
        try:
            threads = leader.signal.thread_head.address_of_()
            pid = int(leader.pid)
        except DAMAGE as error:
            unless_mistaken(error)
            broken.append(f"the threads of the task at {int(leader):#x} are unknown")
            continue
        for thread in every_entry(
            type_, threads, "thread_node", f"the list of threads of pid {pid}", broken
        ):
            found[int(thread)] = thread
    if broken:
        problems.append(
            f"the threads of {counted(len(broken), 'task')} cannot be listed: {broken[0]}"
        )
    return list(found.values())


def comm_of(task: Object) -> str:
    """Get ``task.comm``. Bytes that are not UTF-8 become surrogates (``surrogateescape``)."""
    name: bytes = task.comm.string_()
    return name.decode(errors="surrogateescape")
