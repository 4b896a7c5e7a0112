"""Real text of the embedded model: openly licensed Chinese dialogues from the folder in `WEITIAO_SHARED`.

Owns which files are used, how each becomes dialogues, and which dialogues are held out. Nothing read here is
ever copied into the repository. Only collections with a clear open licence are read:

| folder below `$WEITIAO_SHARED/data`  | licence    |
|--------------------------------------|------------|
| `medical/toyhom`                     | MIT        |
| `medical/huatuo_llama`               | Apache-2.0 |
| `medical/disc_medllm`                | Apache-2.0 |
| `medical/huatuogpt` (dialogues only) | Apache-2.0 |
| `chatglm3_demo/cognition`            | Apache-2.0 |
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Turn = tuple[str, str]
Dialogue = list[Turn]

HELD_OUT_PERCENT = 4
FILES = (
    "medical/toyhom/样例_内科5000-6000.csv",
    "medical/huatuo_llama/llama_data.json",
    "medical/huatuo_llama/liver_cancer.json",
    "medical/disc_medllm/DISC-MedLLM_cmd.json",
    "medical/disc_medllm/CMB-cases.json",
    "medical/huatuogpt/Med-dialog_100.json",
    "chatglm3_demo/cognition/train.json",
)


class CorpusMissingError(Exception):
    """The real text cannot be read; the message is one line and says which part is missing."""


def data_folder() -> Path:
    """Folder that holds the real text.

    Raises:
        CorpusMissingError: `WEITIAO_SHARED` is not set, or a file below it is missing.
    """
    shared = os.environ.get("WEITIAO_SHARED")
    if not shared:
        raise CorpusMissingError(
            "WEITIAO_SHARED is not set, so the real-text part of the corpus is missing; "
            "point it at the folder that holds data/medical and data/chatglm3_demo"
        )
    folder = Path(shared) / "data"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CorpusMissingError(f"WEITIAO_SHARED={shared}: the corpus part data/{missing[0]} is missing")
    return folder


def read_dialogues() -> tuple[list[Dialogue], list[Dialogue]]:
    """All dialogues as (training, held out), without exact repeats.

    A dialogue is held out by the hash of its first user message: all answers to a question fall on one side.
    """
    training: list[Dialogue] = []
    held_out: list[Dialogue] = []
    seen: set[str] = set()
    for dialogue in _all_dialogues(data_folder()):
        identity = json.dumps(dialogue, ensure_ascii=False)
        if identity in seen or not all(text.strip() for _, text in dialogue):
            continue
        seen.add(identity)
        question = next(text for role, text in dialogue if role == "user")
        bucket = int(hashlib.sha256(question.strip().encode("utf-8")).hexdigest()[:8], 16) % 100
        (held_out if bucket < HELD_OUT_PERCENT else training).append(dialogue)
    return training, held_out


def plain_text(dialogues: list[Dialogue]) -> str:
    """Contents of all turns, one a line; spans for the exercises are cut from it."""
    return "\n".join(text for dialogue in dialogues for _, text in dialogue)


def _all_dialogues(folder: Path) -> Iterator[Dialogue]:
    with (folder / FILES[0]).open(encoding="gb18030", errors="ignore", newline="") as file:
        for row in csv.DictReader(file):
            if row["ask"] and row["answer"]:
                # Titles are often the short form of the question: they vary the length of the prompts.
                question = row["title"] if len(row["ask"]) > 160 and row["title"] else row["ask"]
                yield [("user", question), ("assistant", row["answer"])]
    for row in _rows(folder / FILES[1]):
        yield [("user", row["instruction"]), ("assistant", row["output"])]
    for row in _rows(folder / FILES[2]):
        yield [*_marked_turns(row["instruction"]), ("assistant", row["output"])]
    for row in _rows(folder / FILES[3]):
        names = {"patient": "user", "doctor": "assistant"}
        yield [(names[turn["role"]], turn["content"]) for turn in row["conversation"] if turn["role"] in names]
    for row in _rows(folder / FILES[4]):
        yield [("user", row["case"]), ("assistant", row["first_question"])]
    for row in _rows(folder / FILES[5]):
        yield [("user", row["medical_case"]), ("assistant", row["doctor_diagnosis"])]
    for row in _rows(folder / FILES[6]):
        yield [(turn["role"], turn["content"]) for turn in row["conversations"]]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON array or of JSON Lines."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows: list[dict[str, Any]] = json.loads(text)
        return rows
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _marked_turns(text: str) -> Dialogue:
    """Turns of a dialogue written as `<user>: ... <bot>: ...` in one string."""
    parts = re.split(r"<(user|bot)>:", text)
    turns = [(role, content.strip()) for role, content in zip(parts[1::2], parts[2::2], strict=True)]
    return [("user" if role == "user" else "assistant", content) for role, content in turns]
