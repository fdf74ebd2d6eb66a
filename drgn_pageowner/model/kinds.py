# SPDX-License-Identifier: LGPL-2.1-or-later
"""Base class of enumerations that are stored as integers in arrays and printed as words."""

from __future__ import annotations

import enum
from typing import Self

__all__ = ("Kind",)


class Kind(enum.IntEnum):
    """
    Base of enumerations whose values are stored in integer columns.

    A member is defined by a number and a label: ``SLAB = 7, "slab"``. Numbers start at 0 and have
    no gaps, so ``len()`` of the class is the size of an array indexed by member.
    """

    label: str
    """The name in tables and JSON."""

    def __new__(cls, value: int, label: str = "") -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member

    @classmethod
    def label_of(cls, value: int) -> str:
        """
        Return the label of *value*.

        :raises ValueError: if no member has this value
        """
        return cls(value).label
