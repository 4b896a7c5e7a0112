"""Raw message logs, one record a message (MemoTrace's and PyWxDump's CSV, any CSV or JSONL), cut into dialogues.

The cut follows MemoTrace's exporter (see ``tasks.data.chat.windows``), chat by chat where a file mixes several. Every
message is accounted for: in one dialogue, or with the reason why it is in none. One file's messages are held in
memory: 160 bytes each with a text of 15 characters (measured at 300,000).

Source: LC044/WeChatMsg (5086906) exporter_json.py for the dialogues; the headers in ``tasks.data.chat.layout``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from random import Random
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from tasks.conversation import Message, Role, Row
from tasks.data import files, reading
from tasks.data.chat import folders, windows
from tasks.data.chat import layout as chat_layout
from tasks.data.chat import text as chat_text
from tasks.data.chat.layout import Columns, Preset
from tasks.data.chat.log import Chat, Log, shown
from tasks.data.source import SPLITS, Claim, DataFile, Draft, Entry, Found, Skipped, SourceConfig, Unusable
from tasks.errors import DataError
from tasks.schema import Field

TASK = "chat"
#: What the account counts.
RECORDS = "messages"
SYSTEM = "你是{assistant}，一个聪明、热情、善良的人，后面的对话来自你的朋友，你要认真地回答他"
EMPTY = "empty message"
EMPTY_LOG = "an empty log: no message in it"
NO_LOG = "not a message log: it has the columns of no known program, nor those of data.columns"
GROUP = "group chat"
OUT_OF_ORDER = "messages out of order"
NAMELESS = "the owner's name is not known: 我 stands for it (data.owner_name)"
_PLACEHOLDERS = ("{assistant}", "{me}", "{contact}")
_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (xls)"),
    (b"PK\x03\x04", "an Excel workbook (xlsx) or another zip archive"),
    (b"SQLite format 3", "a database"),
)


def _template(text: str) -> str:
    unknown = sorted(set(re.findall(r"\{[^{}]*\}", text)) - set(_PLACEHOLDERS))
    if unknown:
        raise ValueError(f"unknown placeholder {', '.join(unknown)}; allowed: {', '.join(_PLACEHOLDERS)}")
    return text


class Config(SourceConfig):
    """Message logs of any number of chats; the dialogues are those that MemoTrace would have exported."""

    source: Literal["chat_messages"] = "chat_messages"
    preset: Preset = Field("auto", doc="Which program's columns; auto looks at them, custom takes data.columns.")
    columns: Columns = Field(Columns(), doc="The file's own column names, with preset custom (or auto).")
    text_types: list[str] = Field([], doc="Further values of the type column that mean a text.")
    gap_s: float = Field(60, ge=0, doc="Longest pause within a dialogue, in seconds; a reply may come later.")
    order: Literal["time", "file"] = Field(
        "time", doc="Messages of a chat by their time (equal times as in the file), or as the file has them."
    )
    assistant: Literal["me", "contact"] = Field("me", doc="Whose messages the model learns to write.")
    group_chats: Literal["skip", "speaker_names"] = Field(
        "skip", doc="Leave group chats out, or put each other speaker's name before the message."
    )
    media: Literal["drop", "keep"] = Field(
        "drop", doc="Pictures, voice, files and quoted messages: left out, or kept as placeholders like [图片]."
    )
    empty_messages: Literal["keep", "drop"] = Field(
        "keep", doc="Messages without text: kept as an empty line, as the exporter does, or left out."
    )
    owner_name: str | None = Field(None, min_length=1, doc="The log's owner; null: the log's own word for them, or 我.")
    system_template: Annotated[str, AfterValidator(_template)] = Field(
        SYSTEM, doc="System message of every dialogue, with {assistant}, {me}, {contact}; empty adds none."
    )
    merge_separator: str = Field("\n", doc="Between messages that one speaker sent in a row.")
    shuffle_seed: int | None = Field(
        None, ge=0, doc="Order a file's dialogues by chance; null: by chat and time. Splits do not depend on it."
    )
    group_by: Literal["contact"] | None = Field(
        None, doc="contact: all dialogues with one contact stay in one split; null: rows with the same prompt do."
    )
    validation_share: float = Field(
        0.2, ge=0, lt=1, doc="Share of the training groups (0-1) held out where there is no validation file."
    )
    redact: bool = Field(True, doc="Replace personal data by pseudonyms, the same person by the same one.")
    min_keep_ratio: float = Field(
        0.05, ge=0, le=1, doc="Smallest share of the messages read (0-1) to be kept, caps apart; fewer is an error."
    )


def find(config: Config) -> Found:
    """The logs below ``data.path``; in a folder of several files, those that are no log are named and skipped.

    Raises:
        DataError: no such path, or no log there.
    """
    explicit = [getattr(config, split) for split in SPLITS if getattr(config, split) is not None]
    if folders.is_plain_file(config.path) or explicit:
        for path in filter(folders.is_plain_file, (config.path, *explicit)):
            _check_kind(DataFile(path.expanduser(), path.name, "train"))  # a workbook is a zip archive by its bytes
        found = files.find(config)
        return Found(tuple(_named(file) for file in found.files), found.skipped)
    folder = files.existing(config.path or files.SAMPLES / config.source, "data.path")
    skipped: list[Skipped] = []
    candidates = [
        _named(DataFile(path, name, files.split_of(name) or "train", member))
        for path, name, member in folders.inputs(folder, skipped)
        if folders.suffix(name) in files.SUFFIXES
    ]
    problems = [_problem(file, config) for file in candidates]
    logs = tuple(file for file, problem in zip(candidates, problems, strict=True) if not problem)
    if not logs:
        first = next(iter(problems), "no CSV, TSV, JSON or JSONL file in it")
        raise DataError(f"data.path={folder}: no message log; {first}")
    for file, problem in zip(candidates, problems, strict=True):
        if problem:  # a file without a header has people's words where columns are named: those stay out of reports
            skipped.append(Skipped(file.name, EMPTY_LOG if problem.endswith(EMPTY_LOG) else NO_LOG))
    return Found(logs, tuple(skipped))


def _named(file: DataFile) -> DataFile:
    return replace(file, names=folders.people(file.name))


def _problem(file: DataFile, config: Config) -> str:
    """Why a file is no log of messages; "" where it is one, as far as its first record shows."""
    _check_kind(file)
    for record in reading.records(file):
        if isinstance(record.value, dict) and not record.problem:
            try:
                chat_layout.layout_of(record.value, config.preset, config.columns, file.name)
            except DataError as error:
                return str(error)
            return ""
    return f"{file.name}: {EMPTY_LOG}"


def _check_kind(file: DataFile) -> None:
    """Stop at a file whose name says CSV and whose content is something else.

    Raises:
        DataError: it is a workbook or a database.
    """
    if file.member:
        return
    try:
        with file.path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read ({error.strerror})") from error
    for signature, kind in _SIGNATURES:
        if head.startswith(signature) and file.path.suffix.lower() != ".zip":
            raise DataError(f"{file.name}: {kind}, whatever its name says; save it as CSV (UTF-8) and use that file")


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """The messages that no dialogue can use, in the file's order, then each chat's dialogues and what they left over.

    Raises:
        DataError: the columns are unknown, or nothing tells which messages are the owner's.
    """
    _check_kind(file)
    log = Log(config.owner_name)
    layout = None
    for record in reading.records(file):
        rejected = Entry(record.line, f"{file.name}#{record.number}", task=TASK)
        if record.problem:
            yield replace(rejected, reason=record.problem, detail=record.detail)
            continue
        if layout is None:
            layout = chat_layout.layout_of(record.value, config.preset, config.columns, file.name)
        try:
            message = chat_layout.parsed(record.value, layout)
            text, note = _text(message, config)
            log.add(message, text, note, record.line, record.number)
        except Unusable as error:
            yield replace(rejected, reason=error.reason, detail=error.detail)
    if layout is not None:
        log.close(layout, file.name)
    for number, reason, line in _left_out(log, config):
        yield Entry(line, f"{file.name}#{number}", reason=reason, task=TASK)
    spoken_of = log.contacts
    for entry in _dialogues(file, log, config):
        if spoken_of and entry.draft is not None:  # names are told once for the whole log, by the first dialogue
            names = tuple(dict.fromkeys((*entry.draft.names, *spoken_of)))
            entry, spoken_of = replace(entry, draft=replace(entry.draft, names=names)), ()
        yield entry


def recognise(record: dict[str, Any]) -> Claim | None:
    """The columns of a program that writes message logs."""
    for layout in chat_layout.LAYOUTS:
        if layout.fits(record):
            return Claim(9, f"have {layout.preset}'s columns {', '.join(layout.needed())}")
    return None


def _text(message: chat_layout.Parsed, config: Config) -> tuple[str, str]:
    """(text, note) of a message.

    Raises:
        Unusable: it has no words, as far as the configuration wants them.
    """
    keep = config.media == "keep"
    reason = chat_text.kind(message.type, config.text_types)
    if reason == chat_text.NOT_TEXT and keep:
        return chat_text.stand_in(message.type), ""
    if reason:
        raise Unusable(reason)
    text, reason, note = chat_text.words(message.text, keep_media=keep)
    if not reason and not text.strip() and config.empty_messages == "drop":
        reason = EMPTY
    if reason:
        raise Unusable(reason)
    return text, note


def _uses(chat: Chat, config: Config) -> bool:
    return not chat.is_group or (config.group_chats == "speaker_names" and config.assistant == "me")


def _left_out(log: Log, config: Config) -> Iterator[tuple[int, str, int]]:
    """(number, reason, line) of the messages of chats that are not used."""
    for chat in log.chats:
        if not _uses(chat, config):
            for i in chat.messages:
                yield log.numbers[i], GROUP, log.lines[i]


def _dialogues(file: DataFile, log: Log, config: Config) -> Iterator[Entry]:
    dialogues: list[tuple[Chat, list[int]]] = []
    for chat in log.chats:
        if not _uses(chat, config):
            continue
        order = log.by_time(chat) if config.order == "time" else list(chat.messages)
        replies = [log.is_sent(i) == (config.assistant == "me") for i in order]
        for window in windows.cut([log.times[i] for i in order], replies, config.gap_s):
            inside = order[window.start : window.end]
            if window.reason:
                for i in inside:
                    yield Entry(log.lines[i], f"{file.name}#{log.numbers[i]}", reason=window.reason, task=TASK)
            elif config.shuffle_seed is None:
                yield _entry(file, log, chat, inside, config)
            else:
                dialogues.append((chat, inside))
    Random(f"{config.shuffle_seed}: {file.name}").shuffle(dialogues)
    for chat, inside in dialogues:
        yield _entry(file, log, chat, inside, config)


def _entry(file: DataFile, log: Log, chat: Chat, inside: list[int], config: Config) -> Entry:
    first = inside[0]
    row_id = f"{file.name}#{log.numbers[first]}"
    contact = chat.contact or next(filter(shown, file.names), "")
    me = config.owner_name or chat.owner
    notes = [note for i in inside if (note := log.notes.get(i))]
    if _out_of_order(log, inside, config):
        notes.append(OUT_OF_ORDER)
    if not me and ("{me}" in config.system_template or ("{assistant}" in config.system_template and _is_mine(config))):
        notes.append(NAMELESS)
    messages = [*_system(me or "我", contact or "对方", config), *_turns(log, chat, inside, config)]
    names = (*chat.names, *filter(folders.is_name, (config.owner_name or "",)))
    draft = Draft(
        Row(row_id, tuple(messages), TASK, "chat"),
        notes=tuple(dict.fromkeys(notes)),
        group=(contact or f"{file.name}: {chat.key}") if config.group_by else "",
        names=tuple(dict.fromkeys(names)),
    )
    return Entry(log.lines[first], row_id, draft, records=len(inside))


def _is_mine(config: Config) -> bool:
    return config.assistant == "me"


def _system(me: str, contact: str, config: Config) -> list[Message]:
    if not config.system_template:
        return []
    values = {"{assistant}": me if _is_mine(config) else contact, "{me}": me, "{contact}": contact}
    return [Message("system", re.sub(r"\{\w+\}", lambda found: values[found[0]], config.system_template))]


def _turns(log: Log, chat: Chat, inside: list[int], config: Config) -> Iterator[Message]:
    """Messages of one side in a row become one turn."""
    for sent, run in groupby(inside, log.is_sent):
        role: Role = "assistant" if sent == _is_mine(config) else "user"
        texts = [log.texts[i] if sent or not chat.is_group else f"{log.speaker(i)}: {log.texts[i]}" for i in run]
        yield Message(role, config.merge_separator.join(texts))


def _out_of_order(log: Log, inside: list[int], config: Config) -> bool:
    places: list[float] = [float(i) for i in inside] if config.order == "time" else [log.times[i] for i in inside]
    return any(after < before for before, after in pairwise(places))
