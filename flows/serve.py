"""Serve a model in the foreground, OpenAI-compatible: the release in service, or any model or checkpoint folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from flows import cli
from tasks import devices
from tasks.config import PathsConfig, parse_section
from tasks.errors import ModelError, UserError
from tasks.schema import How, Section
from tasks.serving import release
from tasks.serving.config import ServingConfig
from tasks.serving.process import Target
from tasks.serving.stage import serve
from tasks.training.config import HardwareConfig


class BaseLocation(Section):
    """Where a base model lies, and how it is spread."""

    path: Path | None = How(None, doc="Folder of the base model that an adapter needs; null: where it was trained.")
    device_map: Literal["none", "auto"] = How("none", doc="auto: spread the model over all GPUs, then CPU memory.")


class ServeConfig(Section):
    """What to serve."""

    path: Path | None = How(None, doc="Folder of a model, checkpoint or adapter; null: the release in service.")
    model: BaseLocation = How(default_factory=BaseLocation, doc="The base model of an adapter.")
    hardware: HardwareConfig = How(default_factory=HardwareConfig, doc="Where it runs.")
    serving: ServingConfig = How(default_factory=ServingConfig, doc="Address and limits.")
    paths: PathsConfig = How(default_factory=PathsConfig, doc="Where the release is on record.")

    @property
    def base(self) -> Path | None:
        """Where the base model lies, if the user says so."""
        return self.model.path.expanduser().resolve() if self.model.path else None

    def target(self) -> Target | None:
        """The folder to load, None for the release in service.

        Raises:
            ModelError: the folder is not there.
        """
        if self.path is None:
            return None
        for key, folder in (("path", self.path), ("model.path", self.model.path)):
            if folder is not None and not folder.expanduser().is_dir():
                raise ModelError(f"{key}={folder}: no such folder")
        base = self.base
        device = devices.resolve_device(self.hardware.device)
        return Target(
            self.path.expanduser().resolve(), base, device, devices.dtype("auto", device), self.model.device_map
        )


def run(config: ServeConfig) -> dict[str, Any]:
    target = config.target()
    serving = config.serving
    if target is None:
        current = release.read(config.paths.root)
        if current is None:
            raise UserError(
                f"paths.root={config.paths.root}: nothing is deployed there; run flows.full, or set path=DIR"
            )
        target = current.target
        serving = serving.model_copy(update={"model_name": current.name})
    serve(
        serving,
        root=config.paths.root,
        model=target.model,
        base=config.base or target.base,
        device=target.device,
        dtype=target.dtype,
        device_map=target.device_map if config.model.device_map == "none" else config.model.device_map,
    )
    return {}


if __name__ == "__main__":
    cli.main(run, verb="serve", default="serve", folder=cli.CONF / "verbs", schema=partial(parse_section, ServeConfig))
