#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage real dumps at random for a given time, and print the outcomes.

  run.py --minutes 30 --seed 1               fields of structures, and files, of every dump
  run.py --minutes 5 --dumps linux-6.1/traps --only fields
  run.py --minutes 5 --only snapshots        what `save` wrote, with other types and numbers in it
  run.py --dump linux-6.1/traps --patch 0xffffffff81cf2810=00 --ask info     one input again
  run.py --dump linux-6.1/traps --snapshot 1/42 --ask info                   one snapshot again

Prints the number of inputs and their outcomes, and for each fault the command that repeats it; also
if it is interrupted.
Exit status: 0 without faults.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

# Processes are forked, so no other thread may exist that holds a lock.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
sys.dont_write_bytecode = True

import hypothesis  # noqa: E402
from conftest import Dump, bundled  # noqa: E402
from damaged import Patch  # noqa: E402
from files import Change, changes, judge_file  # noqa: E402
from pyarrow import ArrowException  # noqa: E402
from snapshots import SnapshotParts, judge_snapshot, mutated, take_apart, write  # noqa: E402
from strategies import Input, inputs  # noqa: E402
from verdict import Outcome, judge  # noqa: E402

_DUMPS = ("linux-5.10/traps", "linux-6.1/traps", "linux-6.12/traps", "linux-7.2/traps",
          "linux-5.10/kdump", "linux-6.1/kdump", "linux-6.12/kdump", "linux-7.2/kdump",
          "linux-6.12-arm64/traps", "linux-7.2-arm64-16k/kdump", "linux-6.12-sparsemem/kdump",
          "linux-6.12-i386/traps")  # fmt: skip


class Report:
    """Counts outcomes; prints every new fault once."""

    def __init__(self) -> None:
        self.inputs = 0
        self.outcomes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.faults: dict[str, int] = {}
        self.slowest = (0.0, "")

    def add(self, command: str, names: list[str], outcomes: list[Outcome]) -> None:
        self.inputs += 1
        for outcome in outcomes:
            self.outcomes[outcome.kind] += 1
            self.slowest = max(self.slowest, (outcome.seconds, f"{outcome.question}: {command}"))
            if outcome.kind == "refused":
                self.refusals[outcome.detail[:60]] += 1
            if outcome.kind == "fault":
                self._fault(command, names, outcome)

    def _fault(self, command: str, names: list[str], outcome: Outcome) -> None:
        key = _where(outcome.detail)
        self.faults[key] = self.faults.get(key, 0) + 1
        if self.faults[key] > 1:
            return
        print(f"\nFAULT {len(self.faults)} in {outcome.question!r} of a dump with", flush=True)
        for name in names:
            print(f"  {name}")
        print(outcome.detail)
        print(f"again: {sys.argv[0]} {command} --ask '{outcome.question}'", flush=True)

    def print(self) -> None:
        print(f"\n{self.inputs} inputs; questions: {dict(self.outcomes)}")
        print(f"slowest answer: {self.slowest[0]:.1f} s, {self.slowest[1]}")
        for text, count in self.refusals.most_common(12):
            print(f"  refused {count} times: {text}")
        print(f"{len(self.faults)} different faults")
        for key, count in sorted(self.faults.items(), key=lambda item: -item[1]):
            print(f"  {count} times: {key}")


def _where(detail: str) -> str:
    """Return a key that is the same for equal faults: the innermost line of this package, and the
    exception's name."""
    ours = [line.strip() for line in detail.splitlines() if "drgn_pageowner/" in line]
    last = detail.strip().splitlines()[-1]
    if ours:
        return f"{ours[-1].split('drgn_pageowner/')[-1]}: {last.split(':')[0]}"
    return "".join(c for c in detail.splitlines()[0][:70] if not c.isdigit())


