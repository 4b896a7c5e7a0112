"""Exercises on exact copying and on associative recall."""

from tasks.models.embedded.corpus import Dialogue
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.wording import ENDINGS, LIST_SEPARATORS, instruct, present

ORDINALS = "一二三四五六七八九十"


def copy(spans: Spans) -> Dialogue:
    """Repeat a span, put marks around it, or write it several times."""
    rng = spans.rng
    span = spans.raw(2, 40).strip() if rng.random() < 0.3 else spans.item(1, 16)
    span = span or spans.word()
    instruction = instruct(
        spans,
        (
            "复述",
            "重复",
            "照抄",
            "原样写出",
            "抄写",
            "再说一遍",
            "复制",
            "跟我念",
            "一字不差地输出",
            "原封不动地写下",
        ),
        ("", "下面的", "这段", "以下", "后面的", "给出的"),
        ("文字", "内容", "词", "字符", "话", "片段"),
    )
    roll = rng.random()
    if roll < 0.75:
        return [("user", present(spans, instruction, span)), ("assistant", span)]
    if roll < 0.88:
        marks = spans.pick(("「」", "【】", "()", "“”", "**", "<>", "##"))
        left, right = marks[0], marks[1]
        return [
            ("user", present(spans, f"给下面的内容前面加{left}后面加{right}", span)),
            ("assistant", left + span + right),
        ]
    times = rng.randint(2, 3)
    separator = spans.pick(("，", "\n", " ", "、"))
    name = {"，": "逗号", "\n": "换行", " ": "空格", "、": "顿号"}[separator]
    span = span[:12]
    return [
        ("user", present(spans, f"把下面的内容写{times}遍，用{name}分开", span)),
        ("assistant", separator.join([span] * times)),
    ]


def repeat(spans: Spans) -> Dialogue:
    """A long span of random or real text, written again: the densest lesson in copying."""
    rng = spans.rng
    size = rng.randint(12, 40)
    if rng.random() < 0.7:
        alphabet = spans.common if rng.random() < 0.5 else spans.chinese
        span = "".join(spans.pick(alphabet) for _ in range(size))
    else:
        span = spans.raw(size, size).strip() or spans.word()
    instruction = instruct(
        spans, ("复述", "重复", "照抄", "抄写", "复制"), ("", "下面的", "这段", "以下"), ("文字", "内容", "话")
    )
    return [("user", f"{instruction}：\n{span}"), ("assistant", span)]


def list_item(spans: Spans) -> Dialogue:
    """The k-th, last, next or missing item of a list, or the whole list in another form."""
    rng = spans.rng
    items = spans.items(rng.randint(2, 8), 1, 7)
    separator = spans.pick(LIST_SEPARATORS)
    material = separator.join(items)
    k = rng.randrange(len(items))
    roll = rng.random()
    if roll < 0.35:
        number = spans.pick((str(k + 1), ORDINALS[k]))
        instruction = instruct(
            spans,
            ("说出", "写出", "找出", "取出", "给我"),
            ("下面", "列表里", "其中", "这些词里"),
            (f"第{number}个", f"第{number}项"),
        )
        answer = items[k]
    elif roll < 0.45:
        instruction, answer = (
            instruct(spans, ("说出", "写出", "给我"), ("最后一个", "末尾一项", "最后那个")),
            items[-1],
        )
    elif roll < 0.70:
        k = rng.randrange(len(items) - 1)
        forward = rng.random() < 0.6
        asked, answer = (items[k], items[k + 1]) if forward else (items[k + 1], items[k])
        place = spans.pick(("后面", "下一个", "之后")) if forward else spans.pick(("前面", "上一个", "之前"))
        instruction = spans.pick(
            (
                f"{asked}的{place}是什么",
                f"列表中{asked}{place}是哪个",
                f"看列表，{asked}{place}写的是",
                f"找到{asked}，说出它{place}的那项",
            )
        )
    else:
        new = spans.pick(("、", "，", "\n", "；", "|", " "))
        name = {"、": "顿号", "，": "逗号", "\n": "换行", "；": "分号", "|": "竖线", " ": "空格"}[new]
        instruction = instruct(
            spans,
            ("把这些词", "将各项", "把列表", "把下面几项"),
            (f"用{name}连接", f"改用{name}分隔", f"以{name}隔开"),
        )
        answer = new.join(items)
    return [("user", present(spans, instruction, material)), ("assistant", answer)]


def recall(spans: Spans) -> Dialogue:
    """The value of a key, the key of a value, or several of them."""
    rng = spans.rng
    count = rng.randint(2, 7)
    keys, values = spans.items(count, 1, 4), spans.items(count, 1, 8)
    joint = spans.pick(("：", "：", ":", "=", "是", "->", "→", "，", "为", " ", "——"))
    between = spans.pick(("\n", "\n", "；", "。", "，", " ")) if joint != "，" else "；"
    material = between.join(f"{k}{joint}{v}" for k, v in zip(keys, values, strict=True))
    index = rng.randrange(count)
    key, value = keys[index], values[index]
    roll = rng.random()
    if roll < 0.65:
        question = spans.pick(
            (
                f"{key}是什么",
                f"{key}对应什么",
                f"请问{key}的值",
                f"查一下{key}",
                f"{key}是多少？",
                f"找出{key}后面的内容",
                f"{key}呢？",
                f"告诉我{key}",
                f"根据上面的资料，{key}写的什么",
                f"读表，{key}一栏填的是",
                f"{key}：",
                f"只回答{key}的内容",
            )
        )
        answer = value
    elif roll < 0.80:
        question = spans.pick(
            (
                f"哪一项是{value}",
                f"{value}属于谁",
                f"{value}对应哪个名称",
                f"什么的值是{value}？",
                f"{value}前面的名称是",
                f"反查{value}",
            )
        )
        answer = key
    else:
        chosen = rng.sample(range(count), min(count, rng.randint(2, 3)))
        names = spans.pick(("和", "、", "，")).join(keys[i] for i in chosen)
        form = spans.pick(("{k}：{v}", "{k}是{v}", "{v}", "{k}={v}"))
        question = spans.pick(
            (
                f"按“{form.format(k='名称', v='内容')}”一行一个写出{names}",
                f"用“{form.format(k='甲', v='乙')}”的样子分行列出{names}",
            )
        )
        answer = "\n".join(form.format(k=keys[i], v=values[i]) for i in chosen)
    end = spans.pick(ENDINGS)
    if rng.random() < 0.25:
        return [
            ("user", material),
            ("assistant", spans.pick(("记住了。", "好的。", "收到。", "明白了。"))),
            ("user", question),
            ("assistant", answer),
        ]
    text = present(spans, question, material, ending=False) if rng.random() < 0.5 else material + "\n" + question
    return [("user", text + "\n" + end if end else text), ("assistant", answer)]
