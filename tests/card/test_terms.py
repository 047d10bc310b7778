import numpy as np
import pyarrow as pa

from aemodel.bundle import Bundle
from aemodel.card.terms import terms
from tests import tables


def test_every_dimension_of_the_linear_space_has_its_name(mixed_bundle: Bundle) -> None:
    transform = mixed_bundle.transform
    found = terms(transform)
    assert [transform.layout.columns[c] for c in transform.layout.column_of_dimension()] == [t.input for t in found]
    texts = [t.text for t in found]
    assert len(set(texts)) == len(texts)
    assert {"amount", "amount=(missing)", "flag", "profile[2]", "seen", "seen.day_sin", "clock.year_cos"} < set(texts)
    assert {"carrier=(missing)", "carrier=(other)", "carrier=WN"} < set(texts)


def test_a_level_s_name_is_that_of_the_dimension_that_it_switches_on() -> None:
    transform = tables.transform_of(pa.table({"c": ["b"] * 30 + ["a"] * 20, "n": np.arange(50.0)}))
    texts = [t.text for t in terms(transform)]
    shares = transform.layout.center[[texts.index("c=a"), texts.index("c=b")]]
    np.testing.assert_allclose(shares, [0.4, 0.6])
