"""The map of DESIGN.md: imports point one way, and analysis and render need no drgn."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "drgn_pageowner"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Which rooms a room may import from, besides the modules at the top level.
ALLOWED = {
    "kernel": {"kernel"},
    "analysis": {"analysis"},
    "render": {"render", "analysis"},
    "storage": {"storage"},
    "commands": {"commands", "render", "analysis", "storage"},
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = room(path)
    for name in imported(path):
        if own not in ALLOWED:
            continue
        if name.split(".")[0] == "drgn":
            assert own == "kernel", f"{path.name} imports drgn"
        if name.startswith("drgn_pageowner."):
            target = name.split(".")[1]
            if (PACKAGE / target).is_dir():
                assert target in ALLOWED[own], f"{path.name} imports {name}"


def test_everything_but_the_kernel_room_imports_without_drgn() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if room(path) in ("analysis", "render", "storage", "commands")
        and path.name != "__init__.py"
    ]
    code = "import sys\nsys.modules['drgn'] = None\n" + "".join(f"import {m}\n" for m in modules)
    subprocess.run([sys.executable, "-c", code], check=True)
