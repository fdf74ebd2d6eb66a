# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the file or processes that own a page's contents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn import NULL, Object, container_of
from drgn.helpers.linux.fs import for_each_mount, mount_dst
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

from drgn_pageowner.kernel.dump.bulk import has_member, symbol_address
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    chain,
    every_entry,
    name_of,
    unless_mistaken,
    until_repeated,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.tasks import comm_of, every_task
from drgn_pageowner.kernel.linux.translate import mapped_pfn

__all__ = (
    "MAPPING_ANON",
    "MAPPING_FLAGS",
    "anon_users",
    "block_device_mappings",
    "file_of",
)

# Low bits of page.mapping: PAGE_MAPPING_ANON (FOLIO_MAPPING_ANON since Linux kernel commit
# df25569d401e ("mm: rename PAGE_MAPPING_* to FOLIO_MAPPING_*") (in v6.17)), and a second bit, which
# means KSM together with the first bit, and a driver's movable page without it.
MAPPING_ANON = 1
MAPPING_MOVABLE = 2
MAPPING_FLAGS = 3

_S_IFBLK, _S_IFMT = 0o060000, 0o170000


def file_of(kernel: Kernel, mapping: int, index: int) -> dict[str, Any]:
    """
    Describe the file that a page of the page cache belongs to.

    :param mapping: ``page.mapping`` without its flags: ``struct address_space *``.
    :param index: Offset of the page in the file, in pages.
    :return: ``path``, ``filesystem``, ``inode`` (number), ``index``, and ``offset`` of the page in
        bytes; ``None`` for values that are unknown.
    """
    inode = Object(kernel.prog, "struct address_space *", value=mapping).host
    if not inode:
        return {"path": None, "filesystem": None, "inode": None, "index": index}
    filesystem = name_of(inode.i_sb.s_type.name)
    path: str | None = None
    if int(inode.i_mode) & _S_IFMT == _S_IFBLK:
        path = f"block device {int(inode.i_rdev) >> 20}:{int(inode.i_rdev) & 0xFFFFF}"
    else:
        path = _path(kernel, inode)
    return {
        "path": path,
        "filesystem": filesystem,
        "inode": int(inode.i_ino),
        "index": index,
        "offset": index * kernel.page_size,
    }


def block_device_mappings(kernel: Kernel, problems: list[str]) -> set[int]:
    """
    Get the addresses of the ``struct address_space`` of all block devices.

    Cached pages of block devices are counted as buffers, not as files.

    :param problems: List of messages, to which a line is added if not all are found.
    """
    address = symbol_address(kernel.prog, "blockdev_superblock")
    if address is None:
        return set()
    try:
        superblock = Object(kernel.prog, "struct super_block *", address=address)
        head, subject = superblock.s_inodes.address_of_(), "the list of block devices"
        inodes = every_entry("struct inode", head, "i_sb_list", subject, problems)
        return {int(inode.i_mapping) for inode in inodes}
    except DAMAGE as error:
        unless_mistaken(error)
        problems.append(f"block devices cannot be read ({error}): their buffers count as files")
        return set()


def _path(kernel: Kernel, inode: Object) -> str | None:
    """
    Get the path of a file.

    :return: If the file system is not mounted, the path is relative to its root; ``None`` if the
        file has no dentry.
    """
    first = inode.i_dentry.first.read_()
    if not first:
        return None
    # The union that contains d_alias has no name since Linux kernel commit 3b7d764a37d0 ("struct
    # dentry: make ->d_u anonymous") (in v7.1).
    type_ = kernel.prog.type("struct dentry")
    member = "d_u.d_alias" if has_member(type_, "d_u.d_alias") else "d_alias"
    *names, _ = _ancestors(container_of(first, type_, member))
    name = b"/".join(dentry.d_name.name.string_() for dentry in reversed(names))
    for mount in until_repeated(for_each_mount(kernel.prog)):
        if mount.mnt.mnt_sb == inode.i_sb and mount.mnt.mnt_root == inode.i_sb.s_root:
            # mount_dst() follows the parents to the root; check first that the chains end.
            for parent in chain(mount, lambda mount: mount.mnt_parent):
                list(_ancestors(parent.mnt_mountpoint.read_()))
            name = mount_dst(mount).rstrip(b"/") + b"/" + name
            break
    return name.decode(errors="backslashreplace")


def _ancestors(dentry: Object) -> Iterator[Object]:
    """Yield *dentry* and its parents, up to the root."""
    return chain(dentry, lambda dentry: dentry.d_parent)


def anon_users(kernel: Kernel, mapping: int, index: int, pfn: int) -> list[dict[str, Any]]:
    """
    Find the processes that map an anonymous page.

    The intervals of the page's anon_vma are walked, as in ``rmap_walk_anon()`` of mm/rmap.c.

    :param mapping: ``page.mapping`` without its flags: ``struct anon_vma *``.
    :param index: ``page_to_pgoff()`` of the page.
    :param pfn: PFN of the page.
    :return: ``pid``, ``comm`` and ``address`` (virtual address of the page) of each process.
    """
    root = Object(kernel.prog, "struct anon_vma *", value=mapping).rb_root
    # A struct rb_root_cached since Linux kernel commit f808c13fd373 ("lib/interval_tree: fast
    # overlap detection") (in v4.14).
    if has_member(root.type_, "rb_root"):
        root = root.rb_root
    users = []
    tasks: dict[int, Object] | None = None
    tree = rbtree_inorder_for_each_entry("struct anon_vma_chain", root.address_of_(), "rb")
    for link in until_repeated(tree):
        vma = link.vma
        address = int(vma.vm_start) + (index - int(vma.vm_pgoff)) * kernel.page_size
        if not int(vma.vm_start) <= address < int(vma.vm_end):
            continue
        if mapped_pfn(kernel, vma.vm_mm, address) != pfn:
            continue
        if tasks is None:
            tasks = dict(_processes(kernel))
        task = tasks.get(int(vma.vm_mm), NULL(kernel.prog, "struct task_struct *"))
        users.append(
            {
                "pid": int(task.tgid) if task else None,
                "comm": comm_of(task) if task else None,
                "address": address,
            }
        )
    return users


def _processes(kernel: Kernel) -> Iterator[tuple[int, Object]]:
    """Yield the address of the ``mm_struct``, and the ``task_struct *``, of every process."""
    for task in every_task(kernel, kernel.losses):
        mm = pid = tgid = 0
        name = f"{int(task):#x}"
        with kernel.tolerate("the tasks at {} cannot be read: what they map is unknown", of=name):
            mm, pid, tgid = int(task.mm), int(task.pid), int(task.tgid)
        if mm and pid == tgid:
            yield mm, task
