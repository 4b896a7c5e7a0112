"""The messages of one log file in memory: in columns, with what the file as a whole tells about chats and people.

Which column names the chat and which the sender differs between versions of the same program; a name that stands on
both sent and received messages is the chat's. Does not know the columns' names, dialogues or rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tasks.data.chat.folders import is_name
from tasks.data.chat.layout import Layout, Parsed
from tasks.errors import DataError

#: How programs call the owner of a log.
OWNER = "我"
SOMEBODY = "群友"


@dataclass(frozen=True)
class _Key:
    """What many messages have in common, kept once."""

    sent: bool
    talker: str
    room: str
    who: tuple[str, ...]
    sender: str
    name: str

    def texts(self) -> Iterator[str]:
        yield from (self.name, *self.who, self.sender, self.talker, self.room)


@dataclass
class Chat:
    """One chat of the log.

    Attributes:
        messages: their indexes in the log, in the file's order.
        contact: name of the other side (or of the group), owner: of the log's owner; empty where the log has none.
        names: of everybody in it, for redaction.
    """

    key: tuple[str, ...]
    messages: array[int] = field(default_factory=lambda: array("q"))
    is_group: bool = False
    contact: str = ""
    owner: str = ""
    names: tuple[str, ...] = ()


class Log:
    """Messages by index: ``times`` in seconds, ``texts``, ``lines`` and ``numbers`` of their records, ``notes``.

    After :meth:`close`, ``chats`` has them by chat, in the order in which the chats appear.
    """

    def __init__(self, owner_name: str | None) -> None:
        self.times, self.lines, self.numbers = array("d"), array("q"), array("q")
        self.texts: list[str] = []
        self.notes: dict[int, str] = {}
        self.chats: list[Chat] = []
        self._owner = {OWNER, *([owner_name] if owner_name else [])}
        self._keys: list[_Key] = []
        self._places: dict[_Key, int] = {}
        self._key_of = array("i")
        self._unclear = False
        self._speakers: list[str] = []

    def add(self, message: Parsed, text: str, note: str, line: int, number: int) -> None:
        """Take a message in."""
        self._unclear = self._unclear or message.sent is None
        sent = message.sender in self._owner if message.sent is None else message.sent
        key = _Key(sent, message.talker, message.room, message.who, message.sender, message.name)
        place = self._places.setdefault(key, len(self._keys))
        if place == len(self._keys):
            self._keys.append(key)
        if note:
            self.notes[len(self.texts)] = note
        self._key_of.append(place)
        self.times.append(message.time)
        self.lines.append(line)
        self.numbers.append(number)
        self.texts.append(text)

    def close(self, layout: Layout, name: str) -> None:
        """Sort the messages into chats.

        Raises:
            DataError: nothing tells which messages are the owner's.
        """
        if self._unclear and len(self._owner) == 1 and not any(key.sent for key in self._keys):
            raise DataError(
                f"{name}: no column tells the direction; name yourself as column {layout.sender!r} does: "
                "data.owner_name=NAME"
            )
        sides = [{key.who for key in self._keys if key.sent is sent and any(key.who)} for sent in (True, False)]
        who_is_chat = bool(sides[0] & sides[1])
        self._speakers = [_speaker(key, who_is_chat) for key in self._keys]
        found: dict[tuple[str, ...], Chat] = {}
        chats = []
        for key in self._keys:
            identity = (key.talker, key.room, *(key.who if who_is_chat else ()))
            chats.append(found.setdefault(identity, Chat(identity)))
        members: dict[int, list[int]] = {}
        for place, chat in enumerate(chats):
            members.setdefault(id(chat), []).append(place)
        for i, place in enumerate(self._key_of):
            chats[place].messages.append(i)
        self.chats = list(found.values())
        for chat in self.chats:
            self._describe(chat, members[id(chat)], layout, who_is_chat)

    @property
    def contacts(self) -> tuple[str, ...]:
        """The names in all chats but groups, whose members' nicknames are often everyday words."""
        return tuple(dict.fromkeys(name for chat in self.chats if not chat.is_group for name in chat.names))

    def is_sent(self, i: int) -> bool:
        """Whether the owner sent the message."""
        return self._keys[self._key_of[i]].sent

    def speaker(self, i: int) -> str:
        """Who sent a received message."""
        return self._speakers[self._key_of[i]] or SOMEBODY

    def by_time(self, chat: Chat) -> list[int]:
        """The chat's messages by time; those of one second as in the file, or reversed where it runs backwards."""
        indexes = list(chat.messages)
        steps = [self.times[b] - self.times[a] for a, b in pairwise(indexes)]
        if sum(step < 0 for step in steps) > sum(step > 0 for step in steps):
            indexes.reverse()
        return sorted(indexes, key=self.times.__getitem__)

    def _describe(self, chat: Chat, places: list[int], layout: Layout, who_is_chat: bool) -> None:
        keys = [self._keys[place] for place in places]
        speakers = {self._speakers[place] for place in places if not self._keys[place].sent} - {""}
        rooms = {key.room for key in keys} - {""}
        named_room = bool(rooms) and layout.preset == "custom"
        chat.is_group = named_room or len(speakers) > 1 or any(room.endswith("@chatroom") for room in rooms)
        own = [key.name for key in keys] + [text for key in keys if who_is_chat for text in key.who]
        others = sorted(rooms) if chat.is_group else sorted(speakers)
        chat.contact = next(filter(shown, [*own, *others, *(key.talker for key in keys)]), "")
        chat.owner = next((s for p in places if self._keys[p].sent and shown(s := self._speakers[p])), "")
        chat.names = tuple(dict.fromkeys(text for key in keys for text in key.texts() if is_name(text)))


def _speaker(key: _Key, who_is_chat: bool) -> str:
    """The remark, nickname or other name of who sent it, ids last."""
    texts = (key.sender,) if who_is_chat else (*key.who, key.sender)
    return next(filter(shown, texts), next(filter(None, texts), ""))


def shown(text: str) -> bool:
    """Whether a text can stand for a person in a sentence: a name, not 我, an id or a number."""
    return bool(text) and text != OWNER and not text.isdigit() and not text.startswith("wxid_") and "@" not in text
