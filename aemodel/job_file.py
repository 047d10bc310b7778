"""The job file: YAML, and environment variables over it, into a `Job`; what is wrong with it, told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from aemodel.config import ENVIRONMENT_PREFIX, WORK_DIR_VARIABLE, ColumnJob, Job
from aemodel.errors import JobError, nearest, shown


def load_job(path: Path, environment: Mapping[str, str] | None = None) -> Job:
    """Read a job file, with `AEMODEL_SECTION__KEY` variables laid over it. Raises JobError naming the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"no job file {shown(path)}: give the path of a YAML job file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text in UTF-8: save it as such" if isinstance(error, UnicodeDecodeError) else error.strerror
        reason = "it is a folder: give the path of a YAML job file" if isinstance(error, IsADirectoryError) else reason
        raise JobError(f"the job file {shown(path)} cannot be read: {reason}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except RecursionError:
        raise JobError(f"{path}: it is nested too deeply to be a job; mend the YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise JobError(f"{path}{where}: {problem}; mend the YAML") from None
    if not isinstance(data, dict):
        raise JobError(f"{path}: a job file is a mapping with at least `dataset: {{uri: …}}`")
    return parse_job(data, str(path), os.environ if environment is None else environment)


def parse_job(data: Mapping[str, Any], where: str, environment: Mapping[str, str] | None = None) -> Job:
    """A mapping, as read from YAML or given by a flow, into a Job. Raises JobError."""
    try:
        return Job.model_validate(_overlaid(data, environment or {}))
    except ValidationError as error:
        told = _worth_telling(error.errors())
        raise JobError("; ".join(_explain(e, where) for e in told[:3])) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later key silently win over an earlier one of the same name; a job file must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _overlaid(data: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """`data` with `AEMODEL_TRAINING__MAX_EPOCHS=3` laid over as training.max_epochs."""
    merged = dict(data)
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == WORK_DIR_VARIABLE:
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if path[0] not in Job.model_fields:
            raise JobError(f"environment variable {variable}: no such section; {nearest(path[0], Job.model_fields)}")
        target = merged
        for step in path[:-1]:
            inner = target.get(step)
            target[step] = dict(inner) if isinstance(inner, dict) else {}
            target = target[step]
        try:
            target[path[-1]] = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            target[path[-1]] = text
    return merged


def _worth_telling(errors: Sequence[Any]) -> list[Any]:
    """Pydantic's errors less those that follow from others: of each key the first; no missing section where an
    unknown one may be meant; no missing name, which is taken from the dataset."""
    unknown = any(e["type"] == "extra_forbidden" and len(e["loc"]) == 1 for e in errors)
    first: dict[str, Any] = {}
    for error in errors:
        follows = error["type"] == "missing" and len(error["loc"]) == 1 and (unknown or error["loc"] == ("name",))
        if follows:
            continue
        known = first.setdefault(".".join(_path(error)), error)
        if known is not error and error["type"] == "literal_error":  # the other alternative of a union, as 'auto'
            known["msg"] += f", or {error['ctx']['expected']}"
    return list(first.values())


#: What pydantic puts behind a key that may be one of several; under `columns` it is a column's own name.
_ALTERNATIVES = ("int", "float", "bool", "literal['auto']", "constrained-int")


#: For those of pydantic's messages that speak of Python.
_PLAINLY = {
    "model_type": "should be a section of keys, as `key: value`",
    "dict_type": "should be a section of keys, as `key: value`",
    "string_type": "should be text; put it in quotes if it looks like a number",
    "list_type": "should be a list, as `[a, b]`",
    "tuple_type": "should be a list, as `[a, b]`",
}


def _path(error: Any) -> list[str]:
    """The error's key, without the names of a union's alternatives."""
    loc = error["loc"]
    return [str(p) for i, p in enumerate(loc) if p not in _ALTERNATIVES or loc[i - 1] == "columns"]


def _explain(error: Any, where: str) -> str:
    """One line for one pydantic error: file, dotted key, what is wrong, what was meant."""
    path = _path(error)
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {shown(key)}; {nearest(path[-1], _known_keys(path[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: {shown(key)} is missing; a job needs at least `dataset: {{uri: …}}`"
    message = _PLAINLY.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    got = error.get("input")
    given = f" (got {shown(got)})" if not isinstance(got, dict) else ""
    return f"{where}: {shown(key) if key else 'the job'}: {message}{given}"


def _known_keys(path: Iterable[str]) -> list[str]:
    section: type[BaseModel] = Job
    for step in path:
        field = section.model_fields.get(step)
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else ColumnJob
    return list(section.model_fields)
