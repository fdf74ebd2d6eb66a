# SPDX-License-Identifier: LGPL-2.1-or-later
"""Format values in the kernel's own words: gfp flags, page flags, names of types, task names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array, distinct
from drgn_pageowner.model.columns import Form, comm_text, name_at
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "comm_text",
    "flags_text",
    "frame_text",
    "gfp_text",
    "kernel_text",
    "mapped",
    "name_at",
    "page_flag_names",
    "page_flags_text",
    "texts_of_forms",
)


_POINTER = re.compile(r"%(0\d+)p")


def mapped(values: Array, function: Callable[[Any], Any]) -> list[Any]:
    """Return ``[function(v) for v in values]``; *function* is called once per distinct value."""
    found, inverse = distinct(values)
    results = np.empty(len(found), object)
    results[:] = [function(value) for value in found.tolist()]
    picked: list[Any] = results[inverse].tolist()
    return picked


def flags_text(flags: int, names: Sequence[tuple[int, str]]) -> str:
    """Format flags as ``format_flags()`` of lib/vsprintf.c does; unknown bits come last, in hex."""
    parts = []
    for mask, name in names:
        if flags & mask == mask and flags:
            parts.append(name)
            flags &= ~mask
    if flags:
        parts.append(f"{flags:#x}")
    return "|".join(parts)


def gfp_text(gfp_mask: int, names: Names) -> str:
    """Format a gfp mask as ``%pGg`` does."""
    if gfp_mask in names.gfp_texts:
        return names.gfp_texts[gfp_mask]
    return flags_text(gfp_mask, names.gfp_flags)


def texts_of_forms(names: Names) -> dict[Form, Callable[[Any], str]]:
    """Return the functions that format a value in the kernel's own words, by form."""
    return {
        Form.GFP: lambda v: gfp_text(v, names),
        Form.MIGRATETYPE: lambda v: name_at(names.migratetypes, v),
        Form.MIGRATE_REASON: lambda v: name_at(names.migrate_reasons, v),
        Form.PAGE_FLAGS: lambda v: page_flag_names(v, names),
        Form.COMM: comm_text,
    }


def page_flags_text(flags: int, names: Names, *, number: bool) -> str:
    """
    Format ``page.flags`` as ``%pGp`` does.

    :param number: Whether this kernel's ``%pGp`` itself prints the number in front.
    """
    if flags in names.page_flags_texts:
        known = names.page_flags_texts[flags]
        return f"{flags:#x}({known})" if number else known
    main = flags & names.page_flags_mask
    parts = [flags_text(main, names.page_flags)] if main else []
    if names.page_flag_fields_printed:
        for field in names.page_flag_fields:
            value = (flags >> field.shift) & ((1 << field.width) - 1)
            parts.append(
                f"{field.name}={value:#x}" if field.base == 16 else f"{field.name}={value}"
            )
    text = "|".join(parts)
    return f"{flags:#x}({text})" if number else text


def page_flag_names(flags: int, names: Names) -> str:
    """Return the names of page flags, without the fields that ``%pGp`` may print with them."""
    if flags in names.page_flags_texts:
        return "|".join(
            part for part in names.page_flags_texts[flags].split("|") if "=" not in part
        )
    return flags_text(flags & names.page_flags_mask, names.page_flags)


def kernel_text(release: str) -> str:
    """Return the name of a kernel; if a text was read, its release is unknown."""
    return f"Linux {release}" if release else "an unknown Linux"


def frame_text(frame_format: str) -> Callable[[Frame], str]:
    """
    Return a function that prints a frame as ``stack_trace_snprint()`` of kernel/stacktrace.c does.

    :param frame_format: Format with ``%pS`` for the symbol, and ``%p`` for the PC. If a text was
        read, ``%p`` has the number of digits of its addresses (``%08p``).
    """
    template = frame_format.replace("%pS", "{0}").replace("%p", "{0.pc:016x}")
    return _POINTER.sub(r"{0.pc:\1x}", template).format
