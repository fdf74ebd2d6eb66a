# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render stacks with weights for pprof: a gzipped ``perftools.profiles.Profile``."""

from __future__ import annotations

import gzip
from typing import Any

from drgn_pageowner.analysis.owners.group import Group, Top
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.pprof_messages import profile_message
from drgn_pageowner.render.stacks import Call, calls
from drgn_pageowner.render.text import kernel_text
from drgn_pageowner.render.top import key_text

__all__ = ("pprof",)

_KERNEL = "[kernel.kallsyms]"
_PAGE = 4096
_TYPES = (("allocations", "count"), ("pages", "count"), ("bytes", "bytes"))


def pprof(result: Top, snapshot: Snapshot, weight: str) -> bytes:
    """
    Render every group as a sample of allocations, pages and bytes.

    The keys other than the stack become labels, and so does the handle.

    :param weight: Default sample type: an element of
        :data:`~drgn_pageowner.render.stacks.WEIGHTS`.
    :raises PageOwnerError: if protobuf is not installed
    """
    return _Writer(result, snapshot).write(weight)


class _Writer:
    def __init__(self, result: Top, snapshot: Snapshot) -> None:
        self._result = result
        self._snapshot = snapshot
        self._profile: Any = profile_message()()
        self._strings = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[int, int] = {}
        self._mappings: dict[str | None, Any] = {}

    def write(self, weight: str) -> bytes:
        profile, facts = self._profile, self._snapshot.facts
        for name, unit in _TYPES:
            profile.sample_type.add(type=self._string(name), unit=self._string(unit))
        profile.default_sample_type = self._string(weight)
        profile.comment.append(self._string(f"page_owner of {kernel_text(facts.release)}"))
        # The kernel's text comes first, because pprof assumes that the first mapping is the
        # program.
        self._mapping(None)
        for group in self._result.groups:
            self._sample(group)
        profile.string_table.extend(self._strings)
        return gzip.compress(profile.SerializeToString(deterministic=True), mtime=0)

    def _string(self, text: str) -> int:
        plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return self._strings.setdefault(plain, len(self._strings))

    def _sample(self, group: Group) -> None:
        sample = self._profile.sample.add()
        sample.location_id.extend([self._location(frame) for frame in group.stack])
        sample.value.extend([group.allocations or 0, group.pages, group.bytes])
        if group.handle:
            sample.label.add(key=self._string("handle"), num=group.handle)
        for key in self._result.by:
            if key != "stack":
                text = key_text(group, key, self._snapshot)
                sample.label.add(key=self._string(key), str=self._string(text))

    def _location(self, frame: Frame) -> int:
        if frame.pc not in self._locations:
            self._locations[frame.pc] = len(self._locations) + 1
            mapping = self._mapping(frame.module)
            # A text has names instead of addresses.
            address = frame.pc if self._snapshot.stacks.addresses else 0
            _widen(mapping, address)
            lines = calls(self._snapshot, frame)
            mapping.has_inline_frames |= len(lines) > 1
            mapping.has_filenames |= any(call.filename for call in lines)
            mapping.has_line_numbers |= any(call.line for call in lines)
            location = self._profile.location.add(
                id=self._locations[frame.pc], mapping_id=mapping.id, address=address
            )
            for call in lines:
                location.line.add(function_id=self._function(call), line=call.line)
        return self._locations[frame.pc]

    def _function(self, call: Call) -> int:
        key = (call.name, call.filename)
        if key not in self._functions:
            self._functions[key] = len(self._functions) + 1
            name = self._string(call.name)
            self._profile.function.add(
                id=self._functions[key],
                name=name,
                system_name=name,
                filename=self._string(call.filename),
            )
        return self._functions[key]

    def _mapping(self, module: str | None) -> Any:
        """Return the mapping of the kernel or a module, which covers the frames in it."""
        if module not in self._mappings:
            self._mappings[module] = self._profile.mapping.add(
                id=len(self._mappings) + 1,
                filename=self._string(_KERNEL if module is None else f"[{module}]"),
                has_functions=True,
            )
        return self._mappings[module]


def _widen(mapping: Any, pc: int) -> None:
    """Extend *mapping* to the page of *pc*."""
    start, limit = pc - pc % _PAGE, pc - pc % _PAGE + _PAGE
    mapping.memory_start = min(mapping.memory_start or start, start)
    # No address follows the last page.
    mapping.memory_limit = max(mapping.memory_limit, min(limit, (1 << 64) - 1))
