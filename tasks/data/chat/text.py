"""What kind of message a text or a type column shows: words, a quote, a placeholder of a picture, a notice.

Emoji codes like [捂脸] are words. Does not know columns or dialogues.

Source: the message types of WeChat as MemoTrace (numbers) and PyWxDump (names) write them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

NOT_TEXT = "not a text message"
PLACEHOLDER = "quote or media placeholder"
NOTICE = "system notice"
QUOTE_CUT = "quoted message left out of a reply"

#: Values of a type column that mean words; compared in lower case. Empty: the log does not say.
TEXT_TYPES = frozenset({"", "1", "text", "文本", "文本消息", "文字", "类似文字消息而不一样的消息"})
#: Words with a quoted message behind or before them.
QUOTE_TYPES = frozenset({"带有引用的文本消息", "引用回复", "引用消息", "引用", "quote"})
_NOTICE_TYPES = frozenset(
    {"10000", "10002", "系统通知", "系统消息", "system", "拍一拍", "添加好友", "邀请加群", "群公告"}
)
#: What stands for a message without words where media is kept; other types keep the name of the type.
_NAMES = {
    "3": "图片",
    "34": "语音",
    "42": "名片",
    "43": "视频",
    "47": "动画表情",
    "48": "位置",
    "49": "分享",
    "50": "通话",
    "image": "图片",
    "voice": "语音",
    "video": "视频",
    "file": "文件",
    "emoji": "动画表情",
}
_MEDIA = (
    "图片|语音|视频|动画表情|表情包|文件|位置|链接|名片|小程序|红包|微信红包|转账|音乐|聊天记录|分享|通话|语音通话|视频通话|"
    "语音消息|图片消息|视频消息|Photo|Image|Voice|Video|Sticker|File"
)
_MEDIA_TEXT = re.compile(
    rf"\[(?:{_MEDIA})\](?:\s*[^\s\[\]]+\.\w{{1,5}})?|<(?:\?xml|msg|img|voicemsg|videomsg|emoji)\b.*", re.S
)
_NOTICE_TEXT = re.compile(r"(?:你|您|对方|“[^”]{1,40}”|\"[^\"]{1,40}\")\s*撤回了一条消息.{0,10}|<sysmsg\b.*", re.S)
#: 「name：text」 over a line of dashes, as WeChat copied quotes before 2020; and PyWxDump's [引用](time)name:text.
_QUOTE_BEFORE = re.compile(r"「[^「」]{1,60}?[：:].*?」\s*\n(?:- ?){3,}-?\s*\n?", re.S)
_QUOTE_BEHIND = re.compile(r"\s*\n\s*\[引用\].*", re.S)
_QUOTE_ALONE = re.compile(r"「[^「」]{1,60}?[：:][^」]*」\s*|\[引用\].*", re.S)


def kind(value: str, text_types: Collection[str] = ()) -> str:
    """ "" for words (with a quote perhaps), else why a message of this type is none: NOTICE or NOT_TEXT."""
    value = value.lower()
    if value in TEXT_TYPES or value in QUOTE_TYPES or value in text_types:
        return ""
    return NOTICE if value in _NOTICE_TYPES or value.startswith("消息撤回") else NOT_TEXT


def stand_in(value: str) -> str:
    """The placeholder for a message of a type without words: [图片]."""
    return f"[{_NAMES.get(value.lower(), value)}]"


def words(text: str, *, keep_media: bool) -> tuple[str, str, str]:
    """(text, reason, note): what the message says, or why it counts as none.

    A quote goes, the reply beside it stays. With ``keep_media`` both stay, and XML becomes a placeholder.
    """
    if _NOTICE_TEXT.fullmatch(text):
        return "", NOTICE, ""
    if _MEDIA_TEXT.fullmatch(text.strip()):
        if not keep_media:
            return "", PLACEHOLDER, ""
        return ("[分享]" if text.lstrip().startswith("<") else text), "", ""
    if keep_media or ("「" not in text and "[引用]" not in text):
        return text, "", ""
    if _QUOTE_ALONE.fullmatch(text.strip()):
        return "", PLACEHOLDER, ""
    rest = _QUOTE_BEHIND.sub("", _QUOTE_BEFORE.sub("", text, count=1), count=1)
    if rest == text:
        return text, "", ""
    return (rest, "", QUOTE_CUT) if rest.strip() else ("", PLACEHOLDER, "")
