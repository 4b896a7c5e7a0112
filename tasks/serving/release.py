"""The release record: which model is in service, how it proved itself, where it runs.

``<root>/release/active.json`` is the truth (replaced as a whole); ``history.jsonl`` lists all releases, the
latest last. Nothing here starts or stops a process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.artifacts import Artifact
from tasks.errors import StageError
from tasks.files import write_atomic
from tasks.serving import process
from tasks.serving.process import Server, Target

_FOLDER = "release"


class Smoke(BaseModel):
    """The question that a new server answered, whole and streamed alike.

    Attributes:
        reply: the text; finish_reason: "stop" or "length"; seconds: of the streamed answer;
            as_evaluated: whether it is the reply that the evaluation scored, None where that is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int
    completion_tokens: int
    reply: str
    finish_reason: str
    seconds: float
    as_evaluated: bool | None = None


class Release(Artifact):
    """The model in service. ``path`` is the record's folder, ``fingerprint`` the model's.

    Attributes:
        model, base: what tasks.models.loading loads; base is None for whole models.
        device, dtype, device_map: on what it was proved.
        name, alias, version: in the registry; version is None while it is not registered.
        url, server: where it runs; None when no server was kept.
        time: seconds since 1970.
        evaluation: folder of the report that promoted it, which the next model is compared with.
    """

    stage: ClassVar[str] = "deploy"

    model: Path
    base: Path | None
    device: str
    dtype: str
    device_map: str = "none"
    engine: str
    name: str
    alias: str
    version: str | None
    registered: bool
    smoke: Smoke
    url: str | None
    server: dict[str, Any] | None
    time: float
    evaluation: Path | None = None

    @property
    def target(self) -> Target:
        return Target(self.model, self.base, self.device, self.dtype, self.device_map)

    @property
    def running(self) -> Server | None:
        """The kept server, if it still answers as the one on record."""
        server = None if self.server is None else process.from_json(self.server)
        return server if server is not None and process.is_alive(server) else None


def folder(root: Path) -> Path:
    return root.resolve() / _FOLDER


def read(root: Path) -> Release | None:
    """The release in service; None before the first.

    Raises:
        StageError: the record cannot be read.
    """
    path = folder(root) / "active.json"
    if not path.is_file():
        return None
    try:
        return Release.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{path}: not a release record ({reason}); move it away to release anew") from None


def champion(root: Path, name: str) -> Path | None:
    """Folder of the evaluation of the newest release under ``name``; None before the first."""
    history = folder(root) / "history.jsonl"
    if not history.is_file():
        return None
    lines = history.read_text(encoding="utf-8").splitlines()
    releases = [json.loads(line) for line in lines if line.endswith("}")]  # a killed writer may leave half a line
    found = [r["evaluation"] for r in releases if r["name"] == name]
    return Path(found[-1]) if found and found[-1] else None


def write(root: Path, release: Release, *, event: str) -> None:
    """Make ``release`` the one in service, and add it to the history as ``event``."""
    place = folder(root)
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(place / "active.json", release.model_dump_json(indent=1))
    with (place / "history.jsonl").open("a", encoding="utf-8", newline="\n") as file:
        line = {"event": event, **release.model_dump(mode="json")}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
