# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results of any analysis as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.text import comm_text

__all__ = ("json_text", "jsonable")


def jsonable(value: Any) -> Any:
    """
    Convert *value* for :mod:`json`: dataclasses as objects, frames as the kernel prints them,
    task names as text, arrays as lists.
    """
    if isinstance(value, Frame):
        return str(value)
    if isinstance(value, bytes):
        return comm_text(value)
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def json_text(value: Any) -> Iterator[str]:
    """Yield one JSON document."""
    yield json.dumps(jsonable(value), indent=1) + "\n"
