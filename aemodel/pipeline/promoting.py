"""Promotion and roll-back by hand: which version the job's alias names, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aemodel.config import Job
from aemodel.errors import JobError, NoVersion, RegistryError, shown
from aemodel.registry import PREVIOUS_TAG, PROMOTED_TAG, ROLLED_BACK_TAG, Registry, Version


@dataclass(frozen=True)
class Promotion:
    """The alias named `before` and now names `version`; `before` is None if it named none."""

    model: str
    alias: str
    version: str
    before: str | None


def promote(job: Job, work: Path, number: str, reason: str) -> Promotion:
    """Point the job's alias at a version, whatever the gate said of it.

    The one that it named is marked, and no later run promotes that again. Raises JobError, NoVersion or RegistryError.
    """
    _check(reason)
    registry, version = Registry(job.registry, work), Version(job.name, number)
    with registry.promotions:
        known = registry.numbers_of(job.name)
        if number not in known:
            there = f"it has {_listed(known)}" if known else "it has none: train one first"
            raise NoVersion(f"{shown(job.name)} has no version {shown(number)} to promote; {there}")
        before = registry.resolve(job.name, job.registry.alias)
        if before is not None and before.number == number:
            raise NoVersion(f"version {number} of {shown(job.name)} has the alias {shown(job.registry.alias)} already")
        marks = [(version, {PROMOTED_TAG: reason, ROLLED_BACK_TAG: ""})]
        marks += [(before, {ROLLED_BACK_TAG: reason})] if before else []
        return _moved(registry, job, version, before, marks)


def rollback(job: Job, work: Path, reason: str) -> Promotion:
    """Point the job's alias back at the version that the present one took over from.

    The present one is marked, and no later run promotes it again. Raises JobError, NoVersion or RegistryError.
    """
    _check(reason)
    registry = Registry(job.registry, work)
    with registry.promotions:
        present = registry.resolve(job.name, job.registry.alias)
        if present is None:
            raise NoVersion(
                f"no version of {shown(job.name)} has the alias {shown(job.registry.alias)}: nothing to roll back"
            )
        earlier = registry.tags_of(present).get(PREVIOUS_TAG)
        if not earlier:
            raise NoVersion(
                f"version {present.number} of {shown(job.name)} took over from none: promote another one instead"
            )
        version = Version(job.name, earlier)
        way_back = registry.tags_of(version).get(PREVIOUS_TAG, "")
        marks = [(present, {ROLLED_BACK_TAG: reason}), (version, {ROLLED_BACK_TAG: ""})]
        moved = _moved(registry, job, version, present, marks)
        registry.set_tags(version, {PREVIOUS_TAG: way_back})  # its own predecessor, not the one just left
        return moved


def _moved(
    registry: Registry,
    job: Job,
    version: Version,
    before: Version | None,
    marks: Sequence[tuple[Version, dict[str, str]]],
) -> Promotion:
    """The versions are marked first: one that is left and killed over it must not be promoted by the next run. Where
    another machine moved the alias, the marks are taken back."""
    earlier = [(v, {name: registry.tags_of(v).get(name, "") for name in tags}) for v, tags in marks]
    for marked, tags in marks:
        registry.set_tags(marked, tags)
    if not registry.promote(version, before):
        for marked, tags in earlier:
            registry.set_tags(marked, tags)
        raise RegistryError(f"another run moved the alias {shown(job.registry.alias)} meanwhile; look, and try again")
    return Promotion(job.name, job.registry.alias, version.number, before.number if before else None)


def _check(reason: str) -> None:
    if not reason.strip():
        raise JobError("--reason is empty: say why in a few words; it is kept as a tag of the version")


def _listed(numbers: Sequence[str]) -> str:
    return ", ".join(numbers[:8]) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
