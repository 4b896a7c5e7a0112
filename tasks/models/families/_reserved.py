"""Reserved tokens of a written tokenizer: names for them, which make them control tokens that no text can become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def pieces(folder: Path) -> dict[int, str]:
    """The tokens of the folder's tokenizer.json by id."""
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = value["model"]["vocab"]
    unigram = isinstance(vocabulary, list)  # pairs of a piece and its score
    found = dict(enumerate(piece for piece, _ in vocabulary)) if unigram else {i: p for p, i in vocabulary.items()}
    return found | {token["id"]: token["content"] for token in value.get("added_tokens", ())}


def name(folder: Path, tokens: Mapping[str, str]) -> None:
    """Name tokens in the folder's tokenizer_config.json: ``tokenizer.NAME`` is the token when it is loaded."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["extra_special_tokens"] = dict(tokens)
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
