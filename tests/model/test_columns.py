# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the table of record columns, and the data derived from it."""

from __future__ import annotations

import numpy as np
from made import made_records

from drgn_pageowner.analysis.owners.group import GROUP_KEYS
from drgn_pageowner.analysis.owners.select import CRITERIA
from drgn_pageowner.model.columns import COLUMNS, STORED, Origin
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.records import RECORD_FIELDS


def test_every_column_has_a_name_of_its_own() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    for attribute in ("key", "word"):
        used = [getattr(column, attribute) for column in COLUMNS if getattr(column, attribute)]
        assert len(set(used)) == len(used)
    options = [column.criterion.name for column in COLUMNS if column.criterion is not None]
    assert len(set(options)) == len(options)


def test_a_field_that_is_only_shown_is_made_of_a_stored_column() -> None:
    for column in COLUMNS:
        assert (column.origin is Origin.SHOWN) == (column.name not in STORED) == bool(column.of)
        assert not column.of or column.of in STORED
        assert (column.none is None) == (not column.none_if)


def test_the_fields_of_json_are_stable() -> None:
    """Check that documented fields are not renamed, removed or moved; new ones may be added."""
    documented = (
        "pfn", "order", "pages", "gfp_mask", "gfp_flags", "migratetype", "pageblock",
        "pageblock_migratetype", "page_flags", "node", "zone", "pid", "tgid", "comm", "ts_nsec",
        "free_ts_nsec", "handle", "allocated", "last_migrate_reason", "memcg", "stack", "free_pid",
        "free_tgid", "free_handle",
    )  # fmt: skip
    assert tuple(name for name in RECORD_FIELDS if name in documented) == documented


def test_the_documentation_of_a_snapshot_has_every_column_and_its_dtype() -> None:
    assert Snapshot.__doc__ is not None
    lines = [line.split() for line in Snapshot.__doc__.splitlines()]
    described = {words[0]: words[1] for words in lines if len(words) > 2 and words[0] in STORED}
    assert described == {name: f"``{column.dtype}``" for name, column in STORED.items()}


def test_keys_and_filters_need_columns_that_exist() -> None:
    for needed in GROUP_KEYS.values():
        assert set(needed) <= STORED.keys()
    assert {column.name for column in CRITERIA.values()} <= STORED.keys()
    assert {column.key for column in COLUMNS if column.key} <= GROUP_KEYS.keys()


def test_the_made_records_have_the_dtypes_of_the_table() -> None:
    records = made_records()
    for name, values in records.columns.items():
        assert values.dtype == np.dtype(STORED[name].dtype)
