# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the page about a fleet."""

from __future__ import annotations

import pytest

from drgn_pageowner.render.fleet_report import (
    FleetHeadline,
    FleetSection,
    fleet_headline,
    fleet_html,
)


@pytest.mark.parametrize(("number", "ending"), [(1, ""), (2, "s")])
def test_one_is_no_plural(number: int, ending: str) -> None:
    pytest.importorskip("jinja2")
    numbers = [(name, number) for name in ("dumps", "dumps with findings", "leaked pages")]
    page = "".join(fleet_html("Fleet", "All dumps.", FleetHeadline("Fine.", False), numbers, []))
    for name in (f"dump{ending}", f"dump{ending} with findings", f"leaked page{ending}"):
        assert f"<b>{number}</b> {name}</li>" in page


def test_a_known_cause_that_only_warns_is_not_nothing() -> None:
    totals = {"dumps": 6, "dumps with findings": 0, "leaked pages": 0}
    leaks = FleetSection("leaks", "Stacks with most leaked pages", ("allocator", "pages"), [])
    names, row = ("rule", "level", "dumps"), ("low-watermark", "warning", 2)
    none, some = (FleetSection("causes", "Known causes", names, rows) for rows in ([], [row]))
    assert fleet_headline(totals, leaks, none).text == "Nothing was found in 6 dumps."
    headline = fleet_headline(totals, leaks, some)
    assert headline.text == (
        "0 of 6 dumps have findings; most common known cause: low-watermark, in 2 dumps."
    )
    assert not headline.bad
