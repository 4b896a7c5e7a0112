"""The configuration of the hardware that work runs on: device, processes, machines, how a model is divided over them.

Nothing here decides a result: a step is ``training.batch_size`` rows, however they are divided.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.schema import How, Section


class HardwareConfig(Section):
    """Where the work runs; nothing of it decides a result."""

    device: Literal["auto", "cpu", "cuda"] = How("auto", doc="auto: a GPU where torch can use one, else the CPU.")
    processes: int = How(1, ge=1, doc="Training processes on each machine (one a device), through torchrun.")
    strategy: Literal["ddp", "zero2", "zero3"] = How(
        "ddp",
        doc="What a process holds: ddp: all; zero2: its part of gradients and optimiser; zero3: of the weights too.",
    )
    offload: bool = How(
        False, doc="ZeRO keeps the optimiser (zero3: and the weights) in the machine's memory; less on the GPU, slower."
    )
    deepspeed: Path | None = How(
        None, doc="Your own DeepSpeed JSON for zero2 or zero3; its 'auto' values are filled from this configuration."
    )
    nodes: int = How(
        1,
        ge=1,
        doc="Machines that train together, each with hardware.processes processes; the first one runs the flow.",
    )
    main_address: str | None = How(
        None, min_length=1, doc="Name or address of this machine as the others reach it; needed with several machines."
    )
    main_port: int = How(29400, ge=1, le=65535, doc="A free port of this machine; used with several machines only.")

    @property
    def world(self) -> int:
        """Training processes over all machines."""
        return self.nodes * self.processes

    def problems(self) -> list[str]:
        """What does not go together here, one line each."""
        found = []
        if self.nodes > 1 and self.main_address is None:
            found.append(
                f"hardware.main_address: must be set with hardware.nodes={self.nodes}: the name or address of "
                "this machine, as the others reach it"
            )
        if self.offload and self.strategy == "ddp":
            found.append("hardware.offload=True: only with hardware.strategy=zero2 or zero3")
        if self.deepspeed is not None and self.strategy == "ddp":
            found.append(f"hardware.deepspeed={str(self.deepspeed)!r}: only with hardware.strategy=zero2 or zero3")
        return found
