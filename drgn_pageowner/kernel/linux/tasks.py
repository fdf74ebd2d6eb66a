# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the tasks of a kernel."""

from __future__ import annotations

from drgn import Object

from drgn_pageowner.kernel.dump.damage import DAMAGE, every_entry, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel

__all__ = ("comm_of", "every_task")


def every_task(kernel: Kernel, problems: list[str]) -> list[Object]:
    """
    Get every process and its threads, without idle tasks, as ``for_each_process_thread()`` does.

    These lists can be walked from both ends if they are broken, unlike the tree of PIDs that drgn's
    ``for_each_task()`` walks.

    :param problems: Gets a line for every broken list.
    :return: ``struct task_struct *`` each.
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
        problems.append(f"the threads of {len(broken)} tasks cannot be listed: {broken[0]}")
    return list(found.values())


def comm_of(task: Object) -> str:
    """Get ``task.comm``; bytes that are not UTF-8 become surrogates, like all task names."""
    name: bytes = task.comm.string_()
    return name.decode(errors="surrogateescape")
