# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the page about a fleet."""

from __future__ import annotations

import pytest

from drgn_pageowner.render.fleet_report import FleetHeadline, fleet_html


@pytest.mark.parametrize(("number", "ending"), [(1, ""), (2, "s")])
def test_one_is_no_plural(number: int, ending: str) -> None:
    pytest.importorskip("jinja2")
    numbers = [(name, number) for name in ("dumps", "dumps with findings", "leaked pages")]
    page = "".join(fleet_html("Fleet", "All dumps.", FleetHeadline("Fine.", False), numbers, []))
    for name in (f"dump{ending}", f"dump{ending} with findings", f"leaked page{ending}"):
        assert f"<b>{number}</b> {name}</li>" in page
