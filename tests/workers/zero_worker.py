"""Trains a small network by several engines, one after the other, under torchrun: for tests of the engines.

usage: python zero_worker.py FOLDER   (a folder with settings.json: a list of runs, each with its name)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tasks.training import deepspeed_config, engines

CONFIG = SimpleNamespace(
    optimizer="adamw",
    learning_rate=1e-2,
    adam_beta1=0.9,
    adam_beta2=0.99,
    adam_epsilon=1e-8,
    max_grad_norm=0.05,
    compile=False,
)
ROWS, WIDTH = 8, 12  # rows of a step, width of the network


class Network(nn.Module):
    """A frozen layer, trained layers of odd sizes, and one weight that is used outside of its own module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.ModuleDict(
            {
                "frozen": nn.Linear(WIDTH, WIDTH),
                "wide": nn.Linear(WIDTH, 17),
                "norm": nn.LayerNorm(17),
                "back": nn.Linear(17, WIDTH),
                "head": nn.Linear(WIDTH, 3, bias=False),
            }
        )
        self.model["frozen"].requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(self.model["frozen"](batch["x"]))
        hidden = hidden + self.model["back"](torch.relu(self.model["norm"](self.model["wide"](hidden))))
        scores = nn.functional.linear(hidden, self.model["head"].weight)
        return nn.functional.cross_entropy(scores.float(), batch["y"], reduction="sum")


def rows(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    return {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}


def zero_json(settings: dict[str, Any], world: int) -> dict[str, Any]:
    return deepspeed_config.generate(
        deepspeed_config.Settings(
            stage=int(settings["strategy"][-1]),
            offload=settings["offload"],
            device="cpu",
            world=world,
            batch_size=ROWS,
            micro_batch_size=None,
            max_grad_norm=CONFIG.max_grad_norm,
            precision=settings["precision"],
            hidden_size=1,  # nothing stays undivided
            learning_rate=CONFIG.learning_rate,
            betas=(CONFIG.adam_beta1, CONFIG.adam_beta2),
            epsilon=CONFIG.adam_epsilon,
            weight_decay=0.1,
        )
    )


def train(folder: Path, settings: dict[str, Any], place: tuple[torch.device, int, int]) -> None:
    """One run; leaves losses.json, weights.safetensors and state/ in its folder."""
    _, rank, world = place
    values: dict[str, Any] = {"device": "cpu", "precision": settings["precision"]}
    if settings["strategy"] != "ddp":
        values["deepspeed"] = zero_json(settings, world)
    network = Network()
    start = settings["start"] and folder.parent / settings["start"]
    if start:
        network.load_state_dict(load_file(start / "weights.safetensors"), strict=False)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in trained.values() if p.dim() > 1], "lr_scale": 1.0, "weight_decay": 0.1},
        {"params": [p for p in trained.values() if p.dim() == 1], "lr_scale": 2.0, "weight_decay": 0.0},
    ]
    engine: Any = engines.make(values, CONFIG, network, groups, place)  # type: ignore[arg-type]
    if start:
        engine.load(start / "state")
    losses, applied = [], []
    for step in range(settings["first"], settings["last"]):
        batch = rows(step)
        mine = {name: value[rank::world] for name, value in batch.items()}
        parts = 1 + step % 3  # the number of micro-steps differs from step to step
        pieces = [{name: value[i::parts] for name, value in mine.items()} for i in range(parts)]
        if step == settings["thrown_away"]:  # gradients that must leave no trace
            for last in (False, True):
                engine.micro_step(pieces[0], 50.0, last)
                engine.discard()
        total = 0.0
        for index, piece in enumerate(pieces):
            total += float(engine.micro_step(piece, 1 / ROWS, index == parts - 1))
        limit = 0.0 if step == settings["refused"] else 1e9
        update = engine.update([CONFIG.learning_rate, 2 * CONFIG.learning_rate], limit)
        losses.append((engine.sum(total) / ROWS, update.norm))
        applied.append(update.applied)
        if step % 2:
            engine.loss(mine)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    with engine.weights():
        if rank == 0:
            tensors = {name: p.detach().cpu().clone() for name, p in trained.items()}
            save_file(tensors, folder / "weights.safetensors")
    engine.save(folder / "state")
    engine.barrier()
    if rank == 0:
        result = {"losses": losses, "applied": applied}
        (folder / "losses.json").write_text(json.dumps(result), encoding="utf-8")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    settings: list[dict[str, Any]] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    device, rank, world = engines.start_processes({"device": "cpu"})
    for run in settings:
        if run["processes"] == 1 and rank == 0:
            train(folder / run["name"], run, (device, 0, 1))
        elif run["processes"] == world:
            train(folder / run["name"], run, (device, rank, world))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
