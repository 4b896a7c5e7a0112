"""How an exercise is put into words: instruction and material, in many orders and with many separators."""

from collections.abc import Sequence

from tasks.models.embedded.spans import Spans

POLITE = (
    "",
    "",
    "",
    "请",
    "请你",
    "帮我",
    "麻烦",
    "需要你",
    "你来",
    "现在请",
    "任务：",
    "要求：",
    "试着",
    "下面请你",
)
LABELS = (
    "",
    "",
    "",
    "文本：",
    "内容：",
    "材料：",
    "原文：",
    "句子：",
    "输入：",
    "正文：",
    "文字如下：",
    "资料：",
)
ENDINGS = ("", "", "", "", "", "答：", "回答：", "结果：", "输出：", "答案：", "答案是")
LIST_SEPARATORS = ("，", "，", "、", "、", "\n", "；", " ", "/", ",", "|")
TIGHT_SEPARATORS = ("，", "、", "；", ",", "/")


def instruct(spans: Spans, *parts: Sequence[str]) -> str:
    """An instruction put together from one choice of every part, politely or not."""
    return spans.pick(POLITE) + "".join(spans.pick(part) for part in parts)


def present(spans: Spans, instruction: str, material: str, ending: bool = True) -> str:
    """The user's message: the material after the instruction, or before it, or inside it."""
    roll = spans.rng.random()
    label = spans.pick(LABELS)
    if roll < 0.62:
        mark = spans.pick(("：\n", "\n", "：", "。\n", "，")) if not instruction.endswith("？") else "\n"
        if mark == "，" and not label:
            mark = "：\n"
        text = instruction + mark + label + material
    elif roll < 0.90:
        text = label + material + "\n" + spans.pick(("", "", "问题：", "指令：", "要求：")) + instruction
        text += spans.pick(("", "", "。", "：")) if not text.endswith("？") else ""
    else:
        text = (
            instruction
            + spans.pick(("：", " ", "\n"))
            + spans.pick(("“{}”", "「{}」", "《{}》", "【{}】")).format(material)
        )
    end = spans.pick(ENDINGS) if ending else ""
    return text + "\n" + end if end else text


def options_line(spans: Spans, options: Sequence[str]) -> str:
    """The options of a choice, in one line or one a line."""
    head = spans.pick(("选项", "可选", "候选", "备选", "从这些里选", "供选择的有", "类别", "范围", "标签", "候选词"))
    separator = spans.pick(LIST_SEPARATORS)
    if separator == "\n":
        numbered = spans.rng.random() < 0.3
        lines = [f"{i}. {o}" if numbered else o for i, o in enumerate(options, 1)]
        return head + "：\n" + "\n".join(lines)
    colon = spans.pick(("：", "：", ":", "为", "是："))
    return head + colon + separator.join(options)


def choose_prompt(spans: Spans, instruction: str, material: str, options: Sequence[str]) -> str:
    """A message with instruction, material and options in one of the usual orders."""
    line = options_line(spans, options)
    text = present(spans, instruction, material, ending=False)
    text = text + "\n" + line if spans.rng.random() < 0.8 else line + "\n" + text
    end = spans.pick(ENDINGS)
    return text + "\n" + end if end else text
