"""Writes a tokenizer's folder: tokenizer.json, tokenizer_config.json and, where the model chats, chat_template.jinja.

Any program that reads Hugging Face folders loads them as a fast tokenizer; no class of this project is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.files import write_atomic


def write(target: Path, tokenizer: Any, settings: Mapping[str, Any], template: str | None = None) -> None:
    """Write ``tokenizer`` (a tokenizers.Tokenizer) into ``target``; files of an earlier one there are replaced.

    Args:
        settings: more entries of tokenizer_config.json; None leaves one out.
        template: the chat template; None: the model does not chat.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # a model's own class would build the tokenizer anew, its way
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        **settings,
    }
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / "tokenizer.json", tokenizer.to_str())
    shown = {key: value for key, value in config.items() if value is not None}
    write_atomic(target / "tokenizer_config.json", json.dumps(shown, ensure_ascii=False, indent=1) + "\n")
    if template is not None:
        write_atomic(target / "chat_template.jinja", template)
    else:
        (target / "chat_template.jinja").unlink(missing_ok=True)


def append_special(tokenizer: Any, tokens: Sequence[Any], first_id: int, path: Path) -> None:
    """Add special tokens behind the vocabulary, the first one as ``first_id``.

    Raises:
        ModelError: the vocabulary has another size than the model that these ids belong to.
    """
    if tokenizer.get_vocab_size() != first_id:
        raise ModelError(
            f"{path}: {tokenizer.get_vocab_size()} tokens instead of {first_id}: "
            "not this model's tokenizer; download the file that belongs to the model"
        )
    tokenizer.add_special_tokens(list(tokens))


def read_json(path: Path) -> dict[str, Any]:
    """The object in an optional settings file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: an object is expected, found {type(value).__name__}")
    return value


def own_template(source: Path) -> str | None:
    """The chat template that a hub folder has."""
    path = source / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_json(source / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}.get("default")
    return found if isinstance(found, str) else None
