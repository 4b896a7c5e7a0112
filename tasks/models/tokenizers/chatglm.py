"""ChatGLM-6B's tokenizer: a Unigram vocabulary, with tokens for line breaks, tabs and runs of spaces.

Plain text is encoded with ``[gMASK] <sop>`` behind it: what follows is the reply. SentencePiece's rules make what is
left of the spacing uniform (NFKC, one space at most, none at the ends), so decoding gives back text of that form.

Source: THUDM/chatglm-6b, tokenization_chatglm.py (order of the replacements, ids, layouts).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models.tokenizers import _files, _pieces, _proto

_CONTROL = {"[MASK]": 130000, "[gMASK]": 130001, "[sMASK]": 130002, "<sop>": 130004, "<eop>": 130005, "<pad>": 3}
_MOST_SPACES = 80

_TEMPLATE = """\
{%- set rounds = namespace(number=0, query=[], text='', reply=none) -%}
{%- for message in messages -%}
    {%- if message.role != 'assistant' -%}
        {%- set rounds.query = rounds.query + [message.content] -%}
    {%- elif loop.last -%}
        {%- set rounds.reply = message.content -%}
    {%- else -%}
        {%- set rounds.text = rounds.text ~ '[Round ' ~ rounds.number ~ ']\\n问：'
            ~ (rounds.query | join('\\n\\n')) ~ '\\n答：' ~ message.content ~ '\\n' -%}
        {%- set rounds.number = rounds.number + 1 -%}
        {%- set rounds.query = [] -%}
    {%- endif -%}
{%- endfor -%}
{%- if rounds.number == 0 -%}
    {{- rounds.query | join('\\n\\n') -}}
{%- else -%}
    {{- rounds.text -}}
    {%- if rounds.query or rounds.reply is not none -%}
        {{- '[Round ' ~ rounds.number ~ ']\\n问：' ~ (rounds.query | join('\\n\\n')) ~ '\\n答：' -}}
    {%- endif -%}
{%- endif -%}
{{- '[gMASK]<sop>' -}}
{%- if rounds.reply is not none -%}
    {%- generation -%}{{- rounds.reply ~ eos_token -}}{%- endgeneration -%}
{%- endif -%}
"""


def write(source: Path, target: Path) -> None:
    """Make the tokenizer of ``source``'s ice_text.model in ``target``.

    Raises:
        ModelError: the file is missing or is not this model's.
    """
    from tokenizers import decoders, normalizers, processors

    path = source / "ice_text.model"
    model = _proto.read(path)
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    wrong = [f"{name} is {ids.get(name)}, not {i}" for name, i in _CONTROL.items() if ids.get(name) != i]
    if wrong:
        raise ModelError(
            f"{path}: {wrong[0]}: not ChatGLM-6B's tokenizer, or its first edition (before April 2023, other ids); "
            "download the file again"
        )
    spacing = _spacing()
    tokenizer = _pieces.build(model, path, before=[normalizers.Replace(text, token) for text, token in spacing.items()])
    tokenizer.decoder = decoders.Sequence(
        [*(decoders.Replace(token, text) for text, token in spacing.items()), tokenizer.decoder]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [gMASK] <sop>",
        pair="$A [gMASK] <sop> $B <eop>",
        special_tokens=[(name, _CONTROL[name]) for name in ("[gMASK]", "<sop>", "<eop>")],
    )
    settings: dict[str, Any] = {
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "[MASK]",
        "additional_special_tokens": ["[gMASK]", "[sMASK]"],
    }
    _files.write(target, tokenizer, settings, _TEMPLATE)


def _spacing() -> dict[str, str]:
    """What stands for spacing in text that the vocabulary knows, in the order of replacement."""
    runs = {" " * n: f"<|blank_{n}|>" for n in range(_MOST_SPACES, 1, -1)}
    return {"\n": "<n>", "\t": "<|tab|>", **runs}
