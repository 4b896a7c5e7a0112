"""Chats of one person with two friends, as MemoTrace exports them and as a raw log; dialogues in two other forms."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from random import Random
from typing import Any

OWNER = "小舟"
SYSTEM = f"你是{OWNER}，一个聪明、热情、善良的人，后面的对话来自你的朋友，你要认真地回答他"

PLACES = ["图书馆", "东门", "体育馆", "地铁口", "咖啡店", "火车站", "公园", "楼下", "食堂", "电影院"]
TIMES = ["今晚", "明天上午", "明天下午", "周五晚上", "周六", "周日中午", "下班以后", "七点半"]
DISHES = ["火锅", "烤鱼", "饺子", "拉面", "小笼包", "麻辣烫", "烧烤", "寿司", "煲仔饭"]
SPORTS = ["羽毛球", "游泳", "爬山", "跑步", "篮球", "骑车"]
THINGS = ["充电器", "雨伞", "课本", "相机", "钥匙", "耳机", "身份证", "水杯"]
JOBS = ["报告", "表格", "方案", "照片", "会议记录", "报销单"]
SLOTS = {"p": PLACES, "t": TIMES, "d": DISHES, "s": SPORTS, "o": THINGS, "j": JOBS}

#: Contact -> exchanges of (what the friend writes, how the owner answers); the owner's manner differs by friend.
FRIENDS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "阿杰": (
        (
            ("{t}去吃{d}？", "{t}一起吃{d}不", "想吃{d}了，{t}有空没"),
            ("走起！{t}吃{d}[呲牙]", "可以啊，{d}我请哈哈", "哈哈{d}安排上，{t}见"),
        ),
        (
            ("{t}{s}来不来", "{t}打算去{s}，缺人", "{s}，{t}，来？"),
            ("来来来，{t}{s}算我一个", "必须的，{s}走起！", "{t}没问题哈哈，{s}见"),
        ),
        (
            ("我到{p}了", "你在哪，我在{p}", "{p}等你啊"),
            ("马上到{p}，两分钟[奔跑]", "别催别催，{p}见", "哈哈我也快到{p}了"),
        ),
        (
            ("你看见我{o}没", "我{o}是不是落你那了", "{o}找不到了"),
            ("{o}在我这呢，放心哈哈", "在我包里，{o}明天带给你", "没看见{o}，我帮你找找"),
        ),
        (
            ("今天累死了", "加班到现在，困死", "考完试了，累"),
            ("辛苦啦兄弟，早点睡[抱拳]", "哈哈快去躺平", "抱抱，周末带你放松下"),
        ),
        (("在吗", "在不在", "忙吗"), ("在呢，咋啦", "在在在，说", "刚忙完，啥事")),
        (("谢了", "多谢啊", "爱你兄弟"), ("客气啥哈哈", "小事小事[呲牙]", "咱俩谁跟谁")),
    ),
    "林姐": (
        (
            ("小舟，{j}做好了吗", "{j}什么时候能给我", "{j}{t}之前可以吗"),
            ("林姐好，{j}{t}前发您", "好的林姐，{j}我马上整理", "{j}已经发您邮箱了，请查收"),
        ),
        (
            ("{t}在{p}碰个头", "{t}到{p}来一下", "{p}，{t}，方便吗"),
            ("好的林姐，{t}{p}见", "收到，{t}我准时到{p}", "方便的，{t}{p}见您"),
        ),
        (
            ("帮我带一下{o}", "我的{o}忘在办公室了", "能帮忙拿下{o}吗"),
            ("没问题，{o}我帮您带过去", "好的林姐，{o}我这就去拿", "收到，{o}下楼就给您"),
        ),
        (
            ("这次辛苦你了", "做得不错", "大家都夸你"),
            ("谢谢林姐，应该的[玫瑰]", "谢谢林姐鼓励，我继续努力", "都是大家一起做的，谢谢林姐"),
        ),
        (("小舟在吗", "忙着吗", "方便说话吗"), ("在的林姐，您说", "不忙，林姐请讲", "方便的，您说")),
        (("早点休息", "路上小心", "周末愉快"), ("谢谢林姐，您也是", "好的林姐，您也早点休息", "谢谢林姐[太阳]")),
    ),
}

QUESTIONS: tuple[tuple[str, str], ...] = (
    ("{x}怎么去？", "去{x}可以坐地铁，出站后步行五分钟。"),
    ("{x}几点开门？", "{x}上午九点开门，下午六点关门。"),
    ("从学校到{x}远吗？", "不远，骑车到{x}大约十五分钟。"),
    ("{x}附近有停车场吗？", "有的，{x}南侧就有一个停车场。"),
)
TOOLS = [{"name": "query_opening", "description": "查询场所的开放时间", "parameters": {"place": {"type": "string"}}}]


def exports(rng: Random, contact: str, count: int) -> list[dict[str, Any]]:
    """Distinct dialogues with one contact, one to three exchanges each."""
    result: list[dict[str, Any]] = []
    seen = set()
    while len(result) < count:
        turns = [
            turn
            for exchange in rng.sample(FRIENDS[contact], rng.choice((1, 1, 2, 3)))
            for turn in _exchange(rng, exchange)
        ]
        if (key := json.dumps(turns)) in seen:
            continue
        seen.add(key)
        result.append({"conversations": [{"role": "system", "content": SYSTEM}, *turns]})
    return result


#: MemoTrace's messages.csv. Remark and NickName are the chat's, Sender is the speaker's nickname, or 我.
LOG_COLUMNS = "localId,TalkerId,Type,SubType,IsSender,CreateTime,Status,StrContent,StrTime,Remark,NickName,Sender"
NICKNAMES = {"阿杰": "大杰", "林姐": "林晓"}
GROUP = "周末爬山群"


def log(rng: Random) -> str:
    """One person's messages with two friends and a group in one CSV, interleaved, with what is not text in between."""
    messages: list[tuple[int, str, int, str, str]] = []  # time, chat, type, sender ("" is the owner), text
    now = 1_700_000_000
    for _ in range(200):
        now += rng.randrange(600, 40_000)
        friend = rng.choice(list(FRIENDS))
        at = now
        for question, answer in (_said(rng, e) for e in rng.sample(FRIENDS[friend], rng.choice((1, 1, 2)))):
            at += rng.randrange(1, 40)
            messages.append((at, friend, 1, friend, question))
            if rng.random() < 0.15:
                messages.append((at + 2, friend, rng.choice((3, 47)), friend, '<?xml version="1.0"?><msg></msg>'))
            if rng.random() < 0.1:
                break  # never answered
            at += rng.choice((5, 9, 30, 300))  # 300 s: a late reply still belongs to the dialogue
            messages.append((at, friend, 1, "", answer))
        if rng.random() < 0.2:
            messages.append((now + 15, GROUP, 1, rng.choice(("大杰", "小吴")), rng.choice(PLACES) + "集合"))
    messages.append((now + 90_000, "阿杰", 10000, "阿杰", "你撤回了一条消息"))
    messages.sort(key=lambda message: message[0])
    messages[20], messages[60] = messages[60], messages[20]  # two messages that a merge of databases put out of place
    return _csv(messages)


