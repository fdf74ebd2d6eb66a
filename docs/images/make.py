# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make report.png, the picture in README.md: `make docs-images`. Needs chromium and Playwright."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
UNPACK = HERE.parent.parent / "testdata/unpack.py"
DUMP = "linux-6.12/traps"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1180, "height": 797}


def main() -> None:
    dump: Path = runpy.run_path(str(UNPACK))["unpack"](DUMP)
    options = ["-c", dump / "vmcore", "-s", dump.parent / "vmlinux"]
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        page = Path(directory) / "report.html"
        command = [sys.executable, "-m", "drgn_pageowner", *options, "report", page]
        subprocess.run(command, check=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-drawn]", state="attached")
        tab.screenshot(path=str(HERE / "report.png"))
        browser.close()


if __name__ == "__main__":
    main()
