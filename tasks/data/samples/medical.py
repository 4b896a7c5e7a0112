"""Medical rows in PromptCBLUE's form, composed of the tables in ``medical_tables``."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

from tasks.data.samples import medical_tables as tables

Example = tuple[str, str, list[str]]


class Writer:
    """Composes rows of one split; ``pool`` 0 are the words that train uses, 1 the words that it never uses."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.pool = rng, 0
        self.specialty = tables.SPECIALTIES["消化"]
        self.written: set[str] = set()
        self.known = ""
        self.tasks: dict[str, Callable[[int], Example]] = {
            "CHIP-CTC": self._criterion,
            "KUAKE-QIC": self._intent,
            "CHIP-STS": self._similar,
            "CMeEE-V2": self._entities,
            "CMeIE": self._relations,
            "CHIP-CDN": self._standard,
        }

    def rows(self, per_task: dict[str, int], split: str, halves: bool = False) -> list[dict[str, Any]]:
        """Rows in a shuffled order of tasks; with ``halves``, every second one of a task is of the second pool."""
        order = [(task, i) for task, n in per_task.items() for i in range(n)]
        self.rng.shuffle(order)
        return [self._row(task, i, split, halves) for task, i in order]

    def _row(self, task: str, index: int, split: str, halves: bool) -> dict[str, Any]:
        self.pool = int(halves and index % 2 == 0)
        turn = index // 2 if halves else index  # labels take turns within each pool
        while True:
            self.specialty = tables.SPECIALTIES[self._pick(list(tables.SPECIALTIES))]
            text, answer, options = self.tasks[task](turn)
            bare = re.sub(r"^(（\d+）|\d+[、.])", "", text).rstrip("；。？?")
            if bare not in self.written:
                break
        self.written.add(bare)
        prompt = self._pick(tables.INSTRUCTIONS[task]).format(text=text, options="，".join(options))
        return {
            "input": prompt + ("\n答：" if self.rng.random() < 0.6 else ""),
            "target": answer,
            "answer_choices": options,
            "task_type": tables.TASK_TYPES[task],
            "task_dataset": task,
            "sample_id": f"{split}-{index}",
            "unseen_entities": bool(self.pool),
        }

    def only_words_of(self, rows: list[dict[str, Any]]) -> None:
        """From now on the first pool is what these rows really use."""
        self.known = "\n".join(row["input"] for row in rows)

    # --- tasks -----------------------------------------------------------------------------------------------

    def _criterion(self, turn: int) -> Example:
        plain = ("年龄", "怀孕相关")  # their texts hold no entity
        labels = [label for label in tables.CRITERIA if not self.pool or label not in plain]
        label = labels[turn % len(labels)]
        others = [name for name in (*tables.CRITERIA, *tables.OTHER_CRITERIA) if name != label]
        text = self._fill(self._pick(tables.CRITERIA[label]))
        text = self._pick(("", "", "{n}、", "{n}.", "（{n}）")).format(n=self.rng.randint(1, 12)) + text
        return text + self._pick(("；", "。", "")), label, self._options(label, others, self.rng.randint(3, 5))

    def _intent(self, turn: int) -> Example:
        labels = list(tables.INTENTS)
        label = labels[turn % len(labels)]
        kind, searches = tables.INTENTS[label]
        text = self._fill(self._pick(searches).replace("{x}", f"{{{kind}}}")) + self._pick(("", "？", "?"))
        others = [name for name in labels if name != label]
        return text, label, self._options(label, others, self.rng.randint(3, 5))

    def _similar(self, turn: int) -> Example:
        same = turn % 2 == 0
        first, second = self._some("疾病", 2)  # of one specialty, so that they are easily confused
        meaning, other = self.rng.sample(tables.PARAPHRASES, 2)
        if same:
            one, two = (question.format(x=first) for question in self.rng.sample(meaning, 2))
        elif self.rng.random() < 0.5:
            one, two = (q.format(x=x) for q, x in zip(self.rng.sample(meaning, 2), (first, second), strict=True))
        else:
            one, two = self._pick(meaning).format(x=first), self._pick(other).format(x=first)
        return self._pick(("“{}”和“{}”", "“{}”，“{}”")).format(one, two), "是的" if same else "不是", ["是的", "不是"]

    def _entities(self, turn: int) -> Example:
        types = self.rng.sample(list(tables.MENTIONS), self.rng.randint(2, 3))
        found: dict[str, list[str]] = {}
        clauses = []
        for name in types:
            kind, _, contexts = tables.MENTIONS[name]
            found[name] = self._some(kind, self._pick((1, 1, 2)))
            clauses.append(self._pick(contexts).replace("{x}", "、".join(found[name])).format(a=self.rng.randint(2, 9)))
        self.rng.shuffle(clauses)
        if self.rng.random() < 0.4:
            clauses.insert(self.rng.randint(1, len(clauses)), self._pick(tables.FILLERS))
        if self.rng.random() < 0.25:
            empty = self._pick([name for name in tables.MENTIONS if name not in types])
            types, found[empty] = [*types, empty], []
        self.rng.shuffle(types)
        answer = "上述句子中的实体包含：\n" + "\n".join(f"{name}实体：{'，'.join(found[name])}" for name in types)
        return "，".join(clauses) + "。", answer, types

    def _relations(self, turn: int) -> Example:
        head = self._some("疾病", 1)[0]
        relations = self.rng.sample(list(tables.RELATIONS), self._pick((1, 2, 2)))
        clauses, tails = [], {}
        for relation in relations:
            kind, contexts = tables.RELATIONS[relation]
            count = self._pick((1, 1, 2))
            tails[relation] = [tail for tail in self._some(kind, count + 1) if tail != head][:count]
            clauses.append(self._pick(contexts).format(h=head, t="和".join(tails[relation])))
        self.rng.shuffle(relations)
        lines = []
        for relation in relations:
            pairs = "".join(f"头实体为{head}，尾实体为{tail}。" for tail in tails[relation])
            lines.append(f"具有{relation}关系的头尾实体对如下：{pairs}")
        return "；".join(clauses) + "。", "\n".join(lines), relations

    def _standard(self, turn: int) -> Example:
        count = 2 if self.rng.random() < 0.25 else 1
        terms = self._some("疾病", count + self.rng.randint(2, 3))
        written = "；".join(self._pick(tables.SCRIBBLES).format(x=term) for term in terms[:count])
        options = self.rng.sample(terms, len(terms))
        return written, "，".join(terms[:count]), options

    # --- words -----------------------------------------------------------------------------------------------

    def _fill(self, template: str) -> str:
        for kind in tables.KINDS:
            names = self._some(kind, template.count(f"{{{kind}}}"))
            for name in names:
                template = template.replace(f"{{{kind}}}", name, 1)
        low = self.rng.randint(16, 40)
        return template.format(a=self.rng.randint(2, 12), b=low, c=low + self.rng.randint(20, 40))

    def _some(self, kind: str, count: int) -> list[str]:
        """Different words of one kind, from the row's specialty; more than it has come from the others too."""
        words = self._usable(self.specialty, kind)
        if count > len(words):
            words = [word for other in tables.SPECIALTIES.values() for word in self._usable(other, kind)]
        return self.rng.sample(words, count)

    def _usable(self, specialty: dict[str, tables.Pools], kind: str) -> list[str]:
        return [word for word in specialty[kind][self.pool] if self.pool or not self.known or word in self.known]

    def _options(self, label: str, others: list[str], count: int) -> list[str]:
        options = [label, *self.rng.sample(others, count)]
        self.rng.shuffle(options)
        return options

    def _pick(self, choices: Any) -> Any:
        return self.rng.choice(choices)


def splits(rng: Random) -> dict[str, list[dict[str, Any]]]:
    """Rows of train, dev and test; no text occurs twice, also not across splits."""
    writer = Writer(rng)
    big = {"CHIP-CTC": 190, "KUAKE-QIC": 190, "CHIP-STS": 200, "CMeEE-V2": 150, "CMeIE": 140, "CHIP-CDN": 130}
    train = writer.rows(big, "train")
    writer.only_words_of(train)
    return {
        "train": train,
        "dev": writer.rows(dict.fromkeys(big, 25), "dev"),
        "test": writer.rows(dict.fromkeys(big, 34), "test", halves=True),
    }
