# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check the imports against docs/architecture.md: they have one direction, and only kernel/ needs
drgn."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.once

PACKAGE = ROOT / "drgn_pageowner"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Modules at the top level that every part may import; they only import each other.
BASE = {"cache", "elf", "errors", "escape", "extras", "progress", "units"}
# Modules at the top level that connect the parts; no part imports them.
DOORS = {"__init__", "__main__", "cli", "completer", "plugin", "shell", "sources"}

# Part of the package -> parts that it may import besides itself and BASE. Every module must belong
# to one of these parts.
ALLOWED = {
    "model": set(),
    "kernel.dump": {"model"},
    "kernel.layout": {"model", "kernel.dump"},
    "kernel.linux": {"model", "kernel.dump"},
    "kernel.read": {"model", "kernel.dump", "kernel.linux"},
    "kernel": {"model", "kernel.dump", "kernel.layout", "kernel.linux", "kernel.read"},
    "analysis.owners": {"model"},
    "analysis.frag": {"model", "analysis.owners"},
    "analysis.account": {"model", "analysis.owners", "analysis.frag"},
    "analysis.types": {"model"},
    "analysis.leaks": {
        "model",
        "analysis.owners",
        "analysis.frag",
        "analysis.account",
        "analysis.types",
    },
    "analysis.compare": {"model", "analysis.owners", "analysis.frag", "analysis.account"},
    "analysis": {
        "model",
        "analysis.owners",
        "analysis.frag",
        "analysis.account",
        "analysis.leaks",
        "analysis.compare",
        "analysis.types",
    },
    "render": {"model", "analysis"},
    "storage": {"model"},
    "rules": {"model", "analysis", "render", "storage"},
    "fleet": {"model", "analysis", "render", "storage", "rules"},
    "commands": {"model", "analysis", "render", "storage", "rules", "fleet"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    """Return the part to which a module of the package (named without the package) belongs."""
    package = (PACKAGE / module.replace(".", "/")).is_dir()
    parts = module.split(".") if package else module.split(".")[:-1]
    inner = ".".join(parts[:2])
    return inner if inner in ALLOWED else ".".join(parts[:1])


def may_import(room: str, target: str) -> bool:
    """Return whether a module of the part *room* may import the module *target*."""
    other = room_of(target)
    if not other:
        return target in BASE
    if other == room:
        return True
    return any(
        other == allowed or (allowed in ("analysis", "render") and other.startswith(allowed + "."))
        for allowed in ALLOWED[room]
    )


def imported(path: Path) -> set[str]:
    """Return every module that *path* imports, also inside functions and for type checking."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if is_module(full) else module)
    return names


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_a_place_in_the_picture(path: Path) -> None:
    module = name_of(path).removesuffix(".__init__")
    if room_of(name_of(path)):
        assert room_of(name_of(path)) in ALLOWED, f"{module} is in no room"
    else:
        assert module in BASE | DOORS, f"{module} is neither a door nor for everybody"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    own = name_of(path)
    room = room_of(own)
    for name in imported(path):
        if name.split(".")[0] == "drgn":
            assert room.split(".")[0] == "kernel" or own in (
                "completer",
                "plugin",
                "shell",
                "sources",
            ), f"{own} imports drgn"
        if not name.startswith("drgn_pageowner."):
            continue
        target = name.removeprefix("drgn_pageowner.")
        if room:
            assert may_import(room, target), f"{own} imports {name}"
        elif own in BASE:
            assert target in BASE, f"{own} imports {name}"


@pytest.mark.parametrize(
    ("room", "target"),
    [
        ("model", "kernel.read.records"),
        ("kernel.dump", "kernel.linux.page"),
        ("kernel.linux", "kernel.read.heap"),
        ("kernel.read", "analysis.leaks.reach"),
        ("kernel", "commands.options"),
        ("analysis.owners", "analysis.leaks.leaks"),
        ("analysis.frag", "analysis.account.account"),
        ("analysis.compare", "analysis.report"),
        ("render", "storage.save"),
        ("storage", "analysis.owners.group"),
        ("storage", "commands.session"),
        ("commands", "kernel.read.records"),
        ("commands", "cli"),
    ],
)
def test_an_import_that_runs_back_up_is_not_allowed(room: str, target: str) -> None:
    assert not may_import(room, target)


def test_everything_but_the_kernel_room_imports_without_drgn() -> None:
    modules = [
        f"drgn_pageowner.{name_of(path)}"
        for path in MODULES
        if not name_of(path).startswith("kernel.")
        and name_of(path) not in ("__main__", "plugin", "shell")
        and path.name != "__init__.py"
    ]
    code = "import sys\nsys.modules['drgn'] = None\n" + "".join(f"import {m}\n" for m in modules)
    subprocess.run([sys.executable, "-c", code], check=True)


# Names that several modules define on purpose, and their common meaning.
SHARED_NAMES = {
    "add_arguments": "every command",
    "run": "every command",
}


def public_definitions(path: Path) -> set[str]:
    """Return the public classes and functions of a module."""
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }


def defined_twice(definitions: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return each name that several of *definitions* define -> these modules."""
    modules: dict[str, list[str]] = {}
    for module, names in definitions.items():
        for name in names - SHARED_NAMES.keys():
            modules.setdefault(name, []).append(module)
    return {name: found for name, found in modules.items() if len(found) > 1}


def test_no_public_name_stands_for_two_things() -> None:
    assert not defined_twice({name_of(path): public_definitions(path) for path in MODULES})


def test_a_second_definition_is_seen() -> None:
    assert defined_twice({"a": {"run", "Cell"}, "b": {"run", "Cell"}}) == {"Cell": ["a", "b"]}
