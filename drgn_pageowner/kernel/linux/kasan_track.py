# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Generic KASAN: find the stack and the task of a slab object's allocation, which are stored after the
object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.bulk import find_type, has_member, struct_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel, once

__all__ = ("alloc_meta_dtype", "alloc_meta_offset")


@once
def alloc_meta_dtype(kernel: Kernel) -> np.dtype[Any] | None:
    """
    Make a dtype of ``struct kasan_alloc_meta`` with the fields ``pid`` and ``handle`` (of the stack
    depot); return ``None`` if this kernel has no generic KASAN.
    """
    type_ = find_type(kernel.prog, "struct kasan_alloc_meta")
    if type_ is None or not has_member(type_, "alloc_track.stack"):
        return None
    return struct_dtype(
        kernel.prog, type_, {"pid": "alloc_track.pid", "handle": "alloc_track.stack"}
    )


def alloc_meta_offset(cache: Object) -> int:
    """
    Get the offset of ``struct kasan_alloc_meta`` from the start of a slab object, in bytes.

    :param cache: ``struct kmem_cache *``.
    :return: 0 if objects of the cache do not have this structure.
    """
    if not has_member(cache.type_.type, "kasan_info.alloc_meta_offset"):
        return 0
    return max(int(cache.kasan_info.alloc_meta_offset), 0)
