"""The step that measures what was trained, registers it once, and lets the gate decide what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel import bundle, card, cells
from aemodel import contract as contracts
from aemodel.bundle import Bundle
from aemodel.columns import OutputColumns
from aemodel.config import Job
from aemodel.contract import Contract
from aemodel.errors import BundleFormatError, NoVersion, TrainingError
from aemodel.evaluation import ENOUGH_ROWS, Evaluation, Label, evaluate, measure, probed, shared_r2
from aemodel.files import read_state, write_json
from aemodel.gate import Comparison, Verdict, decide, refused
from aemodel.kept import LATENTS, Kept
from aemodel.layout import EncodedRows
from aemodel.membership import Membership
from aemodel.pipeline.learning import mlflow_run
from aemodel.pipeline.references import MEMBERSHIP, SNAPSHOT, RegisteredVersion, TrainedRun, locked
from aemodel.prepared import Prepared
from aemodel.registry import BEHIND_TAG, PROMOTED_TAG, ROLLED_BACK_TAG, Registry, Version
from aemodel.release import Lineage
from aemodel.schema import Column
from aemodel.snapshot import Snapshot
from aemodel.split import Split


@dataclass(frozen=True)
class _Trained:
    """What a run has trained, and its feature columns of the run's held-out rows and of its anchors."""

    bundle: Bundle
    prepared: Prepared
    evaluation: Evaluation
    held_out: np.ndarray


@dataclass(frozen=True)
class _Champion:
    """The version that the alias names while this run is judged, and how it compares; no `comparison` where its network
    cannot be read any more, or there are no rows that both held out."""

    version: Version
    digest: str
    kept: Kept
    origins: tuple[str, ...]
    comparison: Comparison | None
    r: tuple[float, ...]


def evaluate_and_register(run: TrainedRun, job: Job, work: Path) -> RegisteredVersion:
    """Measure on the held-out rows, let the gate decide, register the version once, promote it if it passed.

    The champion itself is not judged again: what it was compared with is what it took over from.
    """
    folder, registry = Path(run.folder), Registry(job.registry, work)
    with locked(folder):
        own, alias = registry.version_of(job.name, run.key), registry.resolve(job.name, job.registry.alias)
        run_id = mlflow_run(run.key, folder, job, registry)
        if own is not None and own == alias and (folder / "verdict.json").exists():
            registry.finish(run_id)
            return as_judged(run, job, work)
        trained = _measured(folder)
        write_json(folder / "evaluation.json", trained.evaluation.to_json())
        latents = _cards(trained, job.output.prefix)
        pq.write_table(latents, folder / LATENTS)
        champion = _compared(trained, registry, alias) if alias is not None and alias != own else None
        if own is None:
            _kept(trained, champion, latents).save(folder / "kept")
            _membership(trained, folder).save(folder / "kept" / MEMBERSHIP)
        version = registry.register(run_id, job.name, run.key, trained.bundle, folder, job.output, _tags(trained))
        verdict, contract = _judged(job, registry, folder, trained, champion, version)
        write_json(folder / "verdict.json", asdict(verdict))
        comparison = champion.comparison if champion else None
        behind = {BEHIND_TAG: f"{comparison.left_behind:.6f}"} if comparison else {}
        registry.set_tags(version, _verdict_tags(verdict) | contract.to_tags() | behind)
        figures = _figures(trained.evaluation)
        registry.log_metrics(run_id, [(name, value, 0) for name, value in figures.items()])
        if verdict.passed and not registry.promote(version, alias):
            raise TrainingError(
                f"another run moved the alias {job.registry.alias!r} meanwhile; run again to compare with it"
            )
        if not verdict.passed:
            registry.challenge(version)
        registry.finish(run_id)
    training_rows = trained.prepared.held_out_is_training
    return _registered(run, job, version, verdict, trained.evaluation, training_rows, verdict.passed)


def as_judged(run: TrainedRun, job: Job, work: Path) -> RegisteredVersion:
    """The version of a run that was judged before, as it was then; nothing is judged, tagged or promoted."""
    folder, registry = Path(run.folder), Registry(job.registry, work)
    version = registry.version_of(job.name, run.key)
    if version is None:
        raise NoVersion(f"the run {folder.name} has no version in the registry any more: run or train it again")
    found, verdict = (
        Evaluation.from_json(read_state(folder / "evaluation.json")),
        Verdict.from_json(read_state(folder / "verdict.json")),
    )
    training_rows = Prepared.load(folder / "prepared").held_out_is_training
    promoted = registry.resolve(job.name, job.registry.alias) == version
    if promoted and not verdict.passed:
        by_hand = registry.tags_of(version).get(PROMOTED_TAG, "")
        verdict = Verdict((), (f"promoted by hand ({by_hand}) though the gate refused it",))
    return _registered(run, job, version, verdict, found, training_rows, promoted)


