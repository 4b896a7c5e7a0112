"""Times the steps of a training loop, and profiles a few of them: for measurements, see tasks.training.benchmark."""

from __future__ import annotations

import time
from typing import Any

from tasks.worker import Job, peak_resident_bytes

#: Matrix multiplications, as torch's profiler names them.
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm"}


class Watch:
    """Times steps: from the begin of one to the begin of the next, evaluation and saving left out.

    Attributes:
        flops: of a step for each token, and for each learned token.
        places: places computed in the step at hand, padding included.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._cuda = job.values["device"] != "cpu"
        self._steps: list[dict[str, Any]] = []
        self._began: float | None = None
        self._profiler: Any = None
        self._products: dict[str, float] = {}
        self.flops = (0.0, 0.0)
        self.places = 0

    def begin(self) -> None:
        """A step begins; one that is still open ends."""
        self.end()
        if self._job.values["profiles"] and len(self._steps) == self._job.values["warmup_steps"]:
            self._profiler = _profiler(self._cuda)
            self._profiler.__enter__()
        self._steps.append({"seconds": 0.0, "tokens": 0, "learned": 0, "computed": 0, "loss": None})
        self.places = 0
        self._began = time.monotonic()

    def note(self, tokens: int, learned: int, loss: float) -> None:
        """What the step at hand trained."""
        self._steps[-1] |= {"tokens": tokens, "learned": learned, "loss": loss, "computed": self.places or tokens}

    def end(self) -> None:
        """The step at hand ends here; nothing happens where none is."""
        if self._began is None:
            return
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        self._steps[-1]["seconds"] = time.monotonic() - self._began
        self._began = None

    def result(self) -> dict[str, Any]:
        self.end()
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._products = _products(self._profiler, self._cuda)
        return {"steps": self._steps, "peak": self._peak(), "flops": self.flops, "products": self._products}

    def _peak(self) -> int:
        if not self._cuda:
            return peak_resident_bytes()
        import torch

        return int(torch.cuda.max_memory_allocated())


def _profiler(cuda: bool) -> Any:
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    return profile(activities=kinds, with_flops=True, record_shapes=True)


def _products(profiler: Any, cuda: bool) -> dict[str, float]:
    """Time in matrix multiplications as a share of all computing time, and the FLOP/s reached in it."""
    events = profiler.key_averages()
    mine = [event for event in events if event.key in _PRODUCTS]
    if cuda:
        # kernels have lines of their own; an operator's self time is that of the kernels it started
        total = sum(e.self_device_time_total for e in events if "CUDA" in str(e.device_type))
        spent = sum(e.self_device_time_total for e in mine)
    else:
        total = sum(e.self_cpu_time_total for e in events)
        spent = sum(e.self_cpu_time_total for e in mine)
    flops = sum(e.flops or 0 for e in mine)
    return {"time_share": round(spent / max(total, 1e-9), 4), "flops": flops / max(spent * 1e-6, 1e-12)}
