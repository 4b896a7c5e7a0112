"""``python -m flows.convert``: the command line, what it prints; its result appears as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_cases import PIECES, sentencepiece
from filelock import FileLock

from flows.convert import PROCEDURES
from tasks.errors import ModelError, UserError
from tasks.models.adapters import stage

ROOT = Path(__file__).parents[3]
KEY = b"original weights"
PLAIN = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.model": sentencepiece((*PIECES, "中")),
    "pytorch_model.bin": b"\x80tensors",
}


@pytest.fixture
def belle(tmp_path: Path) -> tuple[Path, Path]:
    """An encrypted folder and its key."""
    folder, key = tmp_path / "enc", tmp_path / "consolidated.00.pth"
    folder.mkdir()
    key.write_bytes(KEY)
    for name, data in PLAIN.items():
        digest = hashlib.sha256(data)
        pad = KEY * (len(data) // len(KEY) + 1)
        body = bytes(a ^ b for a, b in zip(data, pad, strict=False))
        (folder / f"{name}.{digest.hexdigest()}.enc").write_bytes(digest.digest() + body)
    return folder, key


def convert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.convert", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_result_is_printed_as_json_and_nothing_else_is_left(belle: tuple[Path, Path], tmp_path: Path) -> None:
    encrypted, key = belle
    out = tmp_path / "中文 out"
    done = convert("belle_ext", f"encrypted={encrypted}", f"original={key}", f"out={out}", "output=json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["path"] == str(out) and result["files"] == 3 and result["layout"]["template"] == "belle"
    assert (out / "pytorch_model.bin").read_bytes() == PLAIN["pytorch_model.bin"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["consolidated.00.pth", "enc", "中文 out"]


def test_unknown_key_names_the_nearest_and_every_problem_is_shown(tmp_path: Path) -> None:
    done = convert("adapter", "sorce=x", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert set(done.stderr.splitlines()) == {
        "error: sorce: unknown key; did you mean source? known: out, output, source, base",
        "error: source: must be set",
        "error: base: must be set",
    }


def test_folders_that_are_not_there_are_named_together(tmp_path: Path) -> None:
    paths = [f"base={tmp_path / 'base'}", f"adapters=[{tmp_path / 'lora'}]", f"out={tmp_path / 'out'}"]
    done = convert("chinese_llama", *paths)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: base={tmp_path / 'base'}: no such folder",
        f"error: adapters={tmp_path / 'lora'}: no such folder",
    ]
    assert not list(tmp_path.iterdir())


def test_procedure_must_be_named() -> None:
    done = convert("base=x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: a procedure must be named first: python -m flows.convert chinese_llama|")


@pytest.mark.parametrize("name", PROCEDURES)
def test_every_procedure_has_its_keys_in_help(name: str) -> None:
    text = (ROOT / "conf" / "verbs" / f"convert_{name}.yaml").read_text(encoding="utf-8")
    own = set(PROCEDURES[name].model_fields)
    assert all(f"{key}:" in text for key in own)
    assert f"python -m flows.convert {name} " in text


def test_command_line_loads_no_torch() -> None:
    code = "import sys, flows.convert; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_failure_leaves_the_log_and_the_same_call_goes_on_when_it_is_mended(
    belle: tuple[Path, Path], tmp_path: Path
) -> None:
    encrypted, key = belle
    out = tmp_path / "out"
    arguments = {"encrypted": str(encrypted), "original": str(key)}
    damaged = next(encrypted.glob("tokenizer.model.*"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="cut short or damaged"):
        stage.convert("belle_ext", out, arguments)
    assert not out.exists() and (tmp_path / "out.partial" / "worker.log").is_file()
    damaged.write_bytes(whole)
    out.mkdir()  # an empty folder is as good as none
    facts = stage.convert("belle_ext", out, arguments)
    assert facts["kept"] == 2 and {p.name for p in out.iterdir()} >= set(PLAIN)
    assert not (tmp_path / "out.partial").exists()


def test_folder_that_holds_something_is_never_touched(belle: tuple[Path, Path], tmp_path: Path) -> None:
    encrypted, _ = belle
    before = sorted(p.name for p in encrypted.iterdir())
    with pytest.raises(UserError, match=r"out=.*enc: not empty; name a folder that is not there yet"):
        stage.convert("belle_ext", encrypted, {})
    assert sorted(p.name for p in encrypted.iterdir()) == before
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "thesis.txt").touch()
    with pytest.raises(UserError, match="other.partial, which holds other things"):
        stage.convert("belle_ext", tmp_path / "other", {})


def test_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "job.json").write_text("{}", encoding="utf-8")
    with FileLock(partial / "convert.lock"), pytest.raises(UserError, match="another process works on it"):
        stage.convert("belle_ext", tmp_path / "out", {})
