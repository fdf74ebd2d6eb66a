# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure queries on a dataset of many snapshots, which are made from real ones.

  python benchmarks/fleet.py make DATASET --of REAL --snapshots 1000 --records 27000
  python benchmarks/fleet.py ask DATASET

REAL is a dataset of real dumps (`fleet ingest`, or `save --dataset`). Each made snapshot has the
given number of records, chosen at random from a real one, and its own host, day and ID; its other
tables are copied. `ask` runs the same query with `sql`, with DuckDB alone and with pandas, each in
a separate process, and compares times, memory and results.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from processes import measure

QUESTION = (
    "select allocator, sum(pages)::bigint as pages from records where allocated "
    "group by allocator order by pages desc, allocator"
)
_BARE = """
import duckdb, json
duckdb.sql("set enable_progress_bar = false")
rows = duckdb.sql({question!r}.replace("from records",
    "from read_parquet('{dataset}/records/*/*/*.parquet')")).fetchall()
print(json.dumps(rows))
"""
_PANDAS = """
import json, pandas
frame = pandas.read_parquet("{dataset}/records", columns=["allocator", "allocated", "pages"])
pages = frame[frame.allocated].groupby("allocator", dropna=False).pages.sum().reset_index()
rows = [(None if pandas.isna(name) else name, int(number)) for name, number in pages.values]
print(json.dumps(sorted(rows, key=lambda row: (-row[1], row[0] is None, row[0]))))
"""


def make(where: str, real: str, snapshots: int, records: int, seed: int) -> None:
    """Write *snapshots* made of the real ones to the dataset *where*."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from drgn_pageowner.storage.dataset import Dataset, Partition

    source, target = Dataset(real), Dataset(where)
    files = source.tables()
    by_id: dict[str, dict[str, Any]] = {}
    for table, paths in files.items():
        for path in paths:
            if table != "runs":
                id_ = Path(path).stem
                by_id.setdefault(id_, {})[table] = pq.ParquetFile(source.place.path(path)).read()
    usable = [
        tables
        for tables in by_id.values()
        if "records" in tables and len(tables["records"]) >= 1000
    ]
    choose, first = random.Random(seed), datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(snapshots):
        tables = usable[number % len(usable)]
        id_, host = f"{choose.getrandbits(64):016x}", f"web{number // 4:05}"
        when = first + timedelta(seconds=choose.randrange(90 * 86400))
        made = {}
        for name, table in tables.items():
            if name == "records":
                rows = np.random.default_rng(number).choice(
                    len(table), records, replace=len(table) < records
                )
                table = table.take(pa.array(np.sort(rows)))
            table = table.set_column(
                table.column_names.index("snapshot"), "snapshot", pa.array([id_] * len(table))
            )
            if name == "meta":
                for column, value in (("hostname", host), ("crash_time", when)):
                    place = table.column_names.index(column)
                    kind = table.schema.field(column).type
                    table = table.set_column(place, column, pa.array([value], kind))
            made[name] = table
        release = tables["meta"].column("release")[0].as_py()
        target.write(made, Partition(release, when.strftime("%Y-%m-%d")), id_)


def ask(where: str, question: str, *, pandas: bool) -> int:
    """Compare `sql` with DuckDB alone and with pandas; return 1 if their answers differ."""
    python = sys.executable
    ours = [python, "-m", "drgn_pageowner", "-S", where, "sql", "--format", "json", question]
    runs = {
        "sql": ours,
        "DuckDB alone": [python, "-c", _BARE.format(question=question, dataset=where)],
    }
    if pandas:
        runs["pandas"] = [python, "-c", _PANDAS.format(dataset=where)]
    answers = {}
    for name, command in runs.items():
        cost = measure(command, output=True)
        if name == "sql":
            rows = [list(json.loads(line).values()) for line in cost.output.splitlines()]
        else:
            rows = json.loads(cost.output)
        answers[name] = sorted(map(tuple, rows), key=str)
        spent = f"{cost.seconds:6.2f} s {cost.cpu:6.2f} s of CPU {cost.peak / 2**20:7.0f} MB"
        print(f"{name:14} {spent} {len(rows):5} rows")
    same = all(rows == answers["sql"] for rows in answers.values())
    print("all have the same numbers" if same else "THE NUMBERS DIFFER")
    return 0 if same else 1


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("dataset")
    one.add_argument("--of", required=True)
    one.add_argument("--snapshots", type=int, default=1000)
    one.add_argument("--records", type=int, default=27000)
    one.add_argument("--seed", type=int, default=0)
    two = commands.add_parser("ask")
    two.add_argument("dataset")
    two.add_argument("--question", default=QUESTION)
    two.add_argument("--no-pandas", action="store_true")
    args = parser.parse_args()
    if args.command == "make":
        make(args.dataset, args.of, args.snapshots, args.records, args.seed)
        return 0
    return ask(args.dataset, args.question, pandas=not args.no_pandas)


if __name__ == "__main__":
    sys.exit(main())
