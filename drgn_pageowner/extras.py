# SPDX-License-Identifier: LGPL-2.1-or-later
"""Libraries that only some users need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from drgn_pageowner.errors import PageOwnerError

__all__ = ("extra",)


def extra(module: str, name: str, what: str) -> Any:
    """
    Import a library that is not installed by default.

    :param name: The extra of this package that installs it.
    :param what: What it is needed for, in words that a sentence can begin with.
    :raises PageOwnerError: if it is not installed
    """
    try:
        return import_module(module)
    except ImportError:
        raise PageOwnerError(
            f"{what} needs {module.partition('.')[0]}: pip install 'drgn-pageowner[{name}]'"
        ) from None
