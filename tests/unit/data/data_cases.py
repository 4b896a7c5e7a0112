"""What the data tests share: files of rows, and the type of the ``run`` fixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.artifacts import Dataset

Prepare = Callable[..., Dataset]


def write_lines(path: Path, rows: list[Any], *, end: str = "\n") -> Path:
    """JSONL; a str is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("".join(line + end for line in lines).encode("utf-8"))
    return path
