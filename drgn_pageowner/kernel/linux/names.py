# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the kernel's own tables of names: gfp flags, page flags, migratetypes, migrate reasons."""

from __future__ import annotations

from drgn import Object

from drgn_pageowner.kernel.dump.bulk import enumerators, find_object
from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.gfp import gfp_flags_before_table
from drgn_pageowner.kernel.linux.page_owner import reclaimable_before_movable
from drgn_pageowner.kernel.linux.zones import page_flag_fields
from drgn_pageowner.model.kernel import Names

__all__ = ("read_names",)


@once
def read_names(kernel: Kernel) -> Names:
    """Read the kernel's tables of names. Names that cannot be read are missing in the result."""
    bits = enumerators(kernel.prog, "enum pageflags")
    number = bits.get("__NR_PAGEFLAGS", 0)
    return Names(
        gfp_flags=_trace_print_flags(kernel, "gfpflag_names")
        or gfp_flags_before_table(reclaimable_before_movable(kernel)),
        page_flags=_trace_print_flags(kernel, "pageflag_names"),
        page_flag_fields=page_flag_fields(kernel),
        page_flags_mask=(1 << number) - 1,
        page_flag_fields_printed=find_object(kernel.prog, "pff", "lib/vsprintf.c") is not None,
        page_flag_bits={name[3:].lower(): bit for name, bit in bits.items() if name[:3] == "PG_"},
        zone_types=[
            name.removeprefix("ZONE_")
            for name in enumerators(kernel.prog, "enum zone_type")
            if name.startswith("ZONE_")
        ],
        migratetypes=_migratetypes(kernel),
        migrate_reasons=_strings(kernel, "migrate_reason_names"),
    )


def _trace_print_flags(kernel: Kernel, table: str) -> list[tuple[int, str]]:
    """Read a ``struct trace_print_flags[]`` of mm/debug.c, which ends with a null name."""
    flags = find_object(kernel.prog, table)
    result: list[tuple[int, str]] = []
    if flags is None:
        return result
    for index in range(flags.type_.length or 0):
        with kernel.tolerate("names in {} cannot be read: these flags have none", of=table):
            entry = flags[index].read_()
            if not entry.name:
                break
            result.append((int(entry.mask), _string(entry.name)))
    return result


def _migratetypes(kernel: Kernel) -> list[str]:
    names = _strings(kernel, "migratetype_names")
    if names:
        return names
    # Before Linux kernel commit 60f30350fd69 ("mm, page_owner: print migratetype of page and
    # pageblock, symbolic flags") (in v4.6), page_owner printed numbers. Take the names from the
    # enum.
    prefix = "MIGRATE_"
    special = {"CMA": "CMA", "HIGHATOMIC": "HighAtomic"}
    by_value = {
        value: special.get(name[len(prefix) :], name[len(prefix) :].capitalize())
        for name, value in enumerators(kernel.prog, "enum migratetype").items()
        if name not in ("MIGRATE_PCPTYPES", "MIGRATE_TYPES")
    }
    return [by_value.get(value, str(value)) for value in range(len(by_value))]


def _strings(kernel: Kernel, table: str) -> list[str]:
    """Read an array of ``const char *``."""
    strings = find_object(kernel.prog, table)
    if strings is None:
        return []
    return [_string(strings[index]) for index in range(strings.type_.length or 0)]


def _string(pointer: Object) -> str:
    """Read a name; ``?`` if the dump does not have it, empty for a null pointer."""
    try:
        # The kernel's names are short; a damaged pointer may point anywhere.
        return name_of(pointer, 64) if pointer else ""
    except DAMAGE as error:
        unless_mistaken(error)
        return "?"