def _csv(messages: list[tuple[int, str, int, str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(LOG_COLUMNS.split(","))
    talkers = {"阿杰": 3, "林姐": 5, GROUP: 9}
    for number, (time, chat, kind, sender, content) in enumerate(messages, start=1):
        written = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        nickname = NICKNAMES.get(chat, chat)
        speaker = NICKNAMES.get(sender, sender) or "我"
        who = ["" if chat == GROUP else chat, nickname, speaker]
        writer.writerow([number, talkers[chat], kind, 0, int(not sender), time, "", content, written, *who])
    return text.getvalue()


def conversations(rng: Random) -> list[dict[str, Any]]:
    """ChatGLM3's form: plain questions, and some that call a tool."""
    rows: list[dict[str, Any]] = []
    for place in PLACES:
        for question, answer in QUESTIONS:
            turns = [{"role": "user", "content": question.format(x=place)}]
            row: dict[str, Any] = {"conversations": turns}
            if "几点" in question:
                row = {"tools": TOOLS, **row}
                parameters = {"place": place}
                seen = {"open": "9:00", "close": "18:00"}
                turns.append({"role": "tool", "name": "query_opening", "parameters": parameters, "observation": seen})  # type: ignore[dict-item]
            turns.append({"role": "assistant", "content": answer.format(x=place)})
            rows.append(row)
    rng.shuffle(rows)
    return rows


def messages(rng: Random) -> list[dict[str, Any]]:
    """OpenAI's form: two questions on one place, the first reply of some not learned."""
    rows: list[dict[str, Any]] = []
    for place in PLACES:
        for first, second in ((0, 1), (1, 2), (2, 3), (3, 0)):
            turns: list[dict[str, Any]] = [{"role": "system", "content": "你是校园问路助手。"}]
            for question, answer in (QUESTIONS[first], QUESTIONS[second]):
                turns.append({"role": "user", "content": question.format(x=place)})
                turns.append({"role": "assistant", "content": answer.format(x=place)})
            if rng.random() < 0.2:
                turns[2]["weight"] = 0
            rows.append({"messages": turns})
    rng.shuffle(rows)
    return rows


def _said(rng: Random, exchange: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[str, str]:
    values = {slot: rng.choice(words) for slot, words in SLOTS.items()}
    question, answer = (rng.choice(options).format(**values) for options in exchange)
    return question, answer


def _exchange(rng: Random, exchange: tuple[tuple[str, ...], tuple[str, ...]]) -> list[dict[str, str]]:
    question, answer = _said(rng, exchange)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
