"""What does not go together in hardware.*."""

from __future__ import annotations

from pathlib import Path

from flows.cli import composed
from tasks.config import parse
from tasks.errors import ConfigError
from tasks.training.config import HardwareConfig


def test_every_problem_of_the_section_is_told() -> None:
    assert HardwareConfig().problems() == []
    lines = HardwareConfig(nodes=2, offload=True, deepspeed=Path("my.json")).problems()
    assert [line.split(":")[0] for line in lines] == [
        "hardware.main_address",
        "hardware.offload=True",
        "hardware.deepspeed='my.json'",
    ]


def test_batch_is_held_against_the_processes_of_all_machines() -> None:
    overrides = ["hardware=multinode", "hardware.processes=4", "training.batch_size=6"]
    try:
        parse(composed("full", overrides))
    except ConfigError as error:
        (line,) = error.problems
    assert line == ("training.batch_size=6: fewer rows than hardware.processes=4 x hardware.nodes=2 = 8; at least 8")
    assert parse(composed("full", [*overrides[:2], "training.batch_size=9"])).hardware.world == 8
