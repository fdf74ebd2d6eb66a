# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare layouts of types with the members in drgn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner.kernel.read.member_path import member_path, object_expression
from drgn_pageowner.kernel.read.types import DwarfTypes, read_types
from drgn_pageowner.model.types import Layout, WordUse

LINK = WordUse.ADDRESS | WordUse.LEARN


def types_of(dump: Dump) -> DwarfTypes:
    return read_types(dump.linux, [], np.zeros(0, np.int64))


def use(dump: Dump, layout: Layout, type_name: str, member: str) -> int:
    offset = dump.prog.type(type_name).member(member).offset
    return int(layout.use[offset // dump.linux.word.itemsize])


def test_links_lead_to_what_they_link(one_dump: Dump) -> None:
    types = types_of(one_dump)
    for name, words in (("struct list_head", 2), ("struct rb_node", 3), ("struct hlist_node", 2)):
        layout = types.layout(types.find(name))
        assert layout.use.tolist() == [LINK] * words
        assert layout.aim.tolist() == [-1] * words


def test_pointers_have_the_type_of_their_targets(one_dump: Dump) -> None:
    types = types_of(one_dump)
    word = one_dump.linux.word.itemsize
    dentry = types.layout(types.find("struct dentry"))
    for member, target in (("d_parent", "struct dentry"), ("d_inode", "struct inode")):
        offset = one_dump.prog.type("struct dentry").member(member).offset
        assert types.layout(int(dentry.aim[offset // word])).name == target
        assert dentry.use[offset // word] == WordUse.ADDRESS
    assert use(one_dump, dentry, "struct dentry", "d_fsdata") == LINK
    # Two integers in a word are not an address: d_flags and d_seq.
    assert use(one_dump, dentry, "struct dentry", "d_flags") == WordUse.NOTHING
    assert one_dump.prog.type("struct dentry").member("d_name").offset in [
        offset for offset, part in dentry.parts if part == types.find("struct qstr")
    ]


def test_where_words_have_32_bits_integers_are_no_addresses(
    dump_named: Callable[[str], Dump],
) -> None:
    dump = dump_named("linux-6.12-i386/traps")
    types = types_of(dump)
    vector = types.layout(types.find("struct bio_vec", repeat=True))
    page = WordUse.ADDRESS | WordUse.MEMMAP
    assert vector.use.tolist() == [page, WordUse.NOTHING, WordUse.NOTHING]
    assert (vector.name, vector.repeat) == ("struct bio_vec []", True)
    # page_link is an unsigned long; dma_address is a dma_addr_t.
    entry = types.layout(types.find("struct scatterlist"))
    assert entry.use[0] == WordUse.ADDRESS | WordUse.NUMBER
    assert use(dump, entry, "struct scatterlist", "offset") == WordUse.NOTHING
    assert use(dump, entry, "struct scatterlist", "dma_address") == WordUse.NUMBER


def test_an_array_at_the_end_may_begin_before_the_end(one_dump: Dump) -> None:
    types = types_of(one_dump)
    queue = types.layout(types.find("struct workqueue_struct"))
    word = one_dump.linux.word.itemsize
    assert 0 < queue.flexible < queue.size
    assert (queue.use[queue.flexible // word :] & WordUse.ADDRESS != 0).all()
    # An array of length 0 in the middle only marks an offset.
    packet = types.layout(types.find("struct sk_buff"))
    assert packet.flexible == -1
    head = one_dump.prog.type("struct sk_buff").member("head").offset
    assert types.layout(int(packet.aim[head // word])).name == "unsigned char []"


@pytest.mark.parametrize(
    ("name", "member", "path"),
    [
        ("struct task_struct", "tasks", ".tasks.next"),
        ("struct task_struct", "mm", ".mm"),
        ("struct dentry", "d_fsdata", ".d_fsdata"),
        ("struct list_head", "prev", ".prev"),
    ],
)
def test_a_member_s_path_is_what_drgn_evaluates(
    one_dump: Dump, name: str, member: str, path: str
) -> None:
    type_ = one_dump.prog.type(name)
    offset = type_.member(member).offset
    assert member_path(type_, offset, one_dump.linux.word.itemsize) == path
    found = object_expression(one_dump.linux, type_, 0x1000, offset)
    assert found == (f'Object(prog, "{name}", address=0x1000){path}', name)


def test_what_is_no_member_has_no_path(one_dump: Dump) -> None:
    word = one_dump.linux.word.itemsize
    type_ = one_dump.prog.type("struct dentry")
    assert member_path(type_, type_.member("d_flags").offset, word) is None
    assert member_path(type_, int(type_.size), word) is None
    assert member_path(one_dump.prog.type("void *[8]"), 3 * word, word) == "[3]"


def test_numbers_are_told_apart_by_their_members(one_dump: Dump) -> None:
    types = types_of(one_dump)
    node = types.layout(types.find("struct kernfs_node"))
    assert use(one_dump, node, "struct kernfs_node", "id") & WordUse.UNNAMED
    block = types.layout(types.find("struct zone"))
    pfn = use(one_dump, block, "struct zone", "zone_start_pfn")
    assert pfn == WordUse.NUMBER


def test_names_of_caches_tell_types(one_dump: Dump) -> None:
    prog, word = one_dump.prog, one_dump.linux.word.itemsize
    caches = {
        "dentry": ("struct dentry", prog.type("struct dentry").size),
        "zs_handle-zswap1": ("unsigned long", word),
        "biovec-64": ("struct bio_vec []", 64 * prog.type("struct bio_vec").size),
        # Caches with another object size, with an unknown name, and of kmalloc().
        "sighand_cache": (None, 24),
        "po_owners_item": (None, 160),
        "kmalloc-8": (None, 8),
    }
    types = read_types(
        one_dump.linux, list(caches), np.array([size for _, size in caches.values()])
    )
    found = types.cache_types().tolist()
    names = [types.layout(number).name if number >= 0 else None for number in found]
    assert names == [name for name, _ in caches.values()]
