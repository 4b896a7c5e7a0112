"""Names of people known from an export's contacts: which are used, and where they occur."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from tasks.data.personal_data.detectors.folding import TRADITIONAL, Match, fold, nfkc

#: Contact remarks that say a relation, a role or a service: they name nobody, and stand in every other sentence.
_RELATIONS_AND_ROLES = """
妈妈 爸爸 妈咪 爹地 老妈 老爸 母亲 父亲 爷爷 奶奶 外公 外婆 姥姥 姥爷 公公 婆婆 岳父 岳母 老婆 老公 媳妇 太太
先生 妻子 丈夫 爱人 对象 男朋友 女朋友 男友 女友 前任 宝宝 宝贝 宝贝儿 亲爱的 儿子 女儿 闺女 孩子 哥哥 姐姐 弟弟
妹妹 大哥 二哥 大姐 二姐 老弟 老妹 表哥 表姐 表弟 表妹 堂哥 堂姐 堂弟 堂妹 嫂子 姐夫 妹夫 弟妹 叔叔 阿姨 伯伯
伯父 伯母 舅舅 舅妈 姑姑 姑父 姑妈 姨妈 姨父 小姨 大姨 婶婶 侄子 侄女 外甥 老师 同学 班长 老板 领导 经理 主任
同事 客户 师傅 师父 司机 房东 中介 邻居 朋友 好友 闺蜜 兄弟 姐妹 室友 舍友 学长 学姐 学弟 学妹 师兄 师姐 医生
大夫 护士 患者 病人 医师 教授 院长 律师 警察 快递 快递员 外卖 客服 管理员 群主 助手 助理 秘书 销售 顾问 教练
物业 保安 店长 店主 老乡 用户 昵称 匿名 未知 未命名 自己 本人 我们 你们 大家 家人 亲人 群聊 微信 微信用户
微信团队 文件传输助手 文件助手 服务通知 订阅号 公众号 系统消息 系统通知 语音 图片 视频 测试 小号 大号 新朋友
你好 谢谢 哈哈 哈哈哈 晚安 早安 机器人 小助手 me you user users admin test unknown none null system assistant
bot mom mum mama dad papa mother father wife husband baby honey boss teacher doctor nurse friend friends driver
hello filehelper weixin wechat qq the and for name human gpt chatgpt observation tool
"""
_GENERIC = frozenset(_RELATIONS_AND_ROLES.split())
#: A name, and the emoji that may stand beside it as part of it.
Known = tuple[str, str]
_LETTERS = re.compile(r"[^\W\d_]")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_EMOJI = "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_INNER_EMOJI = re.compile(f"[{_EMOJI}]+")
_LONGEST = 30


def usable_names(names: Iterable[str]) -> list[str]:
    """The names worth redacting, without emoji and decorations at their ends, longest first.

    Left out: single characters, names of ASCII letters shorter than three, names without letters (a number would
    take every such number from the text), more than 30 characters, and remarks that are a relation or a role
    (妈妈, 老师, 客服). Given names alone (小明 of 王小明) are not derived: too many are ordinary words
    (国庆, 海洋, 明天); whoever wants them adds them to ``data.redact_names``.
    """
    result: dict[str, str] = {}
    for name in names:
        clean = plain(name)
        key = clean.casefold()
        if key and _is_usable(clean) and key not in _GENERIC:
            result.setdefault(key, clean)
    return sorted(result.values(), key=lambda name: (-len(name), name))


def plain(name: str) -> str:
    """A name without emoji, and without brackets and other marks at its ends."""
    return _INNER_EMOJI.sub("", _EDGES.sub("", nfkc(name))).strip()


def known(names: Iterable[str]) -> tuple[Known, ...]:
    """The usable names, longest first, each with the emoji that stand in it in one of the given forms."""
    given, emoji = list(names), dict[str, set[str]]()
    for name in given:
        emoji.setdefault(plain(name).casefold(), set()).update("".join(_INNER_EMOJI.findall(nfkc(name))))
    return tuple((name, "".join(sorted(emoji[name.casefold()]))) for name in usable_names(given))


def _is_usable(name: str) -> bool:
    if not 2 <= len(name) <= _LONGEST or not _LETTERS.search(name):
        return False
    return len(name) >= 3 or not name.isascii()


def find(text: str, names: tuple[Known, ...]) -> Iterator[Match]:
    """Occurrences of names in a folded text, with or without emoji; both are one value."""
    if names:
        for match in _pattern(names).finditer(text):
            yield Match("name", *match.span(), plain(match.group()).casefold())


@lru_cache(maxsize=256)
def _pattern(names: tuple[Known, ...]) -> re.Pattern[str]:
    return re.compile("|".join(_bounded(*name) for name in names), re.IGNORECASE)


def _bounded(name: str, emoji: str) -> str:
    """A name of ASCII letters counts as a whole word only: Ann is not in Annual.

    The emoji beside a name are part of it only where the contacts write them so: 大熊😂 is 大熊, laughing.
    """
    name = fold(name)
    left = r"(?<![A-Za-z0-9_])" if name[0].isascii() else ""
    right = r"(?![A-Za-z0-9_])" if name[-1].isascii() else ""
    word = left + f"[{_EMOJI}]{{0,2}}".join(map(re.escape, name)) + right
    return f"(?:[{emoji}] ?){{0,4}}{word}(?: ?[{emoji}]){{0,4}}" if emoji else word


@lru_cache(maxsize=256)
def hint(names: tuple[Known, ...]) -> re.Pattern[str] | None:
    """A pattern that every original text with one of the names matches; cheap on texts without them.

    It looks for a name's first character (in any width or case) with its second within five characters.
    """
    firsts: dict[str, set[str]] = {}
    for name, _ in names:
        for first in _forms(name[0]):
            firsts.setdefault(first, set()).update(_forms(name[1]))
    if not firsts:
        return None
    branches = (f"(?<={re.escape(a)}).{{0,4}}[{re.escape(''.join(sorted(b)))}]" for a, b in sorted(firsts.items()))
    return re.compile(f"[{re.escape(''.join(sorted(firsts)))}](?:{'|'.join(branches)})", re.DOTALL)


def _forms(character: str) -> set[str]:
    """The ways in which a character may stand in an original text."""
    simple = fold(character)
    forms = {character, simple, character.lower(), character.upper()}
    forms |= {old for old, new in TRADITIONAL.items() if new == simple}
    wide = {chr(ord(c) + 0xFEE0) for c in forms if len(c) == 1 and "!" <= c <= "~"}
    return {c for c in forms | wide if len(c) == 1} | ({" ", "\u3000", "\u00a0"} if character == " " else set())
