"""The terminal chat: one path to a deployment, a server elsewhere or a folder; its history and commands."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.conversation import Message
from tasks.errors import ModelError, ResourceError, UserError
from tasks.serving import chat, release
from tasks.serving.client import Client
from tasks.serving.config import ServingConfig
from tasks.serving.process import Server, Target


def lines(*typed: str | type[BaseException]) -> Callable[[str], str]:
    """A terminal on which these lines are typed; an exception stands for Ctrl-C or Ctrl-D."""
    waiting = list(typed)

    def read(_: str) -> str:
        line = waiting.pop(0)
        if isinstance(line, str):
            return line
        raise line

    return read


def answer(client: Client, *texts: str, **options: Any) -> str:
    roles: Sequence[Any] = ("user", "assistant")
    return client.answer([Message(roles[i % 2], text) for i, text in enumerate(texts)], **options).text


def test_one_prompt_gives_its_reply(client: Client) -> None:
    output = io.StringIO()
    assert chat.once(client, "头痛", output).text == answer(client, "头痛")
    assert output.getvalue() == answer(client, "头痛") + "\n"


def test_a_conversation_remembers_until_it_is_cleared(client: Client) -> None:
    output = io.StringIO()
    chat.talk(client, output, read=lines("头痛", "", "发热", "/clear", "发热", "/exit"), max_tokens=5)
    first = answer(client, "头痛", max_tokens=5)
    second = answer(client, "头痛", first, "发热", max_tokens=5)
    alone = answer(client, "发热", max_tokens=5)
    assert second != alone
    shown = output.getvalue().splitlines()[1:]
    cut = "(cut off: length)"
    assert shown == [first, cut, second, cut, "(forgotten)", alone, cut]


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_the_end_of_input_and_ctrl_c_at_the_prompt_end_it(client: Client, end: type[BaseException]) -> None:
    output = io.StringIO()
    chat.talk(client, output, read=lines(end))
    assert output.getvalue().endswith("\n\n")


def test_a_refused_question_is_explained_and_forgotten(client: Client) -> None:
    output = io.StringIO()
    chat.talk(client, output, read=lines("好" * 5000, "头痛", "/exit"), max_tokens=5)
    shown = output.getvalue().splitlines()[1:]
    assert "more than this model's context of 4096" in shown[0]
    assert shown[1] == answer(client, "头痛", max_tokens=5)


def test_ctrl_c_during_a_reply_stops_it_and_forgets_the_exchange(client: Client) -> None:
    class Interrupting(io.StringIO):
        def flush(self) -> None:
            if len(self.getvalue().splitlines()) == 2 and not self.getvalue().endswith("\n"):
                raise KeyboardInterrupt

    output = Interrupting()
    chat.talk(client, output, read=lines("头痛", "/exit"), max_tokens=4000)
    assert "(stopped; this exchange is forgotten)" in output.getvalue()


def test_a_url_is_talked_to_as_it_is(server: Server, tmp_path: Path) -> None:
    with chat.connect(ServingConfig(), root=tmp_path, url=server.url) as client:
        assert client.model == "tiny"
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_a_url_is_one_line(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:1"
    with (
        chat.connect(ServingConfig(), root=tmp_path, url=nowhere) as client,
        pytest.raises(ResourceError, match=f"^{nowhere}: no server answers there"),
    ):
        chat.once(client, "头痛", io.StringIO())


def test_nothing_deployed_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is deployed there"), chat.connect(ServingConfig(), root=tmp_path):
        pass


def record(root: Path, model: Path, server: Server | None) -> None:
    smoke = release.Smoke(prompt_tokens=1, completion_tokens=1, reply="a", finish_reason="stop", seconds=0.1)
    new = release.Release(
        path=release.folder(root),
        fingerprint="0" * 64,
        model=model,
        base=None,
        device="cpu",
        dtype="float32",
        engine="transformers",
        name="released",
        alias="champion",
        version=None,
        registered=False,
        smoke=smoke,
        url=server.url if server else None,
        server=server.to_json() if server else None,
        time=time.time(),
    )
    release.write(root, new, event="released")


def test_a_deployment_that_runs_is_talked_to(server: Server, model: Path, tmp_path: Path) -> None:
    record(tmp_path, model, server)
    with chat.connect(ServingConfig(), root=tmp_path) as client:
        assert client.url == server.url
    assert not (tmp_path / "serving").exists()


@pytest.mark.slow
def test_a_deployment_that_does_not_run_gets_a_server_for_the_session(
    server: Server, client: Client, model: Path, tmp_path: Path
) -> None:
    record(tmp_path, model, Server(**{**server.to_json(), "instance": "an earlier one"}))
    with chat.connect(ServingConfig(), root=tmp_path) as own:
        assert own.url != server.url
        assert own.model == "released"
        assert answer(own, "头痛", max_tokens=24) == answer(client, "头痛")
        children = psutil.Process().children()
        started = [child for child in children if child.is_running() and str(tmp_path) in " ".join(child.cmdline())]
        assert len(started) == 1
    assert not started[0].is_running()
    assert list((tmp_path / "serving").iterdir()) == []


@pytest.mark.slow
def test_a_folder_is_served_for_the_session(model: Path, client: Client, tmp_path: Path) -> None:
    with chat.connect(ServingConfig(), root=tmp_path, target=Target(model)) as own:
        assert answer(own, "头痛", max_tokens=24) == answer(client, "头痛")


def test_a_folder_that_is_no_model_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    target = Target(tmp_path / "empty")
    with (
        pytest.raises(ModelError, match=r"no config\.json: not a model folder$"),
        chat.connect(ServingConfig(), root=tmp_path, target=target),
    ):
        pass
    assert list((tmp_path / "serving").iterdir()) == []
