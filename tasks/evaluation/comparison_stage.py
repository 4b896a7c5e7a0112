"""The stage that compares evaluated runs of several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import MethodComparison
from tasks.evaluation.config import EvaluationConfig
from tasks.evaluation.metric import Options
from tasks.evaluation.reporting import method_comparison, method_comparison_text
from tasks.evaluation.reporting.method_comparison import Run
from tasks.store import Store

REVISION = 1


def compare_methods(
    config: EvaluationConfig, runs: Sequence[Run], failed: Mapping[str, str], *, store: Store
) -> MethodComparison:
    """One table of runs that differ in the method and the training seed.

    Args:
        failed: runs that there should have been, and why they are not.

    Raises:
        DataError: the runs were not scored on the same rows.
    """
    settings: dict[str, Any] = {
        "resamples": config.bootstrap_resamples,
        "permutations": config.permutations,
        "seed": config.seed,
        "level": config.level,
    }

    def work(folder: Path) -> Mapping[str, Any]:
        content = method_comparison.build(runs, failed, options=Options(config.text_unit), **settings)
        method_comparison_text.write(folder, content)
        return {
            "rows": content["rows"],
            "systems": {name: _headline(system) for name, system in content["systems"].items()},
            "failed": dict(failed),
            "conclusions": content["conclusions"],
        }

    return store.publish(
        MethodComparison,
        name="methods",
        revision=REVISION,
        config={**settings, "text_unit": config.text_unit, "failed": dict(failed)},
        inputs={f"{run.method} {run.seed}": run.report.fingerprint for run in runs},
        work=work,
    )


def _headline(system: Mapping[str, Any]) -> dict[str, Any]:
    """A system's numbers for the record: no task's values, no texts."""
    return {key: value for key, value in system.items() if key not in ("values", "seeds")}
