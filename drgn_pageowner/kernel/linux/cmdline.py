# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the command lines of processes, as ``proc_pid_cmdline_read()`` of fs/proc/base.c does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from drgn import Object, container_of
from drgn.helpers.linux.fs import d_path
from drgn.helpers.linux.mm import cmdline

from drgn_pageowner.kernel.dump.damage import DAMAGE, chain, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.tasks import every_task

__all__ = ("CommandLines", "command_lines")

# Maximum size of the arguments that are read, in bytes: a quarter of the stack limit of 8 MiB
# (fs/exec.c). Only the first _LONGEST characters are returned.
_MOST_ARGUMENTS = 2 << 20
_LONGEST = 400


class CommandLines(Mapping[int, str]):
    """The result of :func:`command_lines`, which is only computed if it is used: it takes half a
    millisecond of CPU time for each process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def _lines(self) -> dict[int, str]:
        return command_lines(self._kernel)

    def __getitem__(self, pid: int) -> str:
        return self._lines[pid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def command_lines(kernel: Kernel) -> dict[int, str]:
    """
    Get the command line of every process, by process ID (``tgid``).

    The arguments are in the memory of the process, which most dumps do not contain. If they are
    missing, the path of the program (``mm->exe_file``) is returned instead. Kernel threads are left
    out.

    :return: Process ID -> arguments, separated by spaces. Bytes that are not UTF-8 become
        surrogates.
    """
    found: dict[int, str] = {}
    for task in every_task(kernel, []):
        try:
            if not task.mm or int(task.pid) != int(task.tgid):
                continue
            pid, text = int(task.pid), _arguments(task) or _program(task)
        except DAMAGE as error:
            unless_mistaken(error)
            continue
        if text:
            found[pid] = text[:_LONGEST].decode(errors="surrogateescape")
    return found


def _arguments(task: Object) -> bytes:
    """Return the arguments of a process; empty if they are not in the dump."""
    if int(task.mm.arg_end) - int(task.mm.arg_start) not in range(1, _MOST_ARGUMENTS):
        return b""
    try:
        return b" ".join(cmdline(task) or ()).strip(b"\0 ")
    except DAMAGE as error:
        # This also happens if drgn cannot translate user addresses of this architecture.
        unless_mistaken(error)
        return b""


def _program(task: Object) -> bytes:
    """Return the path of the program that a process runs; empty if it has none."""
    file = task.mm.exe_file.read_()
    if not file:
        return b""
    # d_path() follows the parents to the root; check first that these chains end.
    mount = container_of(file.f_path.mnt.read_(), "struct mount", "mnt")
    for dentry in (
        file.f_path.dentry.read_(),
        *(one.mnt_mountpoint.read_() for one in chain(mount, lambda mount: mount.mnt_parent)),
    ):
        list(chain(dentry, lambda dentry: dentry.d_parent))
    return d_path(file.f_path.address_of_())
