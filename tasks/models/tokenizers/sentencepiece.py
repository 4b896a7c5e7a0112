"""LLaMA-like tokenizers: a SentencePiece ``tokenizer.model`` and the settings of its hub folder.

For LLaMA 1 and what was made of it (Open-LLaMA, Chinese-LLaMA-Alpaca, BELLE), Baichuan and InternLM. What transformers
makes of such a folder by itself differs: it ranks merges by id, not by score, leaves out the model's normalisation,
always adds the prefix space, and never where a text begins with a space.

One thing the written tokenizer.json cannot say: of several merges with one score the leftmost comes first. Vocabularies
that others were appended to with one score (Chinese-LLaMA, BELLE) need it, so :func:`load` adds it; other programs see
a tokenizer that differs in part of the Chinese text.

Source: tokenization_llama.py (defaults), the hub folders of the models named.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models.tokenizers import _files, _pieces, _proto
from tasks.models.tokenizers._proto import BPE, NORMAL, USER_DEFINED, Model

MODEL = "tokenizer.model"
#: Entry of tokenizer_config.json: merges with one score exist, see above.
_LEFTMOST = "weitiao_leftmost_merges"
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
#: Settings that are kept as they are.
_KEPT = ("model_max_length", "padding_side")


def write(source: Path, target: Path) -> None:
    """Make the tokenizer of ``source``'s tokenizer.model in ``target``.

    Special tokens come from tokenizer_config.json, special_tokens_map.json and added_tokens.json, where they exist.

    Raises:
        ModelError: a file is missing or broken, or says something that cannot be kept.
    """
    from tokenizers import AddedToken

    path = source / MODEL
    config = _files.read_json(source / "tokenizer_config.json")
    model = _proto.read(path)
    if config.get("add_prefix_space") is False:
        model = replace(model, add_dummy_prefix=False)
    added = _added(source, config)
    named = _named(source, config, model)
    extra = [text for token in config.get("additional_special_tokens") or () if (text := _content(token))]
    special = {*named.values(), *extra, *(token.content for token in added.values() if token.special)}
    names = {i: token.content for i, token in added.items() if i < len(model.pieces)}
    names = {
        i: names.get(i, piece.text)
        for i, piece in enumerate(model.pieces)
        # a symbol that is a special token here must not be made by text
        if names.get(i, piece.text) != piece.text or (piece.kind == USER_DEFINED and piece.text in special)
    }
    tokenizer = _pieces.build(model, path, names=names)
    for i, token in sorted(added.items()):
        if token.content in named.values():
            token = AddedToken(token.content, special=True, normalized=False)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(token.content) != i:
            raise ModelError(
                f"{source}: added token {token.content!r} has the id {i}, but {tokenizer.token_to_id(token.content)} "
                f"would follow from {MODEL}; the files belong to different models"
            )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (*named.values(), *extra) if text]
    )
    first, last = bool(config.get("add_bos_token", True)), bool(config.get("add_eos_token", False))
    tokenizer.post_processor = _ends(
        tokenizer, named["bos_token"] if first else None, named["eos_token"] if last else None
    )
    tied = _tied(model)
    settings = {
        **{key: config[key] for key in _KEPT if key in config},
        **named,
        "additional_special_tokens": extra or None,
        "add_bos_token": first,
        "add_eos_token": last,
        _LEFTMOST: True if tied else None,
    }
    _files.write(target, tokenizer, settings, _files.own_template(source))
    if tied and source.resolve() != target.resolve():
        shutil.copyfile(path, target / MODEL)


def needed(folder: Path) -> bool:
    """Whether :func:`load` must load this native folder's tokenizer: transformers would make other ids of text."""
    if not (folder / MODEL).is_file():
        return False
    if not (folder / "tokenizer.json").is_file():
        with (folder / MODEL).open("rb") as file:
            head = file.read(7)
        # ranks as text are no SentencePiece model; a git-lfs pointer is none either, but load says so
        return head[:1] == b"\n" or head == b"version"
    return bool(_files.read_json(folder / "tokenizer_config.json").get(_LEFTMOST))


def load(folder: Path) -> Any:
    """The tokenizer (a PreTrainedTokenizerFast) of a folder that :func:`write` made, or of one it could read.

    Raises:
        ModelError: as :func:`write`.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary)
            write(folder, made)
            return load(made)
    if not _files.read_json(folder / "tokenizer_config.json").get(_LEFTMOST):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from tasks.models.tokenizers._leftmost import LeftmostTokenizer

    return LeftmostTokenizer.from_folder(folder)


def _added(source: Path, config: Mapping[str, Any]) -> dict[int, Any]:
    """The tokens (AddedToken) that the folder's files add or rename, by id."""
    from tokenizers import AddedToken

    found: dict[int, Any] = {}
    try:
        for text, i in _files.read_json(source / "added_tokens.json").items():
            found[int(i)] = AddedToken(text, special=False, normalized=False)
        for i, token in (config.get("added_tokens_decoder") or {}).items():
            flags = {key: bool(token.get(key)) for key in ("special", "lstrip", "rstrip", "single_word")}
            found[int(i)] = AddedToken(token["content"], normalized=False, **flags)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{source}: its added tokens are not a table of tokens and ids ({error!r})") from error
    return found


def _named(source: Path, config: Mapping[str, Any], model: Model) -> dict[str, str | None]:
    """The special tokens with a role. An empty name (old conversions of LLaMA) means the model's own."""
    from_map = _files.read_json(source / "special_tokens_map.json")
    own = {"bos_token": model.bos_id, "eos_token": model.eos_id, "unk_token": model.unknown_id}
    found = {name: _content(config.get(name)) or _content(from_map.get(name)) for name in _NAMED}
    for name, i in own.items():
        if not found[name] and 0 <= i < len(model.pieces):
            found[name] = model.pieces[i].text
    return found


def _content(token: Any) -> str | None:
    """A token's text: the files have it plain or in an object with its flags."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) and value else None


def _ends(tokenizer: Any, first: str | None, last: str | None) -> Any:
    """The post-processor that puts the tokens around a text."""
    from tokenizers import processors

    def around(part: str, kind: int) -> str:
        return " ".join(f"{each}:{kind}" for each in (first, part, last) if each)

    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, last)) if token]
    return processors.TemplateProcessing(
        single=around("$A", 0), pair=f"{around('$A', 0)} {around('$B', 1)}", special_tokens=special
    )


def _tied(model: Model) -> bool:
    """Whether two pieces that merges make have one score."""
    scores = [piece.score for piece in model.pieces if piece.kind == NORMAL and len(piece.text) > 1]
    return model.algorithm == BPE and len(set(scores)) != len(scores)
