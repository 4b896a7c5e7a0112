"""GLM-4's tokenizer in the hub's first form: byte-level ranks, one ``base64 rank`` a line, control tokens behind them.

Source: THUDM/glm-4-9b-chat, tokenization_chatglm.py (the pattern, the tokens' order, the layout); tiktoken (ranks).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models.tokenizers import _files, _pieces, _proto
from tasks.models.tokenizers._proto import NORMAL, Piece

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
#: In the order of their ids, from the number of ranks on (151329).
_CONTROL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)

_TEMPLATE = """\
[gMASK]<sop>
{%- if tools -%}{{- '<|system|>\\n' ~ (tools | tojson(indent=4)) -}}{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'observation' if message.role == 'tool' else message.role -%}
    {%- if role not in ('system', 'user', 'assistant', 'observation') -%}
        {{- raise_exception('role ' ~ role ~ ': GLM-4 knows system, user, assistant, observation') -}}
    {%- endif -%}
    {{- '<|' ~ role ~ '|>' -}}
    {%- if role == 'assistant' -%}
        {%- generation -%}{{- (message.metadata or '') ~ '\\n' ~ (message.content or '') -}}{%- endgeneration -%}
    {%- else -%}
        {{- (message.metadata or '') ~ '\\n' ~ (message.content or '') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


def write(source: Path, target: Path) -> None:
    """Make the tokenizer of ``source``'s tokenizer.model in ``target``; the folder's own chat template is kept.

    Raises:
        ModelError: the file is missing or is not a file of ranks.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    path = source / "tokenizer.model"
    ranks = _ranks(path)
    spell = _spelling()
    # a rank is the priority of a merge, too, and the id of what it gives
    pieces = [Piece("".join(spell[byte] for byte in token), -float(rank), NORMAL) for rank, token in enumerate(ranks)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece.text: i for i, piece in enumerate(pieces)},
            merges=_pieces.merges(pieces),
            ignore_merges=True,  # a word that is a token is that token, however it is made
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = {name: len(ranks) + i for i, name in enumerate(_CONTROL)}
    tokens = [AddedToken(name, special=True, normalized=False) for name in control]
    _files.append_special(tokenizer, tokens, len(ranks), path)
    start = ("[gMASK]", "<sop>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        pair="[gMASK] <sop> $A $B <|endoftext|>",
        special_tokens=[(name, control[name]) for name in (*start, "<|endoftext|>")],
    )
    settings: dict[str, Any] = {
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(_CONTROL),
    }
    _files.write(target, tokenizer, settings, _files.own_template(source) or _TEMPLATE)


def _ranks(path: Path) -> list[bytes]:
    """The byte strings by rank."""
    content = _proto.read_bytes(path)
    found: dict[int, bytes] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split()
            found[int(rank)] = base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error) as error:
            raise ModelError(
                f"{path}:{number}: not `base64 rank` ({error}): not GLM-4's tokenizer, or cut short; download it again"
            ) from error
    ranks = [found[i] for i in sorted(found)]
    if sorted(found) != list(range(len(found))) or not {bytes([b]) for b in range(256)} <= set(ranks):
        raise ModelError(f"{path}: {len(found)} ranks with gaps among them or without all 256 bytes; download it again")
    if len(set(ranks)) != len(ranks):
        raise ModelError(f"{path}: two ranks for the same bytes; not GLM-4's tokenizer")
    return ranks


def _spelling() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be seen.

    Source: GPT-2's byte-level vocabularies, which tokenizers' ByteLevel writes and reads.
    """
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]