def _registered(
    run: TrainedRun,
    job: Job,
    version: Version,
    verdict: Verdict,
    found: Evaluation,
    held_out_is_training: bool,
    promoted: bool,
) -> RegisteredVersion:
    return RegisteredVersion(
        run.folder,
        run.key,
        version.name,
        version.number,
        version.run_id,
        verdict.passed,
        verdict.reasons if verdict.rules else verdict.notes,
        job.registry.alias if promoted else None,
        found.r2,
        found.r2_pca,
        held_out_is_training,
    )


def _membership(trained: _Trained, folder: Path) -> Membership:
    lineage = Lineage.load(folder / "lineage.json")
    goes_on = lineage is not None and lineage.cold is None
    parent = Membership.load(folder / "champion" / "kept" / MEMBERSHIP) if goes_on else None
    return Membership.of(trained.prepared.split, Snapshot.load(folder / SNAPSHOT), parent)


def _measured(folder: Path) -> _Trained:
    trained, prepared = bundle.load(folder / "bundle"), Prepared.load(folder / "prepared")
    apply = trained.transform.apply_all
    found, learned = evaluate(
        trained, prepared.pca, apply(prepared.held_out), apply(prepared.anchors), _label(prepared, prepared.held_out)
    )
    return _Trained(trained, prepared, found, learned.features)


def _label(prepared: Prepared, *tables: pa.Table) -> Label | None:
    """The label of all rows of the tables, where each of them has it, of the type it has now or of one that can be
    read so."""
    name = prepared.schema.label
    if name is None or any(name not in t.column_names for t in tables):
        return None
    type_ = tables[-1].schema.field(name).type
    try:
        return Label(name, pa.concat_arrays([t.column(name).combine_chunks().cast(type_) for t in tables]))
    except pa.ArrowException:  # such as yes and no that have become 1 and 0: no label that both have
        return None


def _compared(trained: _Trained, registry: Registry, version: Version) -> _Champion:
    """What became of the champion's columns, and both on the rows that both runs held out."""
    source, tags = registry.fetch(version), registry.tags_of(version)
    kept, before = Kept.load(source / "kept"), Contract.from_tags(tags)
    origins = before.origins if before else (version.number,) * kept.reference.shape[1]
    on_anchors = measure(trained.bundle, trained.bundle.transform.apply_all(kept.anchors)).features
    r = contracts.same_place(kept.reference, on_anchors)
    try:
        champion = bundle.load(source / "bundle")
    except BundleFormatError:
        return _Champion(version, tags.get("aemodel.bundle", ""), kept, origins, None, r)
    if trained.evaluation.rows >= ENOUGH_ROWS:
        theirs = measure(champion, champion.transform.apply_all(trained.prepared.held_out)).features
        r = tuple(np.minimum(r, contracts.same_place(theirs, trained.held_out)).tolist())
    tables = _both_held_out(trained.prepared, kept, Membership.load(source / "kept" / MEMBERSHIP).split)
    behind = 0.0 if PROMOTED_TAG in tags else float(tags.get(BEHIND_TAG, 0))  # a person's choice is a new beginning
    comparison = _comparison(trained, champion, version.number, tables, behind) if tables else None
    return _Champion(version, champion.digest, kept, origins, comparison, r)


def _comparison(
    trained: _Trained, champion: Bundle, version: str, tables: Sequence[pa.Table], behind: float
) -> Comparison:
    mine, theirs = (
        measure(b, EncodedRows.concatenated([b.transform.apply_all(t) for t in tables]))
        for b in (trained.bundle, champion)
    )
    r2, r2_champion, columns = shared_r2(
        dict(zip(trained.bundle.input_columns, mine.r2.tolist(), strict=True)),
        dict(zip(champion.input_columns, theirs.r2.tolist(), strict=True)),
    )
    label = _label(trained.prepared, *tables)
    probe = probed(label, mine.features, theirs.features) if label else None
    rows = sum(t.num_rows for t in tables)
    return Comparison(version, rows, columns, r2, r2_champion, probe, behind)


def _both_held_out(prepared: Prepared, kept: Kept, before: Split) -> list[pa.Table]:
    """The champion's held-out rows that this run would hold out too, and this run's that the champion's split `before`
    holds out too; none where that cannot be said."""
    if prepared.held_out_is_training:
        return []
    if prepared.split.by == before.by == "place":  # the same rows of the same files, if no more of them
        return [prepared.held_out] if prepared.split.holdout <= before.holdout else []
    kept_rows, rows = _held_out_by(prepared.split, kept.held_out), _held_out_by(before, prepared.held_out)
    return [t for t in (kept_rows, _not_among(kept_rows, rows, prepared.schema.inputs)) if t.num_rows]


