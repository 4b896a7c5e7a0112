"""Run by the Python of an environment that holds LLaMA-Factory, not by this project's: trains and times its steps.

``python llamafactory_run.py FOLDER``: arguments.json in, steps.json out. It stands alone: that environment has none of
this project's packages.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]
    from transformers import TrainerCallback

    steps: list[dict[str, Any]] = []
    counted: dict[str, Any] = {"tokens": 0, "learned": 0, "computed": 0, "before": (0, 0, 0), "began": 0.0}

    class Steps(TrainerCallback):
        """Counts what the model is given, and the time from one step's end to the next one's."""

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            def count(_: Any, __: Any, batch: dict[str, Any]) -> None:
                counted["tokens"] += int(batch["attention_mask"].sum())
                counted["learned"] += int((batch["labels"] != -100).sum())
                counted["computed"] += batch["input_ids"].numel()

            model.register_forward_pre_hook(count, with_kwargs=True)
            counted["began"] = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.monotonic()
            total = (counted["tokens"], counted["learned"], counted["computed"])
            tokens, learned, computed = (a - b for a, b in zip(total, counted["before"], strict=True))
            seconds = now - counted["began"]
            steps.append({"seconds": seconds, "tokens": tokens, "learned": learned, "computed": computed, "loss": 0.0})
            counted["before"], counted["began"] = total, now

    run_exp(json.loads((folder / "arguments.json").read_text(encoding="utf-8")), [Steps()])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"steps": steps, "peak": peak, "flops": [0.0, 0.0], "products": {}, "own_tokens": True}
    (folder / "steps.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
