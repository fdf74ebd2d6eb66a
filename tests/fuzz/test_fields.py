# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test a few damaged dumps, the same in every run; run.py tests more."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="hypothesis (the extra dev) makes the damage")

from collections.abc import Callable

from conftest import Dump
from hypothesis import HealthCheck, Phase, given, seed, settings
from strategies import Input, inputs
from verdict import judge


@pytest.mark.parametrize(
    "name", ["linux-7.2/traps", pytest.param("linux-5.10/traps", marks=pytest.mark.thorough)]
)
def test_a_damaged_dump_is_answered_and_its_other_records_are_as_before(
    name: str, dump_named: Callable[[str], Dump]
) -> None:
    dump = dump_named(name)

    @seed(1)
    @settings(
        max_examples=6,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(dump, questions=1))
    def one(damaged: Input) -> None:
        outcomes = judge(
            dump, damaged.patches, damaged.questions, vital=damaged.vital, lost=damaged.lost
        )
        faults = [outcome for outcome in outcomes if outcome.kind == "fault"]
        assert not faults, f"{faults[0].question}: {faults[0].detail}\n{damaged.command()}"

    one()
