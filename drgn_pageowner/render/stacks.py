# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render stacks with weights for programs that draw them: folded lines and speedscope's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn_pageowner.analysis.owners.group import Group, Top
from drgn_pageowner.errors import UsageError
from drgn_pageowner.escape import word
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.text import kernel_text
from drgn_pageowner.render.top import key_text

__all__ = ("WEIGHTS", "Call", "calls", "folded", "key_frames", "speedscope")

WEIGHTS = ("pages", "allocations")
"""Names of the weights that a stack can have."""

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


class Call(NamedTuple):
    """A function call in a stack."""

    name: str
    filename: str = ""
    """Source file; empty unless source lines were requested."""
    line: int = 0


def calls(snapshot: Snapshot, frame: Frame) -> list[Call]:
    """Return the functions inlined at a PC, innermost first, then the function itself."""
    module = f" [{frame.module}]" if frame.module is not None else ""
    own = (frame.name or f"{frame.pc:#x}") + module
    known = snapshot.source_lines.get(frame.pc, [])
    found = [Call(f.function + module, f.filename, f.line) for f in known if f.inlined]
    place = next((f for f in known if not f.inlined), None)
    return [*found, Call(own) if place is None else Call(own, place.filename, place.line)]


def key_frames(result: Top, group: Group, snapshot: Snapshot) -> list[Call]:
    """Return the keys of a group other than the stack as calls next to the root, in order."""
    return [Call(f"{key}: {key_text(group, key, snapshot)}") for key in result.by if key != "stack"]


def _path(result: Top, group: Group, snapshot: Snapshot) -> tuple[Call, ...]:
    """Return the functions of a group, from the root on."""
    stack = [call for frame in group.stack for call in calls(snapshot, frame)]
    return (*key_frames(result, group, snapshot), *(stack[::-1] or [Call("(no stack)")]))


def _merged(result: Top, snapshot: Snapshot, weight: str) -> dict[tuple[Call, ...], int]:
    """
    Add up the weights of stacks that differ only in offsets.

    :raises UsageError: if the weights are not known
    """
    if weight == "allocations" and result.allocations is None:
        raise UsageError("this text does not say how many allocations there are: weigh pages")
    found: dict[tuple[Call, ...], int] = {}
    for group in result.groups:
        path = _path(result, group, snapshot)
        amount = group.pages if weight == "pages" else group.allocations or 0
        found[path] = found.get(path, 0) + amount
    return found


def folded(result: Top, snapshot: Snapshot, weight: str) -> Iterator[str]:
    """
    Yield one line per stack: its functions from the root on, separated by ``;``, and its weight.

    :param weight: An element of :data:`WEIGHTS`.
    """
    lines: dict[str, int] = {}
    for path, amount in _merged(result, snapshot, weight).items():
        text = ";".join([word(call.name).replace(";", ":") for call in path])
        lines[text] = lines.get(text, 0) + amount
    for text, amount in lines.items():
        yield f"{text} {amount}\n"


def speedscope(result: Top, snapshot: Snapshot, weight: str) -> Iterator[str]:
    """
    Yield one JSON object: a sampled profile of bytes or allocations.

    :param weight: An element of :data:`WEIGHTS`.
    """
    from drgn_pageowner import __version__

    facts = snapshot.facts
    scale = facts.page_size if weight == "pages" else 1
    numbers: dict[Call, int] = {}
    samples, weights = [], []
    for path, amount in _merged(result, snapshot, weight).items():
        samples.append([numbers.setdefault(call, len(numbers)) for call in path])
        weights.append(amount * scale)
    title = f"page_owner of {kernel_text(facts.release)}"
    frames = [
        {"name": call.name} | ({"file": call.filename, "line": call.line} if call.filename else {})
        for call in numbers
    ]
    profile = {
        "type": "sampled",
        "name": f"{title}: {weight}",
        "unit": "bytes" if weight == "pages" else "none",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }
    whole = {
        "$schema": _SCHEMA,
        "exporter": f"drgn-pageowner {__version__}",
        "name": title,
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": [profile],
    }
    yield json_document(whole) + "\n"
