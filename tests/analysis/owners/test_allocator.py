# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test finding the allocator in stacks of real kernels."""

from __future__ import annotations

import pytest

from drgn_pageowner.analysis.owners.allocator import allocator_name
from drgn_pageowner.model.stacks import Frame

PAGE = "set_page_owner post_alloc_hook get_page_from_freelist __alloc_pages_noprof"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            f"{PAGE} alloc_pages_mpol_noprof skb_page_frag_refill tcp_sendmsg",
            "skb_page_frag_refill",
        ),
        # KASAN's stack of a slab object, v6.12.
        (
            "kasan_save_stack kasan_save_track __kasan_slab_alloc kmem_cache_alloc_lru_noprof "
            "shmem_alloc_inode alloc_inode",
            "shmem_alloc_inode",
        ),
        (
            "kasan_save_stack kasan_save_track __kasan_kmalloc kmalloc_reserve __alloc_skb",
            "__alloc_skb",
        ),
        # v5.10 and v6.1.
        (
            "kasan_save_stack __kasan_kmalloc.constprop.0 kmem_cache_alloc getname_flags",
            "getname_flags",
        ),
        ("kasan_save_stack kasan_set_track __kasan_slab_alloc kmem_cache_alloc fork", "fork"),
        # The tests of KASAN are not part of KASAN.
        ("kasan_save_stack kasan_save_track __kasan_kmalloc kasan_strings", "kasan_strings"),
        # All frames are functions of the memory manager.
        ("prep_new_page get_page_from_freelist new_slab", "new_slab"),
        ("", ""),
    ],
)
def test_the_allocator_is_the_first_outside_the_memory_manager(names: str, wanted: str) -> None:
    frames = [Frame(0x1000 + n, name, 4, 64, None) for n, name in enumerate(names.split())]
    assert allocator_name(frames) == wanted
