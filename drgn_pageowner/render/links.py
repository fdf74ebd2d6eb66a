# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render chains of pointers as text."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.leaks.links import Hop, References, Why
from drgn_pageowner.escape import word

__all__ = ("refs_text", "why_text")


def why_text(result: Why) -> Iterator[str]:
    """Yield the chain, one line per word."""
    yield f"{result.what}: {result.name}\n"
    yield f"  {result.verdict}: {result.explanation}\n"
    for depth, hop in enumerate(result.chain):
        yield f"  {'  ' * depth}{_place(hop)}\n"
    if result.chain:
        yield f"  {'  ' * len(result.chain)}{result.chain[-1].leads_to}\n"


def refs_text(result: References) -> Iterator[str]:
    """Yield one line per word."""
    yield f"{result.what}: {result.name}\n"
    yield f"  {result.verdict}; {len(result.references):,} words name it\n"
    for hop in result.references:
        note = "" if hop.reachable else " (nothing reaches this)"
        if not hop.counts:
            note += " (bookkeeping: does not hold it)"
        yield f"  {_place(hop)}{note}\n"


def _place(hop: Hop) -> str:
    at = f"{hop.address:#x}" if hop.address is not None else "a register"
    owner = f" of {hop.allocator}" if hop.allocator is not None and hop.kind == "page" else ""
    kind = "" if hop.name.startswith(hop.kind) else f"{hop.kind}: "
    return f"{kind}{word(hop.name)}{owner} [{at}] = {hop.value:#x} ({hop.by}) ->"
