# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run our command line, and write its own peaks of memory to the file that comes first."""

import sys
import threading
import time

from drgn_pageowner.cli import main


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.split(":", 1) for line in file)


def watch(peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], int(status()["RssAnon"].split()[0]))
        time.sleep(0.2)


peak = [0]
threading.Thread(target=watch, args=(peak,), daemon=True).start()
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as out:
    out.write(f"VmHWM {int(status()['VmHWM'].split()[0])}\nRssAnon {peak[0]}\n")
sys.exit(code)
