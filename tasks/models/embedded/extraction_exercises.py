"""Exercises on relation triples and on listing entities by type."""

from tasks.models.embedded.corpus import Dialogue
from tasks.models.embedded.exercise_tables import (
    ENTITY_CONTEXTS,
    EXPLICIT_RELATION,
    FICTITIOUS_RELATIONS,
    FILLERS,
    RELATIONS,
)
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.wording import instruct, present

Triple = tuple[str, str, str]

# (form of one triple, joint between triples, how the prompt names the form)
FORMS = (
    (
        "{h}_{r}_{t}",
        "\n",
        ("头_关系_尾，一行一条", "用下划线连接，每行一个", "按“甲_关系_乙”分行写", "“_”连接三部分，换行隔开"),
    ),
    ("{h}_{r}_{t}", "\n", ("用下划线把三项连起来，一行一组", "以_相连并换行", "三项之间是下划线")),
    ("{h}|{r}|{t}", "\n", ("竖线分隔，一行一条", "按“甲|关系|乙”写", "用|隔开")),
    ("（{h}，{r}，{t}）", "\n", ("写成（甲，关系，乙）", "放在括号里，逗号分开", "用括号括起来，一行一组")),
    ("{h}-{r}-{t}", "；", ("用短横连接，分号隔开", "按“甲-关系-乙”写，中间用分号")),
    ("头实体为{h}，尾实体为{t}。", "", ("只写头实体和尾实体", "写成“头实体为甲，尾实体为乙。”")),
    ("{r}关系：{h}，{t}", "\n", ("先写关系，再写两个对象", "按“关系：甲，乙”写")),
    ('{{"头": "{h}", "关系": "{r}", "尾": "{t}"}}', "\n", ("用JSON输出", "每行一个JSON")),
    ("{h}的{r}：{t}", "\n", ("写成“甲的关系：乙”", "一行一个“甲的关系：乙”")),
)


def _entity(spans: Spans) -> str:
    return spans.entity(spans.pick(list(ENTITY_CONTEXTS))) if spans.rng.random() < 0.35 else spans.item(2, 7)


def _clauses(spans: Spans, wanted: list[str], others: list[str], explicit: bool) -> tuple[str, list[Triple]]:
    """A text of clauses, and the triples of the wanted relations in order of appearance."""
    rng = spans.rng
    triples: list[Triple] = []
    clauses: list[str] = []
    head = _entity(spans)
    for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4))):
        if rng.random() < 0.6:
            head = _entity(spans)
        tail = _entity(spans)
        if head in tail or tail in head:
            continue
        relation = spans.pick(wanted if rng.random() < 0.8 or not others else others)
        template = spans.pick(EXPLICIT_RELATION if explicit else RELATIONS[relation])
        clauses.append(template.format(h=head, r=relation, t=tail))
        if relation in wanted:
            triples.append((head, relation, tail))
        if rng.random() < 0.35:
            clauses.append(spans.filler())
    if rng.random() < 0.3:
        clauses.insert(0, spans.filler())
    text = clauses[0] if clauses else spans.pick(FILLERS)
    for clause in clauses[1:]:
        text += spans.pick(("，", "，", "。", "；")) + clause
    return text + spans.pick(("。", "。", "")), triples


def triples(spans: Spans) -> Dialogue:
    """Relation triples of a text, in a form that the prompt names."""
    rng = spans.rng
    explicit = rng.random() < 0.45
    names = list(FICTITIOUS_RELATIONS if explicit else RELATIONS)
    if explicit and rng.random() < 0.3:
        names = [spans.word(2, 3) for _ in range(6)]
    rng.shuffle(names)
    count = rng.randint(1, 4)
    wanted, others = names[:count], names[count : count + 2]
    text, found = _clauses(spans, wanted, others, explicit)
    form, joint, descriptions = spans.pick(FORMS)
    quote = spans.pick(("{}", "“{}”", '"{}"', "【{}】"))
    relations = spans.pick(("、", "，", "和", ",")).join(quote.format(name) for name in wanted)
    instruction = instruct(
        spans,
        ("找", "列", "挑", "整理", "提", "写", "归纳", "摘", "读", "标"),
        ("出", "出下文里", "出这段话中", "出材料提到的"),
        (
            relations,
            f"关系{relations}",
            f"{relations}这几种关系",
            f"属于{relations}的",
            f"与{relations}有关的",
        ),
        ("的三项组合", "的条目", "的对应", "的成对信息", "的内容", "三元信息"),
        ("，", "（", "。格式："),
    )
    instruction += spans.pick(descriptions) + ("）" if instruction.endswith("（") else "")
    if not found:
        answer = spans.pick(("无", "没有", "未提到"))
        instruction += f"，没有就写{answer}"
        return [("user", present(spans, instruction, text)), ("assistant", answer)]
    if rng.random() < 0.3:
        instruction += f"，没有就写{spans.pick(('无', '没有', '未提到'))}"
    return [
        ("user", present(spans, instruction, text)),
        ("assistant", _grouped(spans, found, wanted, form, joint)),
    ]


