"""ChatGLM2's and ChatGLM3's tokenizer: one SentencePiece vocabulary, control tokens behind it.

Plain text is encoded behind ``[gMASK] sop``, as the models were trained. The chat templates are for other programs;
here dialogues are rendered by the model's family, where typed text can never become a control token.

Source: THUDM/chatglm3-6b and chatglm2-6b, tokenization_chatglm.py (ids, layouts); its finetuning demo (tools).
"""

from __future__ import annotations

from pathlib import Path

from tasks.models.tokenizers import _files, _pieces, _proto

_PIECES = 64789
_CONTROL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

# The space behind a header's line break is the prefix that the model's own code gives each text of its own.
_CHATGLM3_TEMPLATE = """\
[gMASK]sop
{%- if tools -%}
    {%- set listed = namespace(tools=[]) -%}
    {%- for tool in tools -%}
        {%- set listed.tools = listed.tools + [tool.function if tool.function else tool] -%}
    {%- endfor -%}
    {{- '<|system|>\\n Answer the following questions as best as you can. '
        ~ 'You have access to the following tools:\\n' ~ (listed.tools | tojson(indent=4)) -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'observation' if message.role in ('tool', 'function') else message.role -%}
    {%- if role not in ('system', 'user', 'assistant', 'observation') -%}
        {{- raise_exception('role ' ~ role ~ ': ChatGLM3 knows system, user, assistant, observation') -}}
    {%- endif -%}
    {%- set content = (message.content or '')
        ~ ('\\n' ~ (message.tools | tojson(indent=4)) if role == 'system' and message.tools else '') -%}
    {%- if content or not message.tool_calls -%}
        {{- '<|' ~ role ~ '|>' -}}
        {%- if role == 'assistant' -%}
            {%- generation -%}
            {{- (message.metadata or '') ~ '\\n' ~ (' ' ~ content if content else '') -}}
            {%- endgeneration -%}
        {%- else -%}
            {{- (message.metadata or '') ~ '\\n' ~ (' ' ~ content if content else '') -}}
        {%- endif -%}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {%- set made = call.function if call.function else call -%}
        {%- set passed = namespace(arguments=[]) -%}
        {%- for name, value in made.arguments.items() -%}
            {%- set passed.arguments = passed.arguments + ['%s=%r' | format(name, value)] -%}
        {%- endfor -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}
        {{- made.name ~ '\\n ```python\\ntool_call(' ~ (passed.arguments | join(', ')) ~ ')\\n```' -}}
        {%- endgeneration -%}
    {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""

_CHATGLM2_TEMPLATE = """\
[gMASK]sop
{%- set rounds = namespace(number=1, query=[]) -%}
{%- for message in messages -%}
    {%- if message.role != 'assistant' -%}
        {%- set rounds.query = rounds.query + [message.content] -%}
    {%- else -%}
        {{- '[Round ' ~ rounds.number ~ ']\\n\\n问：' ~ (rounds.query | join('\\n\\n')) ~ '\\n\\n答：' -}}
        {%- if loop.last -%}
            {%- generation -%}{{- ' ' ~ message.content ~ eos_token -}}{%- endgeneration -%}
        {%- else -%}
            {{- message.content ~ '\\n\\n' -}}
        {%- endif -%}
        {%- set rounds.number = rounds.number + 1 -%}
        {%- set rounds.query = [] -%}
    {%- endif -%}
{%- endfor -%}
{%- if rounds.query -%}
    {{- '[Round ' ~ rounds.number ~ ']\\n\\n问：' ~ (rounds.query | join('\\n\\n')) ~ '\\n\\n答：' -}}
{%- endif -%}
"""


def write(source: Path, target: Path, *, roles: bool) -> None:
    """Make the tokenizer of ``source``'s tokenizer.model in ``target``.

    Args:
        roles: with ChatGLM3's role tokens; without, it is ChatGLM2's (and CodeGeeX2's).

    Raises:
        ModelError: the file is missing or is not this model's.
    """
    from tokenizers import AddedToken, processors

    path = source / "tokenizer.model"
    tokenizer = _pieces.build(_proto.read(path), path)
    names = [*_CONTROL, *(_ROLES if roles else ())]
    # as whole words only: a program that encodes a rendered text must not find `sop` in "soprano"
    tokens = [AddedToken(name, special=True, normalized=False, single_word=name.isalpha()) for name in names]
    _files.append_special(tokenizer, tokens, _PIECES, path)
    start = [("[gMASK]", _PIECES + 1), ("sop", _PIECES + 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] sop $A", pair="[gMASK] sop $A $B </s>", special_tokens=[*start, ("</s>", 2)]
    )
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "additional_special_tokens": names,
    }
    _files.write(target, tokenizer, settings, _CHATGLM3_TEMPLATE if roles else _CHATGLM2_TEMPLATE)
