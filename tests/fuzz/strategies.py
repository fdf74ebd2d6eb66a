# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hypothesis strategies for damaged dumps."""

from __future__ import annotations

from dataclasses import dataclass

from conftest import Dump
from damaged import Patch
from fields import Family, Leaf, families, read
from hypothesis import strategies as st
from questions import QUESTIONS

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.translate import direct_map_end

_KINDS = ("zero", "ones", "one", "flip", "more", "misaligned", "random", "huge", "itself",
          "its structure", "another", "top", "direct end", "wild", "hole")  # fmt: skip


@dataclass(frozen=True)
class Input:
    """A damaged dump, and the commands to run on it."""

    dump: str
    patches: tuple[Patch, ...]
    questions: tuple[str, ...]
    vital: bool
    """Whether commands may fail."""
    lost: tuple[tuple[int, int], ...]
    """PFN ranges ``(first, end)`` whose records may differ."""

    def command(self) -> str:
        """Return the command that repeats this input."""
        parts = [f"--dump {self.dump}", *(f"--patch {patch}" for patch in self.patches)]
        return " ".join([*parts, *(f"--ask '{question}'" for question in self.questions)])


@st.composite
def inputs(draw: st.DrawFn, dump: Dump, questions: int, most: int = 3) -> Input:
    """
    A damaged *dump*.

    :param questions: Number of commands to run.
    :param most: Maximum number of damaged fields.
    """
    patches, lost, vital = [], [], False
    for _ in range(draw(st.integers(1, most))):
        family = draw(st.sampled_from(families(dump)))
        address = draw(st.sampled_from(family.addresses))
        leaf = draw(st.sampled_from(family.leaves))
        patches.append(draw(_patch(dump, family, address, leaf)))
        vital |= family.vital or patches[-1].missing
        lost.append(family.records(address))
    asked = draw(
        st.lists(st.sampled_from(QUESTIONS), min_size=questions, max_size=questions, unique=True)
    )
    return Input(dump.name, tuple(patches), tuple(asked), vital, tuple(lost))


@st.composite
def _patch(draw: st.DrawFn, dump: Dump, family: Family, address: int, leaf: Leaf) -> Patch:
    place = address + leaf.offset
    what = f"{family.name} {address:#x} {leaf.path}"
    kind = draw(st.sampled_from(_KINDS))
    if kind == "hole":
        page = place & -4096
        return Patch(page, bytes(4096), True, f"{what}: {kind}")
    if leaf.size > 8:
        text = draw(st.one_of(st.binary(min_size=leaf.size, max_size=leaf.size),
                              st.just(b"\xff" * leaf.size), st.just(bytes(leaf.size))))  # fmt: skip
        return Patch(place, text, False, what)
    old = int.from_bytes(read(dump.prog, place, leaf.size) or bytes(leaf.size), "little")
    bits = 8 * leaf.size
    value = {
        "zero": lambda: 0,
        "ones": lambda: -1,
        "one": lambda: 1,
        "flip": lambda: old ^ 1 << draw(st.integers(0, bits - 1)),
        "more": lambda: old + draw(st.sampled_from((-4096, -8, -1, 1, 2, 8, 64, 4096))),
        "misaligned": lambda: old | draw(st.integers(1, 7)),
        "random": lambda: draw(st.integers(0, (1 << bits) - 1)),
        "huge": lambda: 1 << draw(st.integers(0, bits - 1)),
        "itself": lambda: place,
        "its structure": lambda: address,
        "another": lambda: draw(st.sampled_from(family.addresses)) + leaf.offset,
        "top": lambda: (1 << bits - 1) - 1,
        "direct end": lambda: _direct_end(dump) - draw(st.sampled_from((0, 1, 8))),
        "wild": lambda: draw(st.sampled_from((0x10, 0xDEAD000000000100, 1 << 47, 0x8000 << 48))),
    }[kind]()
    data = (value & (1 << bits) - 1).to_bytes(leaf.size, "little")
    return Patch(place, data, False, f"{what}: {kind}")


def _direct_end(dump: Dump) -> int:
    return direct_map_end(Kernel(dump.prog))
