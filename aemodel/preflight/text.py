"""Findings for people: a few lines."""

from __future__ import annotations

from collections.abc import Sequence

from aemodel.errors import plain
from aemodel.layout import FIRST_LEVEL, LINEAR_LEVELS
from aemodel.preflight.findings import Advice, Findings
from aemodel.preflight.limits import size_text

#: Row groups that are named; the rest are counted.
NAMED = 3


def rendered(found: Findings) -> str:
    """What a run would meet: the table, its row groups, memory, schedule, seconds."""
    shape, expected = found.shape, found.estimate
    mine = size_text(found.allowed_bytes)
    lines = ["", f"  job        {found.name}, {plain(found.uri)}"]
    lines.append(
        f"  table      {shape.rows:,} rows, {_count(found.files, 'file')}, {_count(shape.groups, 'row group')}, "
        f"{size_text(found.compressed_bytes)} compressed, {size_text(shape.decoded_bytes)} decoded"
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds)
    lines.append(f"  inputs     {_count(shape.columns, 'column')} ({kinds}) in about {shape.width:,} dimensions")
    lines += _open_questions(found)
    lines += _groups(found.too_large, "too large", found.good_rows) + _groups(
        found.too_small, "too small", found.good_rows
    )
    verdict = f"of {mine}" if found.fits else f"MORE THAN THE {mine} THERE ARE"
    parts = {"preparing": expected.prepare_bytes, "training": expected.train_bytes, "scoring": expected.score_bytes}
    lines.append(f"  memory     {', '.join(f'{k} {size_text(v)}' for k, v in parts.items())}, {verdict}")
    lines.append(
        f"  training   batches of {shape.batch_size * shape.ranks:,}, {shape.steps_per_epoch:,} steps an epoch, "
        f"at most {_count(shape.max_epochs, 'epoch')}; {_count(shape.ranks, 'rank')}: {found.devices}"
    )
    lines += [
        "",
        f"  start      {_seconds(expected.start)}",
        f"  prepare    {_seconds(expected.prepare):<6}  (statistics and Gram matrix)",
        f"  train      {_seconds(expected.train):<6}  (an epoch {_seconds(expected.epoch)}, "
        f"the first {_seconds(expected.first_epoch)}; early stopping may end it sooner)",
        f"  evaluate   {_seconds(expected.evaluate):<6}  (with registration and report)",
        f"  score      {_seconds(expected.score)}",
        f"  in all     {_seconds(expected.total):<6}  (within a factor of 1.5, if the machine stays as busy as now)",
    ]
    return "\n".join([*lines, ""])


def _open_questions(found: Findings) -> list[str]:
    lines = []
    if found.unknown_levels:
        most = LINEAR_LEVELS + FIRST_LEVEL
        lines.append(
            f"             {_count(found.unknown_levels, 'categorical column')} without a dictionary: "
            f"taken to be {most} dimensions each, the most there are"
        )
    if found.left_out:
        names = ", ".join(plain(n, 30) for n in found.left_out[:6])
        more = f" and {len(found.left_out) - 6} more" if len(found.left_out) > 6 else ""
        lines.append(f"             no inputs: {names}{more}")
    return lines


def _groups(advice: Sequence[Advice], what: str, good_rows: int) -> list[str]:
    if not advice:
        return []
    lines = [f"  {what}  {_count(len(advice), 'row group')}; write them with about {good_rows:,} rows each"]
    lines += [f"             {plain(a.path, 50)}, row group {a.row_group}: {a.reason}" for a in advice[:NAMED]]
    rest = len(advice) - NAMED
    return lines + ([f"             and {rest:,} more"] if rest > 0 else [])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"
