# SPDX-License-Identifier: LGPL-2.1-or-later
"""Helpers for drgn's shell that need an analysis of the whole memory."""

from __future__ import annotations

from drgn import Object, Program
from drgn.helpers.common.prog import takes_program_or_default

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.kernel.session import ProgramSession

__all__ = ("pageowner_type",)


@takes_program_or_default
def pageowner_type(prog: Program, address: int) -> Object:
    """
    Get the object at an address with its inferred type.

    The type is inferred from the types of the pointers to the object, the name of its slab cache,
    or the type of the variable. The first call reads the kernel's memory and infers all types,
    which takes seconds; later calls use the result.

    :param address: Virtual address of any byte of a slab object, a page, an allocation of per-CPU
        memory, or a variable.
    :return: Reference object of the inferred type, such as ``struct dentry``; for an array, the
        element that contains the address.
    :raises LookupError: if the type is unknown
    :raises PageOwnerError: if memory that is needed to find the types is not in the dump
    """
    session = ProgramSession.of(prog)
    infer_types(session.heap(types=True))
    return session.typed_object(int(address))
