from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aemodel.errors import BundleError
from aemodel.membership import Membership
from aemodel.prepared import Prepared
from aemodel.snapshot import Snapshot


def _flags(known: Membership, snapshot: Snapshot) -> np.ndarray:
    found = []
    for index, fragment in enumerate(snapshot.fragments):
        for group in range(len(fragment.row_groups)):
            begin = 0
            for batch in snapshot.read(index, group, snapshot.schema.names):
                found.append(known.in_training(batch, fragment, group, begin))
                begin += batch.num_rows
    return np.concatenate(found)


def test_the_rows_of_the_pinned_files_that_were_not_held_out_were_trained_on(
    mixed_prepared: Prepared, mixed_snapshot: Snapshot, tmp_path: Path
) -> None:
    Membership.of(mixed_prepared.split, mixed_snapshot).save(tmp_path / "training.json")
    flags = _flags(Membership.load(tmp_path / "training.json"), mixed_snapshot)
    assert flags.sum() == mixed_prepared.num_training and len(flags) == mixed_snapshot.num_rows


def test_rows_of_a_file_that_was_not_there_or_that_tells_too_little_were_not(
    mixed_prepared: Prepared, mixed_snapshot: Snapshot
) -> None:
    first = replace(mixed_snapshot, fragments=mixed_snapshot.fragments[:1])
    known = Membership.of(mixed_prepared.split, first)
    flags = _flags(known, mixed_snapshot)
    assert flags[: first.num_rows].any() and not flags[first.num_rows :].any()
    batch = next(mixed_snapshot.read(0, 0, ["price"]))
    assert not known.in_training(batch, mixed_snapshot.fragments[0], 0, 0).any()


def test_files_that_are_gone_or_changed_are_noticed(mixed_prepared: Prepared, mixed_snapshot: Snapshot) -> None:
    first = replace(mixed_snapshot, fragments=mixed_snapshot.fragments[:1])
    assert Membership.of(mixed_prepared.split, first).unchanged_in(mixed_snapshot)
    assert not Membership.of(mixed_prepared.split, mixed_snapshot).unchanged_in(first)


def test_a_version_that_went_on_from_another_was_trained_on_that_one_s_rows_too(
    mixed_prepared: Prepared, mixed_snapshot: Snapshot, tmp_path: Path
) -> None:
    split = mixed_prepared.split
    first, rest = (replace(mixed_snapshot, fragments=mixed_snapshot.fragments[s]) for s in (slice(1), slice(1, None)))
    alone = _flags(Membership.of(split, rest), mixed_snapshot)
    assert not alone[: first.num_rows].any()
    for earlier in (split, replace(split, holdout=split.holdout * 2)):
        Membership.of(split, rest, Membership.of(earlier, first)).save(tmp_path / "training.json")
        known = Membership.load(tmp_path / "training.json")
        flags = _flags(known, mixed_snapshot)
        assert (flags[first.num_rows :] == alone[first.num_rows :]).all()
        assert flags[: first.num_rows].sum() == _flags(Membership.of(earlier, first), first).sum() > 0
        assert (known.parent is None) == (earlier == split)


def test_a_version_that_does_not_say_what_it_was_trained_on_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"training\.json' is missing: the version was not registered whole"):
        Membership.load(tmp_path / "training.json")
