import numpy as np
import pytest
import torch

from aemodel.bundle import Bundle
from aemodel.card.traversal import LISTED_CHANGES, traversals
from aemodel.model import Batch
from tests import tables


@pytest.fixture(scope="module")
def changes(mixed_bundle: Bundle) -> dict[str, object]:
    rows = tables.plain(tables.mixed())
    with torch.inference_mode():
        features = mixed_bundle.model.encode(Batch.of(mixed_bundle.transform.apply_all(rows))).numpy()
        found = traversals(mixed_bundle, features)
    assert len(found) == features.shape[1] and all(len(c) <= LISTED_CHANGES for c in found)
    return {c.term: c for latent in reversed(found) for c in latent}


def test_numbers_move_in_their_own_units_and_whole_ones_are_told_whole(changes) -> None:  # type: ignore[no-untyped-def]
    amount, count = changes["amount"], changes["count"]
    assert float(amount.high) - float(amount.low) == pytest.approx(amount.change, rel=1e-3)
    assert 50 < abs(amount.change) < 2_000
    assert float(count.low).is_integer() and "." not in count.low


def test_levels_and_booleans_move_in_shares(changes) -> None:  # type: ignore[no-untyped-def]
    level = next(c for term, c in changes.items() if term.startswith("carrier="))
    for change in (level, changes["flag"]):
        assert change.low.endswith("%") and -1 <= change.change <= 1
        assert int(change.high[:-1]) - int(change.low[:-1]) == pytest.approx(100 * change.change, abs=1.01)


def test_times_move_in_days_and_are_told_as_the_column_tells_them(changes) -> None:  # type: ignore[no-untyped-def]
    day, clock = changes["day"], changes["clock"]
    days = (np.datetime64(day.high) - np.datetime64(day.low)).astype(int)
    assert days == pytest.approx(day.change, abs=1)
    assert len(clock.low) == len("08:30:00") and abs(clock.change) < 1


def test_a_vector_moves_as_one(changes) -> None:  # type: ignore[no-untyped-def]
    assert changes["profile"].low.startswith("[") and changes["profile"].change > 0
