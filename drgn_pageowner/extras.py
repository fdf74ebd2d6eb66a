# SPDX-License-Identifier: LGPL-2.1-or-later
"""Import libraries that are not installed by default."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from drgn_pageowner.errors import PageOwnerError

__all__ = ("extra",)


def extra(module: str, name: str, what: str) -> Any:
    """
    Import a library that is not installed by default.

    :param module: Name of the library's module.
    :param name: Name of the extra of this package that installs the library.
    :param what: Purpose for which the library is needed: the subject of the error message.
    :return: The module.
    :raises PageOwnerError: if the library is not installed
    """
    try:
        return import_module(module)
    except ImportError:
        raise PageOwnerError(
            f"{what} needs {module.partition('.')[0]}: pip install 'drgn-pageowner[{name}]'"
        ) from None