def _fields(
    dump: Dump, report: Report, seed: int, examples: int, until: float, *, questions: int
) -> None:
    """Test *examples* damaged dumps, or as many as there is time for."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(dump, questions=questions))
    def one(damaged: Input) -> None:
        if time.monotonic() > until:
            return
        outcomes = judge(
            dump, damaged.patches, damaged.questions, vital=damaged.vital, lost=damaged.lost
        )
        patches = " ".join(f"--patch {patch}" for patch in damaged.patches)
        names = [patch.what for patch in damaged.patches]
        report.add(f"--dump {dump.name} {patches}", names, outcomes)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one()


def _files(dump: Dump, report: Report, seed: int, examples: int, until: float) -> None:
    """Test *examples* damaged files, or as many as there is time for."""
    with tempfile.TemporaryDirectory() as directory:
        for change, command in itertools.islice(changes(dump, seed), examples):
            if time.monotonic() > until:
                return
            outcome = judge_file(dump, change, command, Path(directory))
            name = f"{dump.vmcore} cut off after {change.size} bytes, {len(change.bytes)} changed"
            report.add(f"--dump {dump.name} --file {change}", [name], [outcome])


def _snapshots(dump: Dump, report: Report, seed: int, examples: int, until: float) -> None:
    """Test *examples* changed snapshots, or as many as there is time for."""
    with tempfile.TemporaryDirectory() as directory:
        parts = _saved(dump, Path(directory))
        for number in range(examples):
            if time.monotonic() > until:
                return
            what, outcomes = _snapshot(parts, seed, number, Path(directory), ())
            report.add(f"--dump {dump.name} --snapshot {seed}/{number}", [what], outcomes)


def _saved(dump: Dump, directory: Path) -> SnapshotParts:
    path = directory / "whole.parquet"
    dump.run("save", "--leaks", "--source", path, check=True)
    return take_apart(path)


def _snapshot(
    parts: SnapshotParts, seed: int, number: int, directory: Path, asked: tuple[str, ...]
) -> tuple[str, list[Outcome]]:
    path = directory / "changed.parquet"
    changed, what, questions = mutated(parts, seed, number)
    try:
        write(changed, path)
    except (ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
        # Some changes cannot be written as Parquet.
        return f"{what}: {error}", []
    return what, judge_snapshot(path, asked or questions)


def _again(args: argparse.Namespace) -> int:
    dump = bundled(args.dump)
    if args.snapshot:
        seed, _, number = args.snapshot.partition("/")
        with tempfile.TemporaryDirectory() as directory:
            parts = _saved(dump, Path(directory))
            what, outcomes = _snapshot(
                parts, int(seed), int(number), Path(directory), tuple(args.ask)
            )
        print(what)
        return _say(outcomes)
    if args.file:
        with tempfile.TemporaryDirectory() as directory:
            outcomes = [
                judge_file(dump, Change.parse(args.file), question, Path(directory))
                for question in args.ask
            ]
        return _say(outcomes)
    patches = tuple(Patch.parse(patch) for patch in args.patch)
    questions = tuple(question for question in args.ask if question != "records")
    return _say(judge(dump, patches, questions, vital=True, lost=((0, 1 << 62),)))


def _say(outcomes: list[Outcome]) -> int:
    for outcome in outcomes:
        print(f"{outcome.kind}: {outcome.question} ({outcome.seconds:.1f} s)\n{outcome.detail}")
    return any(outcome.kind == "fault" for outcome in outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dumps", nargs="+", default=_DUMPS, metavar="NAME")
    parser.add_argument("--dump", metavar="NAME", help="of one input to run again")
    parser.add_argument("--patch", action="append", default=[], metavar="ADDRESS=BYTES")
    parser.add_argument("--file", metavar="CHANGE")
    parser.add_argument("--snapshot", metavar="SEED/NUMBER")
    parser.add_argument(
        "--only", choices=("fields", "files", "snapshots"), help="one kind of damage"
    )
    parser.add_argument(
        "--questions", type=int, default=6, metavar="N",
        help="commands to run on each dump with damaged fields (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ask", action="append", default=[], metavar="COMMAND")
    args = parser.parse_args()
    if args.dump:
        return _again(args)
    report = Report()
    fields = functools.partial(_fields, questions=args.questions)
    kinds = (("fields", fields, 25), ("files", _files, 10), ("snapshots", _snapshots, 25))
    until = time.monotonic() + args.minutes * 60
    seed = args.seed
    # What was found until Ctrl-C is worth saying, too.
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < until:
            for name in args.dumps:
                for kind, damage, examples in kinds:
                    if args.only in (None, kind):
                        damage(bundled(name), report, seed, examples, until)
            seed += 1
    report.print()
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
