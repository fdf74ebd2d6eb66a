# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the root file system of a guest with this Python and this package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from recipe import RECIPE, TESTDATA, run

__all__ = ("make_root",)

# Parts of the standard library that are not needed.
_LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages",
             "config-*", "*.a")  # fmt: skip


def make_root(
    build: Path,
    image: Path,
    *,
    init: str = "live-init",
    busybox: Path = Path("/bin/busybox"),
    extra: str = "",
    more: Callable[[Path], None] | None = None,
) -> Path:
    """
    Make an ext2 *image*: busybox, Python, the package with what it needs, kernel modules.

    :param build: Build directory of the kernel; its vmlinux is included with all DWARF.
    :param init: Program in guest/ that becomes /live/init.
    :param busybox: A statically linked busybox.
    :param extra: Extra of the package to install, in brackets.
    :param more: Function that adds files to the directory that the image is made of.
    """
    root = image.parent / "root"
    shutil.rmtree(root, ignore_errors=True)
    for directory in ("bin", "dev", "lib64", "live", "modules", "out", "proc", "sys", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    shutil.copy(RECIPE / "guest" / init, root / "live/init")
    (root / "live/init").chmod(0o755)
    shutil.copy(build / "vmlinux", root / "live/vmlinux")
    for module in (build / "po-modules").glob("*.ko"):
        run("strip", "-g", "-o", root / "modules" / module.name, module)
    _python(root, extra)
    if more is not None:
        more(root)
    megabytes = sum(path.lstat().st_size for path in root.rglob("*")) >> 20
    image.unlink(missing_ok=True)
    # The output of commands is stored in the image, too, which is a sparse file.
    size = f"{megabytes * 5 // 4 + 1024}M"
    run("mke2fs", "-q", "-t", "ext2", "-b", "4096", "-E", "root_owner=0:0", "-d", root, image, size)
    shutil.rmtree(root)
    return image


def _python(root: Path, extra: str) -> None:
    """Copy this interpreter, its standard library, and the shared libraries that they need."""
    library = Path(sysconfig.get_path("stdlib"))
    home = root / "python/lib" / library.name
    shutil.copytree(library, home, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    (root / "python/bin").mkdir()
    program = root / "python/bin/python3"
    shutil.copy(Path(sys.executable).resolve(), program)
    site = root / "live/site"
    run(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "--target", site, f"{TESTDATA.parent}{extra}")  # fmt: skip
    for path in (program, *home.rglob("*.so"), *site.rglob("*.so*")):
        for needed in _libraries(path):
            if not needed.is_relative_to(root) and not (root / "lib" / needed.name).exists():
                target = root / "lib64" if needed.name.startswith("ld-") else root / "lib"
                target.mkdir(exist_ok=True)
                shutil.copy(needed, target / needed.name)


def _libraries(path: Path) -> list[Path]:
    """Return the shared libraries that an ELF file needs, including its loader."""
    listing = subprocess.run(["ldd", path], text=True, capture_output=True, check=False).stdout
    return [Path(name) for name in re.findall(r"(?:=> |^\s)(/\S+) \(", listing, re.M)]
