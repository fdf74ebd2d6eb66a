# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the bits of flags from texts that print a mask next to the names of its flags."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("gfp_masks", "page_flag_bits", "split_page_flags")

# Maximum number of equations to compare in pairs; a kernel uses a few dozen different gfp masks.
_MOST_EQUATIONS = 400


def gfp_masks(texts: Mapping[int, str]) -> list[tuple[int, str]]:
    """
    Find the masks of gfp flags from texts, sorted by descending number of bits.

    Names whose mask cannot be determined are omitted.

    ``format_flags()`` of lib/vsprintf.c clears the bits of each name before it looks for the next
    one, so the masks of the printed names add up to the number.

    :param texts: Output of ``%pGg`` by gfp mask.
    """
    sums: dict[frozenset[str], int] = {}
    for value, text in texts.items():
        names = text.split("|") if text else []
        value -= sum(int(name, 16) for name in names if name.startswith("0x"))
        sums[frozenset(name for name in names if not name.startswith("0x"))] = value
    known: dict[str, int] = {}
    while True:
        sums = {
            names.difference(known): value - sum(known[name] for name in names & known.keys())
            for names, value in sums.items()
        }
        found = {next(iter(names)): value for names, value in sums.items() if len(names) == 1}
        if not found:
            more = _differences({names: value for names, value in sums.items() if names})
            if not more:
                break
            sums |= more
            continue
        known |= found
    sane = [(mask, name) for name, mask in known.items() if mask > 0]
    return sorted(sane, key=lambda flag: (-flag[0].bit_count(), flag[0]))


def _differences(sums: Mapping[frozenset[str], int]) -> dict[frozenset[str], int]:
    """Subtract each equation from the equations whose names include all of its names."""
    equations = sorted(sums.items(), key=lambda equation: len(equation[0]))[:_MOST_EQUATIONS]
    found = {}
    for index, (few, low) in enumerate(equations):
        for many, high in equations[index + 1 :]:
            if few < many and many - few not in sums:
                found[many - few] = high - low
    return found


def split_page_flags(text: str) -> tuple[list[str], dict[str, int]]:
    """
    Split the output of ``%pGp`` into flags and fields.

    :param text: For example ``"referenced|uptodate|node=0|zone=1|lastcpupid=0xffff"``.
    :return: Names of the flags; and the value of each field by its name.
    """
    names, fields = [], {}
    for part in text.split("|") if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            names.append(name)
            continue
        try:
            fields[name] = int(value, 0)
        except ValueError:
            names.append(part)
    return names, fields


def page_flag_bits(texts: Mapping[int, str]) -> list[tuple[int, str]]:
    """
    Find the masks of page flags from texts.

    The mask of a flag is the one bit that is set in all values that are printed with its name, and
    in no other values. Flags whose bit is not unique are omitted.

    :param texts: Output of ``%pGp`` by the value of ``page.flags``.
    """
    of_name: dict[str, list[int]] = {}
    everything = [(value, frozenset(split_page_flags(text)[0])) for value, text in texts.items()]
    for value, names in everything:
        for name in names:
            of_name.setdefault(name, []).append(value)
    candidates = {}
    for name, values in of_name.items():
        mask = ~0
        for value in values:
            mask &= value
        for value, names in everything:
            if name not in names:
                mask &= ~value
        candidates[name] = mask
    found: dict[str, int] = {}
    while True:
        new = {
            name: mask
            for name, mask in candidates.items()
            if name not in found and mask > 0 and mask.bit_count() == 1
        }
        if not new:
            break
        found |= new
        taken = sum(new.values())
        candidates = {name: mask & ~taken for name, mask in candidates.items() if name not in found}
    return sorted((mask, name) for name, mask in found.items())
