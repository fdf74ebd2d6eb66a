# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory of files cached between runs: symbols that were found, and layout packs."""

from __future__ import annotations

import os

__all__ = ("cache_directory", "layout_path")


def cache_directory() -> str:
    """Return the directory of files cached between runs: ``$XDG_CACHE_HOME/drgn-pageowner``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "drgn-pageowner")


def layout_path(build_id: str, cache: str | None = None) -> str:
    """
    Return the path at which the layout pack of a kernel is kept; there may be none.

    :param build_id: ``BUILD-ID`` of VMCOREINFO, in hex.
    :param cache: Directory to use instead of :func:`cache_directory`.
    """
    return os.path.join(cache or cache_directory(), "layouts", f"{build_id}.debug")