def _not_among(known: pa.Table, rows: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The rows less those that are known: the same data may have been pinned again."""
    shared = [c for c in columns if c.name in known.column_names and c.name in rows.column_names]
    shared = [c for c in shared if known.schema.field(c.name).type == rows.schema.field(c.name).type]
    if not known.num_rows or not rows.num_rows or not shared:
        return rows
    seen, found = (cells.row_hash([c.cells(t.column(c.name).combine_chunks()) for c in shared]) for t in (known, rows))
    return rows.filter(pa.array(~np.isin(found, seen)))


def _held_out_by(split: Split, rows: pa.Table) -> pa.Table:
    types = {(field.name, str(field.type)) for field in rows.schema}
    if split.by == "place" or not all((c.name, c.type) in types for c in split.columns):
        return rows.slice(0, 0)
    held = [split.held_out(batch) for batch in rows.combine_chunks().to_batches()]
    return rows.filter(pa.array(np.concatenate(held))) if held else rows


def _cards(trained: _Trained, prefix: str) -> pa.Table:
    """What a person can read about each feature column."""
    columns = OutputColumns(prefix, trained.bundle.model.latent_dim)
    schema, held_out = trained.prepared.schema, trained.prepared.held_out
    told = {*schema.names, *schema.keys, schema.label}  # not what was left out of the inputs after it was read
    rows = held_out.select([n for n in held_out.column_names if n in told])
    return card.as_table(card.cards(trained.bundle, rows, columns))


def _kept(trained: _Trained, champion: _Champion | None, latents: pa.Table) -> Kept:
    """Anchors stay those of the first version as long as one of its columns goes on; a column that means something
    else gets a new reference."""
    held_out = Kept.sampled(trained.prepared.held_out)
    anchors = trained.prepared.anchors if champion is None or not _going_on(champion) else champion.kept.anchors
    reference = measure(trained.bundle, trained.bundle.transform.apply_all(anchors)).features
    if champion is not None:
        for i in _going_on(champion):
            reference[:, i] = champion.kept.reference[:, i]
    return Kept(anchors, reference, held_out, latents)


def _going_on(champion: _Champion) -> list[int]:
    return [i for i, r in enumerate(champion.r) if r >= contracts.WARNED]


def _judged(
    job: Job, registry: Registry, folder: Path, trained: _Trained, champion: _Champion | None, version: Version
) -> tuple[Verdict, Contract]:
    """The gate's verdict, and what became of the champion's columns."""
    tags, k = registry.tags_of(version), trained.bundle.model.latent_dim
    known = Contract.from_tags(tags) or contracts.first(version.number, k)
    if rolled_back := tags.get(ROLLED_BACK_TAG):
        reason = f"version {version.number} was rolled back by hand ({rolled_back}): promote it by hand"
        return refused(reason), known
    rows = 0 if trained.prepared.held_out_is_training else trained.evaluation.rows
    found = replace(trained.evaluation, rows=rows)
    if champion is None:
        return decide(job.gate, found), known
    lineage = Lineage.load(folder / "lineage.json")
    cold = lineage.cold if lineage else "there was no champion yet"
    contract = contracts.compared(
        version.number, k, champion.r, champion.version.number, champion.digest, champion.origins, cold
    )
    return decide(job.gate, found, champion.comparison, contract), contract


def _tags(trained: _Trained) -> dict[str, str]:
    tags = {f"aemodel.{k}": str(v) for k, v in vars(trained.bundle.provenance).items()}
    found = trained.evaluation
    return tags | {
        "aemodel.bundle": trained.bundle.digest,
        "aemodel.r2": f"{found.r2:.6f}",
        "aemodel.r2_pca": f"{found.r2_pca:.6f}",
    }


def _verdict_tags(verdict: Verdict) -> dict[str, str]:
    """The verdict, and each rule by its name with the figures."""
    tags = {"aemodel.gate": verdict.text[:4_000], "aemodel.gate.notes": "; ".join(verdict.notes)[:4_000]}
    for rule in verdict.rules:
        name = rule.name.replace(" ", "_").replace("²", "2")
        tags[f"aemodel.gate.{name}"] = f"{'passed' if rule.passed else 'failed'}: {rule.figures}"[:4_000]
    return tags


def _figures(found: Evaluation) -> dict[str, float]:
    figures = {"r2": found.r2, "r2_pca": found.r2_pca, "effective_rank": found.latents.effective_rank}
    if found.probe is not None:
        figures |= {"probe": found.probe.score, "probe_pca": found.probe.compared}
    return figures
