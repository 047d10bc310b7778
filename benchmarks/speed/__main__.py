"""`python -m benchmarks.speed`, see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import benchmarks.speed as package
from benchmarks.speed import growth, passes, ranks, report, scoring, seeds, training
from benchmarks.speed.setting import Setting

SECTIONS = {
    "training": training.measured,
    "curves": training.curves,
    "seeds": seeds.measured,
    "scoring": scoring.measured,
    "growth": growth.measured,
    "ranks": ranks.measured,
    "passes": passes.measured,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.speed"
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder for tables (kept) and runs")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of: %(default)s")
    parser.add_argument("--methods", default="", help="only methods whose name holds one of these: a;b")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that holds keras, ray, pyspark")
    parser.add_argument("--repeats", type=int, default=Setting.repeats)
    parser.add_argument("--epochs", type=int, default=Setting.epochs)
    parser.add_argument("--rows", type=_count, default=Setting.rows, help="of the table of 64 columns, such as 1M")
    parser.add_argument("--growth-rows", type=_counts, default=Setting.growth_rows, help="such as 0.2M,1M,5M,20M")
    parser.add_argument("--growth-columns", type=_counts, default=Setting.growth_columns)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    sections = given.only.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]}: choose from {', '.join(SECTIONS)}")
    setting = Setting(
        given.scratch.resolve(),
        given.rows,
        repeats=given.repeats,
        epochs=given.epochs,
        peer_python=given.peer_python,
        methods=tuple(filter(None, given.methods.split(";"))),
        growth_rows=given.growth_rows,
        growth_columns=given.growth_columns,
    )
    setting.scratch.mkdir(parents=True, exist_ok=True)
    for name in sections:
        measured = list(SECTIONS[name](setting))
        if not measured:
            parser.error(f"no method of section {name} has a name that holds {given.methods!r}")
        report.write({name: measured}, given.out)


def _count(text: str) -> int:
    """1M is 1,000,000."""
    return int(float(text[:-1]) * 1_000_000) if text.endswith("M") else int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


if __name__ == "__main__":
    main()
