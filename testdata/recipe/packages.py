# SPDX-License-Identifier: LGPL-2.1-or-later
"""Download Debian packages of any suite and architecture, and collect programs for a guest from
them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    **os.environ,
    "KBUILD_BUILD_VERSION": "1",
    "KBUILD_BUILD_TIMESTAMP": "2026-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "testdata",
    "KBUILD_BUILD_HOST": "drgn-pageowner",
    "LC_ALL": "C",
}


def run(*command: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    print("+", " ".join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run(
        [str(word) for word in command],
        check=True,
        text=True,
        env=kwargs.pop("env", ENVIRONMENT),
        **kwargs,
    )


def debian_mirrors() -> list[str]:
    """Return the deb lines for this machine's own mirrors: main archive and security."""
    policy = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(SIGNED_BY)", "Created-By: Packages"],
        check=True, text=True, capture_output=True,
    ).stdout  # fmt: skip
    return sorted({line.split()[0] for line in policy.splitlines() if "/debian" in line})


def download(work: Path, suites: list[str], architecture: str, *packages: str) -> list[Path]:
    """Download NAME=VERSION packages of Debian suites, without touching apt's own configuration."""
    state = work / "apt" / f"{suites[0]}-{architecture}"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    lines = []
    for mirror in debian_mirrors():
        for suite in suites:
            if suite.endswith("-security") == ("security" in mirror):
                lines.append(f"deb {mirror} {suite} main\n")
    (state / "sources.list").write_text("".join(lines))
    (state / "status").touch()
    apt = [
        "apt-get",
        f"-oAPT::Architecture={architecture}",
        f"-oAPT::Architectures={architecture}",
        f"-oDir::Etc::sourcelist={state / 'sources.list'}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::Lists={state / 'lists'}",
        f"-oDir::State::status={state / 'status'}",
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
        "-oAPT::Sandbox::User=",
    ]
    run(*apt, "update")
    found = []
    for package in packages:
        name, _, version = package.partition("=")
        try:
            run(*apt, "download", package, cwd=state)
        except subprocess.CalledProcessError:
            if not version:
                raise
            print(
                f"{name} {version} is gone: taking the newest one of {suites[0]}", file=sys.stderr
            )
            run(*apt, "download", name, cwd=state)
        found.append(max(state.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_ctime))
    return found


def unpack_packages(out: Path, work: Path, wanted: dict[str, Any], architecture: str) -> None:
    """Download and unpack ``wanted["packages"]`` of ``wanted["suite"]``."""
    for deb in download(work, [wanted["suite"]], architecture, *wanted["packages"]):
        run("dpkg-deb", "-x", deb, out)


def collect(out: Path, root: Path, program: Path, loader: str) -> None:
    """
    Copy a program of the unpacked packages in *root*, all the libraries it needs and its loader (as
    ``ld.so``) into one flat directory.
    """
    out.mkdir(parents=True)
    shutil.copy(program, out / program.name)
    shutil.copy(find_library(root, loader), out / "ld.so")
    wanted = needed_libraries(program)
    while wanted:
        name = wanted.pop()
        if name != loader and not (out / name).exists():
            library = find_library(root, name)
            shutil.copy(library, out / name)
            wanted |= needed_libraries(library)


def needed_libraries(program: Path) -> set[str]:
    dynamic = subprocess.run(
        ["readelf", "-d", program], check=True, text=True, capture_output=True
    ).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))


def find_library(root: Path, name: str) -> Path:
    for path in root.rglob(name):
        if path.is_file() and not path.is_symlink():
            return path
        # An absolute link points outside of the unpacked packages.
        target = path.parent / path.readlink().name
        if target.exists():
            return target
    sys.exit(f"no package of dumps.toml has {name}")
