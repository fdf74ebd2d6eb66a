# SPDX-License-Identifier: LGPL-2.1-or-later
"""Enumerations that are stored as numbers in arrays and printed as words."""

from __future__ import annotations

import enum
from typing import Self

__all__ = ("Kind",)


class Kind(enum.IntEnum):
    """
    Base of enumerations whose values fill the columns of a table.

    A member is written as its number and its label: ``SLAB = 7, "slab"``. The numbers run from 0
    without a gap, so that ``len()`` of the class sizes a table of counts.
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
