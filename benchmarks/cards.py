"""Whether the names on the latent cards are true of rows that they were not made from.

    python -m benchmarks.cards --data FOLDER [--tables adult,flights] [--jobs 2]

A term such as `+age` is true if the tenth of the rows at the high end of the feature column has more of it than the
tenth at the low end. Rows are the test rows of `benchmarks.features`, which nothing was fitted on; one seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aemodel import card
from aemodel.card.terms import Term, terms
from aemodel.columns import OutputColumns
from benchmarks.features import Sample
from benchmarks.results import as_markdown, machine
from benchmarks.tables import TABLES, Data

END = 0.1


def stated(name: str, named: Sequence[Term]) -> Iterator[tuple[int, int]]:
    """The dimension and the sign of every term of a name; a level may hold blanks and signs itself."""
    while name and name != card.NONLINEAR:
        sign, rest = (1 if name[0] == "+" else -1), name[1:]
        fitting = [d for d, t in enumerate(named) if rest == t.text or rest.startswith((f"{t.text} +", f"{t.text} −"))]
        dimension = max(fitting, key=lambda d: len(named[d].text))
        yield dimension, sign
        name = rest[len(named[dimension].text) :].lstrip()


def holds(values: np.ndarray, feature: np.ndarray, sign: int) -> bool:
    """Whether `values` (rows,) differ between the ends of `feature` (rows,) as `sign` says."""
    order, end = np.argsort(feature, kind="stable"), max(1, round(END * len(feature)))
    return bool(sign * (values[order[-end:]].mean() - values[order[:end]].mean()) > 0)


def of_table(root: Path, name: str) -> pd.DataFrame:
    """One row a term: feature column, its name, the term, whether it holds."""
    torch.set_num_threads(1)
    data = Data.load(root, name)
    sample = Sample.trained(data, data.job(), 0)
    bundle, prepared = sample.learned.bundle, sample.learned.prepared
    columns, named = OutputColumns("ae_", bundle.model.latent_dim), terms(bundle.transform)
    with torch.inference_mode():
        features, x = bundle.model.encode(sample.test).numpy(), bundle.model.linear(sample.test)[0].numpy()
    rows = []
    for j, one in enumerate(card.cards(bundle, prepared.held_out, columns)):
        told = [(named[d].text, holds(x[:, d], features[:, j], sign)) for d, sign in stated(one.name, named)]
        for term, true in told or [(None, None)]:
            rows.append({"table": name, "column": one.column, "name": one.name, "term": term, "holds": true})
            print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def write(found: pd.DataFrame, folder: Path) -> None:
    """`cards.parquet` and `cards.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_parquet(folder / "cards.parquet", index=False)
    by_table = found.groupby("table", sort=False)
    told = pd.DataFrame(
        {
            "columns": by_table["column"].nunique(),
            "named": found[found["term"].notna()].groupby("table", sort=False)["column"].nunique(),
            "terms": by_table["term"].count(),
            "hold": by_table["holds"].sum().astype(int),
        }
    ).reset_index()
    false = found[found["holds"].eq(False)]
    text = [f"# Latent cards\n\n{machine()}. Names on rows that nothing was fitted on.\n", as_markdown(told)]
    text += [f"- {row.table}, {row.column}: {row.term} does not hold in {row.name}" for row in false.itertuples()]
    (folder / "cards.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--jobs", type=int, default=1, help="tables at a time, each in a process with one thread")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        write(pd.concat(list(pool.map(partial(of_table, given.data), given.tables.split(",")))), given.out)


if __name__ == "__main__":
    main()
