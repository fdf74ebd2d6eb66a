# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the public names of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import drgn_pageowner

pytestmark = pytest.mark.drgn


@pytest.mark.parametrize("name", drgn_pageowner.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(drgn_pageowner, name).__doc__


@pytest.mark.parametrize("first", ["drgn_pageowner.model.records", "drgn_pageowner.kernel.helpers"])
def test_snapshot_is_the_function_whatever_was_imported_before(first: str) -> None:
    code = f"import {first}; from drgn_pageowner import snapshot; assert callable(snapshot)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugin_costs_no_numpy_when_drgn_starts() -> None:
    code = "import drgn_pageowner.plugin, sys; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dir_has_the_public_names_and_no_others() -> None:
    names = [name for name in dir(drgn_pageowner) if not name.startswith("__")]
    assert names == sorted(drgn_pageowner.__all__)


def test_the_docstring_names_every_function() -> None:
    said = drgn_pageowner.__doc__ or ""
    functions = [name for name in drgn_pageowner.__all__ if name[0].islower()]
    assert [name for name in functions if name not in said] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = drgn_pageowner.nothing  # type: ignore[attr-defined]
