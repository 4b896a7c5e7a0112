"""One pattern that says whether a text can hold personal data at all.

Most texts hold none, and the detectors are a hundred times slower than this. It reads the original text, so its
alphabets hold every form that NFKC turns into a digit or a letter that matters. Its first element is one set of
characters, which lets the engine skip all others in a tight loop; the branches look back at that character.
"""

from __future__ import annotations

import re

_DIGITS = "0-9０-９①-⑳⓪⑴-⒛¹²³⁰⁴-⁹₀-₉\U0001d7ce-\U0001d7ff"
_NUMERALS = "〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖"
_COUNTED = rf"{_DIGITS}{_NUMERALS}十百A-Za-zＡ-Ｚａ-ｚ甲乙丙丁"
_UNITS = "号號栋棟幢弄座单單室组队社楼樓户巷支"
_GAP = r"[^\u3400-\u9fff]"

_BRANCHES = (
    # three digits close to each other: numbers, plates, IPv4
    rf"(?<=[{_DIGITS}])(?:{_GAP}{{0,7}}?[{_DIGITS}]){{2}}",
    # a numbered house, in figures, numerals or a letter
    rf"(?<=[{_COUNTED}][{_UNITS}])",
    rf"(?<=[{_COUNTED}][ \u3000][{_UNITS}])",
    rf"(?<=[{_DIGITS}])[ \u3000]?[#＃]",
    rf"(?<=[路街巷弄区园寓苑村庭城])[东西南北]?[ \u3000]?[{_DIGITS}]",
    # spoken numbers
    rf"(?<=[{_NUMERALS}])(?:[^\u3400-\u9fffA-Za-z]{{0,2}}[{_NUMERALS}{_DIGITS}]){{7}}",
    # e-mail
    r"(?<=[@＠﹫])(?:[ \u3000]?[0-9A-Za-z０-９Ａ-Ｚａ-ｚ]|\Z)",
    r"(?<=[cCｃＣ])(?:[oOｏＯ][mMｍＭ]|[nNｎＮ])",
    r"(?<=[nNｎＮ])[eEｅＥ][tTｔＴ]",
    # WeChat
    r"(?<=[微威薇徽])[ \u3000]?[信❤星芯xXｘＸ]",
    r"(?<=[卫绿])[星泡]",
    r"(?<=[vVｖＶ])(?:[xXｘＸ❤.．]|[ \u3000]?[信:：])",
    r"(?<=[wWｗＷ])(?:[xXｘＸ.．]|[eEｅＥ][ \u3000]?[cCiIｃｉＣＩ])",
    r"(?<=[加+＋➕])(?:个|我|一下)?的?[ \u3000]?[vwVWｖｗＶＷ薇微威]",
    # IPv6
    r"(?<=[:：])[0-9A-Fa-f]{0,4}[:：][0-9A-Fa-f]",
)
_FIRST = rf"{_DIGITS}{_NUMERALS}{_UNITS}路街巷弄区园寓苑村庭城@＠﹫cCｃＣnNｎＮ微威薇徽卫绿vVｖＶwWｗＷ加+＋➕:："

#: Matches every text in which a detector may fire (known names apart).
HINT = re.compile(rf"[{_FIRST}](?:{'|'.join(_BRANCHES)})")
