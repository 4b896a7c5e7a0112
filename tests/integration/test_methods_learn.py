"""Every method that there is learns on the embedded model, and what it learned changes what is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.methods_bench import MethodsBench, methods_bench
from tasks import plugins


@pytest.mark.slow
@pytest.mark.parametrize("method", plugins.names("tasks.methods"))
def test_validation_loss_falls_by_a_tenth_and_replies_change(method: str, tmp_path: Path) -> None:
    (result,) = methods_bench(MethodsBench(methods=[method], root=tmp_path))["results"]
    assert result["loss_after"] <= 0.9 * result["loss_before"]
    assert result["replies_changed"] > 0
    assert 0 < result["trainable"] <= result["total"]