def _grouped(spans: Spans, found: list[Triple], wanted: list[str], form: str, joint: str) -> str:
    if "{r}" in form:
        return joint.join(form.format(h=h, r=r, t=t) for h, r, t in found)
    lines = []
    for relation in wanted:
        pairs = "".join(form.format(h=h, t=t) for h, r, t in found if r == relation)
        if pairs:
            lines.append(f"{relation}：{pairs}")
    return "\n".join(lines)


def entities(spans: Spans) -> Dialogue:
    """Entities of a text by type, one line a type, in a form that the prompt shows."""
    rng = spans.rng
    types = list(ENTITY_CONTEXTS)
    rng.shuffle(types)
    asked = types[: rng.randint(1, 4)]
    mentioned = [t for t in asked if rng.random() < 0.75] + types[4 : 4 + rng.choice((0, 0, 1))]
    invented = rng.random() < 0.15
    names = {t: spans.word(2, 3) + spans.pick(("类", "名", "")) if invented else t for t in types[:6]}
    mentions: list[tuple[str, str]] = []
    clauses: list[str] = []
    rng.shuffle(mentioned)
    for kind in mentioned:
        found = [spans.entity(kind) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        found = [e for i, e in enumerate(found) if not any(e in o for o in found[:i] + [m for _, m in mentions])]
        if not found:
            continue
        together = found[0] if len(found) == 1 else "、".join(found[:-1]) + spans.pick(("、", "和", "及")) + found[-1]
        context = spans.pick(ENTITY_CONTEXTS[kind])
        clause = f"{names[kind]}有{together}" if invented else context.format(together)
        clauses.append(
            clause if rng.random() < 0.8 else spans.pick(("他", "患者", "后来", "我们", "这次", "其中")) + clause
        )
        mentions += [(kind, entity) for entity in found]
        if rng.random() < 0.4:
            clauses.append(spans.pick(FILLERS) if rng.random() < 0.8 else spans.filler())
    if not clauses:
        clauses = [spans.pick(FILLERS), spans.pick(FILLERS)]
    text = spans.pick(("，", "，", "。", "；")).join(clauses) + spans.pick(("。", "。", "！", ""))
    form, joint = spans.pick(
        (
            ("{t}实体：{e}", "，"),
            ("{t}实体：{e}", "，"),
            ("{t}：{e}", "、"),
            ("{t}：{e}", "，"),
            ("{t}有{e}", "、"),
            ("【{t}】{e}", "；"),
            ("{t}={e}", ","),
            ("- {t}：{e}", "，"),
        )
    )
    nothing = spans.pick(("无", "未发现", "", "", "没有"))
    header = spans.pick(("", "", "", "句中内容如下：\n", "找到：\n", "整理结果：\n", "如下：\n", "文中提到的有：\n"))
    listed = spans.pick(("、", "，", ",", "和")).join(names[t] for t in asked)
    instruction = instruct(
        spans,
        ("列", "找", "标", "挑", "写", "圈", "摘", "整理"),
        ("出其中的", "出文里的", "出这句话提到的", "出所有", "出属于", "出"),
        (listed, f"{listed}类词语", f"{listed}这些类别的词", f"{listed}各有哪些"),
    )
    example = form.format(t="类别", e=joint.join(("甲", "乙")))
    hint = f"，写成“{example}”" if rng.random() < 0.75 else ""
    hint += f"，没有的写{nothing}" if nothing else spans.pick(("", "，没有的留空"))
    hint += f"，开头写“{header.strip()}”" if header else ""
    lines = []
    for kind in asked:
        present_here = [entity for k, entity in mentions if k == kind]
        lines.append(form.format(t=names[kind], e=joint.join(present_here) or nothing))
    return [("user", present(spans, instruction + hint, text)), ("assistant", header + "\n".join(lines))]
