# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find the owners of a Linux kernel's memory: page_owner records of a vmcore or a running kernel.

In drgn's shell, ``%pageowner COMMAND`` runs the commands (``%pageowner --help``), and ``%pageowner
COMMAND --drgn`` prints lines of Python that compute the same result. They begin with these
functions::

    from drgn_pageowner import page_owner_stack, read_inventory, read_heap, snapshot
    records = snapshot(prog)              # every record, in NumPy arrays: records["pfn"], ...
    page_owner_stack(page)                # the stack that allocated a struct page *
    read_inventory(prog)                  # every page, and the data that determine its use
    read_heap(prog)                       # all pointers between allocations

:func:`page_ext`, :func:`page_owner`, :func:`page_owner_free_stack` and :func:`for_each_page_owner`
are in the style of :mod:`drgn.helpers.linux`, one page at a time; :func:`read_memory` reads every
page and free list; :func:`pageowner_type` returns the object at an address with its inferred type;
:func:`use_jobs` lets several processes read a large dump, and :func:`limit_memory` keeps what its
large arrays need beyond a limit in a file.
The functions of :mod:`drgn_pageowner.analysis` take the objects that these functions return, and do
not need drgn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from drgn_pageowner.errors import PageOwnerError, UsageError

if TYPE_CHECKING:
    from drgn_pageowner.kernel.helpers import for_each_page_owner as for_each_page_owner
    from drgn_pageowner.kernel.helpers import page_ext as page_ext
    from drgn_pageowner.kernel.helpers import page_owner as page_owner
    from drgn_pageowner.kernel.helpers import page_owner_free_stack as page_owner_free_stack
    from drgn_pageowner.kernel.helpers import page_owner_stack as page_owner_stack
    from drgn_pageowner.kernel.helpers import read_heap as read_heap
    from drgn_pageowner.kernel.helpers import read_inventory as read_inventory
    from drgn_pageowner.kernel.helpers import read_memory as read_memory
    from drgn_pageowner.kernel.helpers import snapshot as snapshot
    from drgn_pageowner.kernel.helpers import use_jobs as use_jobs
    from drgn_pageowner.model.records import Snapshot as Snapshot
    from drgn_pageowner.model.scratch import limit_memory as limit_memory
    from drgn_pageowner.shell import pageowner_type as pageowner_type

__version__ = "0.1.0"

_HOMES = {
    "Snapshot": "drgn_pageowner.model.records",
    "pageowner_type": "drgn_pageowner.shell",
    "for_each_page_owner": "drgn_pageowner.kernel.helpers",
    "limit_memory": "drgn_pageowner.model.scratch",
    "page_ext": "drgn_pageowner.kernel.helpers",
    "page_owner": "drgn_pageowner.kernel.helpers",
    "page_owner_free_stack": "drgn_pageowner.kernel.helpers",
    "page_owner_stack": "drgn_pageowner.kernel.helpers",
    "read_heap": "drgn_pageowner.kernel.helpers",
    "read_inventory": "drgn_pageowner.kernel.helpers",
    "read_memory": "drgn_pageowner.kernel.helpers",
    "snapshot": "drgn_pageowner.kernel.helpers",
    "use_jobs": "drgn_pageowner.kernel.helpers",
}

__all__ = (
    "PageOwnerError",
    "Snapshot",
    "UsageError",
    "for_each_page_owner",
    "limit_memory",
    "page_ext",
    "page_owner",
    "page_owner_free_stack",
    "page_owner_stack",
    "pageowner_type",
    "read_heap",
    "read_inventory",
    "read_memory",
    "snapshot",
    "use_jobs",
)


def __getattr__(name: str) -> object:
    # Imported on first use: commands that work on saved snapshots must not need drgn.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, including those that are imported on first use."""
    return [*__all__, "__doc__", "__name__", "__version__"]
