# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert results of any analysis to JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.text import comm_text

__all__ = ("json_document", "json_text", "jsonable")


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
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value


def json_text(value: Any) -> Iterator[str]:
    """Yield one JSON document."""
    yield json_document(jsonable(value), indent=1) + "\n"


def json_document(value: Any, **options: Any) -> str:
    """
    Return *value* as JSON that every parser accepts: without NaN, infinities and lone surrogates.

    NaN and infinities become ``null``, and bytes that are not UTF-8 become the text ``\\xNN``.

    :param value: A value of types that :mod:`json` knows.
    :param options: Options of :func:`json.dumps`.
    """
    try:
        text = json.dumps(value, allow_nan=False, **options)
    except ValueError:
        # A number is NaN or infinite.
        return json.dumps(_valid(value), allow_nan=False, **options)
    # surrogateescape turns bytes into \udc80 to \udcff. The second half of a surrogate pair may
    # look the same.
    return json.dumps(_valid(value), **options) if "\\udc" in text else text


def _valid(value: Any) -> Any:
    """Return *value* with NaN, infinities and lone surrogates replaced, as :func:`json_document`
    says."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(item) for item in value]
    return value
