"""Tokenizer of the embedded model: one token a character, with a byte fallback.

Owns the vocabulary, the special tokens and the chat template. No normalisation, no dummy prefix: every string
decodes to itself. Ids: special tokens, then the 256 bytes, then the characters in code point order.
"""

from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "observation")}
SPECIAL_TOKENS = (PAD, EOS, "[gMASK]", "sop", *ROLES.values())
STOP_TOKENS = (EOS, ROLES["user"], ROLES["observation"])
BYTE_TOKENS = tuple(f"<0x{value:02X}>" for value in range(256))
MAX_TOKENS = 2048

PUNCTUATION = "，。、；：？！…—·～“”‘’（）《》〈〉【】「」『』〔〕￥×÷±≤≥≠≈℃°％‰→←↑↓■□▲△●○◆◇★☆√∶／＋－＝＜＞＿　"
FULL_WIDTH = "".join(chr(code) for code in range(0xFF01, 0xFF5F))
NUMERALS = "①②③④⑤⑥⑦⑧⑨⑩ⅠⅡⅢⅣⅤⅥαβγδμ"

# An assistant turn ends with the next role token, which the model has to produce itself: it is written inside
# the generation block of the assistant turn, and the following message leaves its own role token out.
CHAT_TEMPLATE = """\
{{- '[gMASK]sop' -}}
{%- for message in messages -%}
{%- if loop.first or loop.previtem['role'] != 'assistant' -%}
{{- '<|' + message['role'] + '|>' -}}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- '\\n' + message['content'] -}}
{{- '</s>' if loop.last else '<|' + loop.nextitem['role'] + '|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- '\\n' + message['content'] -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def common_characters() -> str:
    """The 3,755 characters of GB2312 level 1: the ones in common use, in the standard's order."""
    return b"".join(
        bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) if (row, cell) <= (0xD7, 0xF9)
    ).decode("gb2312")


def characters(text: str, at_least: int = 4) -> list[str]:
    """Characters with a token of their own: the fixed sets, and what occurs `at_least` times in `text`."""
    ascii_characters = "\n\t" + "".join(chr(code) for code in range(0x20, 0x7F))
    frequent = {character for character, count in Counter(text).items() if count >= at_least}
    fixed = set(ascii_characters + PUNCTUATION + FULL_WIDTH + NUMERALS + common_characters())
    # U+FFFD and other control characters stay bytes: they are noise in the text, not something to learn.
    return sorted(c for c in fixed | frequent if c in "\n\t" or ((c.isprintable() or c == "　") and c != "�"))


def build_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer for the characters of `text` and the fixed sets."""
    tokens = [*SPECIAL_TOKENS, *BYTE_TOKENS, *characters(text)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError(f"{len(tokens) - len(vocabulary)} tokens occur twice in the vocabulary")
    # A BPE model without merges is a character tokenizer; it is the model class that knows the byte fallback.
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], byte_fallback=True, cache_capacity=0))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, EOS)],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
