"""Optimiser of the pre-training: Muon for the matrices inside the layers, Adam for embedding and norms.

`torch.optim.Muon` orthogonalises in bfloat16, which most CPUs emulate slowly; this one stays in float32.

Source: Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (coefficients, five
iterations, Nesterov momentum 0.95, scale sqrt(max(1, rows / columns))).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, approximately. Shape: (rows, columns) to the same."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon over 2-d parameters, in float32."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
            updates = []
            for index, parameter in enumerate(parameters):
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                # Every process orthogonalises its share of the matrices; the sum below hands them round.
                mine = index * world // len(parameters) == rank
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
                updates.append(_update(nesterov) if mine else torch.zeros_like(parameter))
            if world > 1:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                updates = [
                    u.view_as(p) for u, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)
                ]
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def _update(direction: Tensor) -> Tensor:
    """Scaled orthogonal update of one parameter."""
    # gate_up_proj is two matrices in one (rows over four times the columns): each has its own update.
    halves = direction.chunk(2 if direction.size(0) > 4 * direction.size(1) else 1)
    scale = max(1.0, halves[0].size(0) / halves[0].size(1)) ** 0.5
    return torch.cat([orthogonalise(half) for half in halves]) * scale


def build_optimisers(model: nn.Module, muon_lr: float, adam_lr: float, name: str) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside the layers and AdamW for everything else, or AdamW for all."""
    named = dict(model.named_parameters())
    if name == "adamw":
        return [torch.optim.AdamW(list(named.values()), lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.01)]
    matrices = [p for key, p in named.items() if p.ndim == 2 and "embed" not in key and "lm_head" not in key]
    chosen = {id(p) for p in matrices}
    others = [p for p in named.values() if id(p) not in chosen]
    return [
        Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
