"""What a row of CBLUE offers: its template, its options and their order, its answer line, and so its answer.

All of it is drawn from a generator seeded with the record's own text. Does not know records or files of data.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.data import reading
from tasks.data.cblue import templates as cblue_templates
from tasks.data.cblue.tasks import Right, Task
from tasks.data.source import DataFile
from tasks.errors import DataError

if TYPE_CHECKING:
    from tasks.data.sources.cblue import Config

_SHIPPED_TERMS = Path(__file__).parent / "terms.txt"
#: Wrong terms are picked among this many of the list, so that a list of 40,000 costs no more than one of 400.
_TERMS_LOOKED_AT = 200
_FEWEST_TERMS = 10


def written(task: Task, texts: Sequence[str], right: Right, key: str, config: Config) -> tuple[str, list[str], str]:
    """Prompt, options and target, drawn from the record's own generator."""
    draw = _generator(config.template_seed, task.name, key)
    template = draw.choice(templates(config.templates, task))
    answer_line = draw.random() < config.answer_line_share or task.always_answer_line
    hidden = draw.random() < config.left_out_share
    spelled = cblue_templates.spelled_options(template) if _yes_no(task) else None
    if spelled is not None:
        renamed = dict(zip(task.options or (), spelled, strict=True))
        right, options = {renamed[option]: [] for option in right}, list(spelled)
    elif task.fixed:
        options = list(task.options or ())
    else:
        options = _options(task, right, hidden, draw, key, config)
    prompt = cblue_templates.fill(template, texts, options, answer_line=answer_line)
    return prompt, options, task.answer(right, options)


def _options(task: Task, right: Right, hidden: bool, draw: random.Random, key: str, config: Config) -> list[str]:
    """The options in a random order; where ``hidden``, none of the right ones."""
    every = task.options if task.options is not None else _similar(terms(config.terms), key, right, draw)
    wrong = [option for option in every if option not in right]
    listed = [] if hidden and wrong else list(right)
    if task.extra is not None:
        fewest, most = task.extra
        count = max(draw.randint(fewest, most), 0 if listed else 1)
        options = listed + (wrong[:count] if task.options is None else draw.sample(wrong, min(count, len(wrong))))
    else:
        size = draw.randint(1, len(every))
        sure = draw.sample(listed, 1) if listed else []
        others = [option for option in (every if listed else wrong) if option not in sure]
        options = sure + draw.sample(others, min(size - len(sure), len(others)))
    draw.shuffle(options)
    return options


def _similar(terms: Sequence[str], text: str, right: Right, draw: random.Random) -> list[str]:
    """Wrong terms: by turns one that shares most characters with the text and one at random."""
    looked_at = [term for term in draw.sample(terms, min(_TERMS_LOOKED_AT, len(terms))) if term not in right]
    characters = set(text)
    near = sorted(looked_at, key=lambda term: -len(characters & set(term)) / len(set(term)))
    return list(dict.fromkeys(term for pair in zip(near, looked_at, strict=True) for term in pair))


def _generator(seed: int, task: str, key: str) -> random.Random:
    digest = hashlib.sha256(f"{seed}\x1f{task}\x1f{key}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def templates(path: Path | None, task: Task) -> tuple[str, ...]:
    """The templates of a task in a file (None: the shipped one); raises DataError."""
    texts = ("INPUT_TEXT_1", "INPUT_TEXT_2") if len(task.texts[0]) == 2 else ("INPUT_TEXT",)
    return cblue_templates.of_task(path, task.name, texts, yes_no=_yes_no(task))


def _yes_no(task: Task) -> bool:
    return task.fixed and task.options is not None and len(task.options) == 2


def terms(path: Path | None) -> tuple[str, ...]:
    """The standard terms in a file (None: the shipped one); raises DataError."""
    path = (path or _SHIPPED_TERMS).expanduser()
    return _read_terms(path, cblue_templates.stamp(path))


@lru_cache(maxsize=4)
def _read_terms(path: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    """The terms of a list, sorted, so that their order in the file does not matter.

    Raises:
        DataError: the file cannot be read, or has too few.
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.terms={path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    else:
        values = (record.value for record in reading.records(DataFile(path, path.name, "train")) if not record.problem)
        pieces = (value.get("normalized_result") for value in values)
        lines = [term for piece in pieces if isinstance(piece, str) for term in piece.split("##") if term != "O"]
    found = tuple(sorted({line.strip() for line in lines if line.strip() and "，" not in line}))
    if len(found) < _FEWEST_TERMS:
        raise DataError(
            f"data.terms={path}: {len(found)} terms; needs {_FEWEST_TERMS} or more: "
            "a text file (.txt) with one a line, or a CHIP-CDN file"
        )
    return found
