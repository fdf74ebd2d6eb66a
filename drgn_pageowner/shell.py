# SPDX-License-Identifier: LGPL-2.1-or-later
"""Helpers for drgn's shell that need more than the kernel's own structures: an analysis."""

from __future__ import annotations

from drgn import Object, Program
from drgn.helpers.common.prog import takes_program_or_default

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.kernel.session import ProgramSession

__all__ = ("pageowner_type",)


@takes_program_or_default
def pageowner_type(prog: Program, address: int) -> Object:
    """
    Get the object at an address, with the type that pointers, its slab cache or its variable tell.

    The first call reads the kernel's memory and infers the types of everything, which takes
    seconds; all calls after it use the result.

    :param address: Virtual address: of a slab object, a page, per-CPU memory that was allocated, or
        a variable; or of any byte in it.
    :return: Reference of the inferred type: ``struct dentry``; of an array, the element.
    :raises LookupError: if the type is unknown
    :raises PageOwnerError: if this kernel has no records, or the dump does not hold what it takes
    """
    session = ProgramSession.of(prog)
    infer_types(session.heap(types=True))
    return session.typed_object(int(address))
