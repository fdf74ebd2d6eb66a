# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that the columns of the reader have the dtypes in the table of columns."""

from __future__ import annotations

import numpy as np
from conftest import Dump

from drgn_pageowner import snapshot
from drgn_pageowner.kernel.linux.page_owner import OWNER_MEMBERS
from drgn_pageowner.kernel.read.records import ALL_COLUMNS
from drgn_pageowner.model.columns import STORED


def test_columns_have_the_dtypes_of_the_table(dump: Dump) -> None:
    assert set(dump.snapshot.columns) <= ALL_COLUMNS == set(STORED)
    for name, values in dump.snapshot.columns.items():
        assert values.dtype == np.dtype(STORED[name].dtype), name


def test_members_are_listed_in_the_order_of_the_structure(one_dump: Dump) -> None:
    owner = one_dump.prog.type("struct page_owner")
    listed = list(one_dump.snapshot.facts.layout["members"])
    assert listed == [member.name for member in owner.members if member.name in OWNER_MEMBERS]


def test_only_what_is_asked_for_is_read(one_dump: Dump) -> None:
    always = {name for name, column in STORED.items() if column.always}
    assert set(snapshot(one_dump.prog, columns=["pid"]).columns) == {"pid", *always}
