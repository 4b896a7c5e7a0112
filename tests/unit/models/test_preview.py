"""The preview: ids, labels and tokens of the first rows, as training sees them; a page; no torch in the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import preview
from flows.cli import composed
from tasks.config import parse_with
from tasks.errors import ConfigError

ROOT = Path(__file__).parents[3]


def values(tmp_path: Path, base: Path, *more: str) -> list[str]:
    rows = [{"instruction": f"问{n}", "input": "", "output": "治疗" if n % 2 else "病因"} for n in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    given = [
        f"paths.root={tmp_path / 'runs'}",
        "orchestrator=none",
        "data=alpaca",
        f"data.path={tmp_path / 'rows.json'}",
    ]
    return [*given, "model=local", f"model.path={base}", *more]


def test_rows_are_shown_as_they_are_trained_and_kept_with_the_run(tiny_base: Path, tmp_path: Path) -> None:
    config = parse_with(preview.Extent, composed("full", values(tmp_path, tiny_base, "rows=2")))
    result = preview.preview(config)
    assert len(result["rows"]) == 2
    for row in result["rows"]:
        # [gMASK] sop <|user|> \n 问 digits <|assistant|> | \n two characters </s>
        assert row["input_ids"][:4] == [2, 3, 5, row["labels"][-4]]
        assert row["labels"][-4:] == row["input_ids"][-4:] and set(row["labels"][:-4]) == {-100}
        assert (
            row["tokens"][-4] == "\n"
            and row["tokens"][-1] == "</s>"
            and "".join(row["tokens"][-3:-1]) in ("治疗", "病因")
        )
    page = Path(result["path"]) / "preview.html"
    assert "Sanity check" in page.read_text(encoding="utf-8")
    assert [p.read_bytes() for p in (tmp_path / "runs").rglob("artifacts/preview.html")] == [page.read_bytes()]
    text = preview.shown(result)
    assert "'治'" in text and "-100" in text and "\x1b[" not in text


def test_learned_tokens_and_context_differ_in_colour(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from tasks.models.preview import tables

    screen = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    row = {"id": "r", "input_ids": [7, 8], "labels": [-100, 8], "tokens": ["[b]", "y"], "problem": ""}
    tables({"layout": "layout: x", "rows": [row]}, screen)
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (context,), (learned,) = ([line for line in lines if text in line] for text in ("'[b]'", "'y'"))
    assert "\x1b[2m" in context and "32m" in learned and "32m" not in context


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rows=0"):
        parse_with(preview.Extent, composed("full", ["rows=0"]))


def test_the_command_imports_no_torch() -> None:
    code = "import flows.preview, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
