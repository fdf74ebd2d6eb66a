# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generic KASAN: the stack and the task of every object's allocation, kept behind the object."""

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
    Make a dtype of ``struct kasan_alloc_meta``: ``pid`` and ``handle``; ``None`` without generic
    KASAN.
    """
    type_ = find_type(kernel.prog, "struct kasan_alloc_meta")
    if type_ is None or not has_member(type_, "alloc_track.stack"):
        return None
    return struct_dtype(
        kernel.prog, type_, {"pid": "alloc_track.pid", "handle": "alloc_track.stack"}
    )


def alloc_meta_offset(cache: Object) -> int:
    """
    Get the offset of ``struct kasan_alloc_meta`` from the start of the object; 0 if the cache has
    none.

    :param cache: ``struct kmem_cache *``.
    """
    if not has_member(cache.type_.type, "kasan_info.alloc_meta_offset"):
        return 0
    return max(int(cache.kasan_info.alloc_meta_offset), 0)
