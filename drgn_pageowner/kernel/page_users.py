"""Whom the content of a page belongs to: a file, processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn import NULL, FaultError, Object, Program
from drgn.helpers.linux.fs import for_each_mount, inode_path, mount_dst
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

from drgn_pageowner.kernel.memory import has_member, symbol_address
from drgn_pageowner.kernel.translate import mapped_pfn

__all__ = (
    "MAPPING_ANON",
    "MAPPING_FLAGS",
    "anon_users",
    "block_device_mappings",
    "file_of",
)

# Low bits of page.mapping: PAGE_MAPPING_ANON (FOLIO_MAPPING_ANON since v6.17), and the bit that
# together with it means KSM and alone a movable page of a driver.
MAPPING_ANON = 1
MAPPING_MOVABLE = 2
MAPPING_FLAGS = 3

_S_IFBLK, _S_IFMT = 0o060000, 0o170000


def file_of(prog: Program, mapping: int, index: int) -> dict[str, Any]:
    """
    The file whose page cache a page is in.

    :param mapping: ``page.mapping``, without its flags.
    :param index: Of the page in the file, in pages.
    """
    inode = Object(prog, "struct address_space *", value=mapping).host
    if not inode:
        return {"path": None, "filesystem": None, "inode": None, "index": index}
    filesystem = inode.i_sb.s_type.name.string_().decode(errors="backslashreplace")
    path: str | None = None
    if int(inode.i_mode) & _S_IFMT == _S_IFBLK:
        path = f"block device {int(inode.i_rdev) >> 20}:{int(inode.i_rdev) & 0xFFFFF}"
    else:
        path = _path(prog, inode)
    return {
        "path": path,
        "filesystem": filesystem,
        "inode": int(inode.i_ino),
        "index": index,
        "offset": index * int(prog["PAGE_SIZE"]),
    }


def block_device_mappings(prog: Program) -> set[int]:
    """``struct address_space *`` of every block device: what is cached there are buffers."""
    address = symbol_address(prog, "blockdev_superblock")
    if address is None:
        return set()
    try:
        superblock = Object(prog, "struct super_block *", address=address)
        inodes = list_for_each_entry("struct inode", superblock.s_inodes.address_of_(), "i_sb_list")
        return {int(inode.i_mapping) for inode in inodes}
    except FaultError:
        return set()


def _path(prog: Program, inode: Object) -> str | None:
    """Where the file is mounted; its path in its file system where that is mounted nowhere."""
    name = inode_path(inode)
    if name is None:
        return None
    for mount in for_each_mount(prog):
        if mount.mnt.mnt_sb == inode.i_sb and mount.mnt.mnt_root == inode.i_sb.s_root:
            name = mount_dst(mount).rstrip(b"/") + b"/" + name
            break
    return name.decode(errors="backslashreplace")


def anon_users(prog: Program, mapping: int, index: int, pfn: int) -> list[dict[str, Any]]:
    """
    The processes that map an anonymous page: ``pid``, ``comm``, ``address``.

    As ``rmap_walk_anon()`` of mm/rmap.c does, over the intervals of the page's anon_vma.

    :param mapping: ``page.mapping``, without its flags: ``struct anon_vma *``.
    :param index: ``page_to_pgoff()``.
    """
    root = Object(prog, "struct anon_vma *", value=mapping).rb_root
    # A struct rb_root_cached since v4.14.
    if has_member(root.type_, "rb_root"):
        root = root.rb_root
    users = []
    tasks: dict[int, Object] | None = None
    for chain in rbtree_inorder_for_each_entry("struct anon_vma_chain", root.address_of_(), "rb"):
        vma = chain.vma
        address = int(vma.vm_start) + (index - int(vma.vm_pgoff)) * int(prog["PAGE_SIZE"])
        if not int(vma.vm_start) <= address < int(vma.vm_end):
            continue
        if mapped_pfn(vma.vm_mm, address) != pfn:
            continue
        if tasks is None:
            tasks = dict(_processes(prog))
        task = tasks.get(int(vma.vm_mm), NULL(prog, "struct task_struct *"))
        users.append(
            {
                "pid": int(task.tgid) if task else None,
                "comm": task.comm.string_().decode(errors="backslashreplace") if task else None,
                "address": address,
            }
        )
    return users


def _processes(prog: Program) -> Iterator[tuple[int, Object]]:
    """``(mm, task)`` of every process."""
    for task in for_each_task(prog):
        try:
            mm = int(task.mm)
        except FaultError:
            continue
        if mm and int(task.pid) == int(task.tgid):
            yield mm, task
