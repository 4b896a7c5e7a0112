"""Replies over HTTP: from this project's own server, whose /v1/completions is like vLLM's, and a stand-in for the rest.

vLLM itself needs a GPU and a torch of its own; the stand-in answers as its source says it does: models, LoRA adapters
and errors.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.conversation import Message
from tasks.errors import ConfigError, ResourceError, StageError
from tasks.evaluation.answering import vllm_engine
from tasks.evaluation.answering.vllm_engine import Server, prepare, replies, row_seed
from tasks.models import decoding, loading
from tasks.models.embedded import FOLDER
from tasks.models.loading import Loaded
from tasks.models.sampling import Sampling
from tasks.serving.config import ServingConfig
from tasks.serving.process import Target, session

LIMIT = 20


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real server of the embedded model: its URL and its log."""
    root = tmp_path_factory.mktemp("server")
    config = ServingConfig(model_name="embedded", start_timeout_s=120, queue_limit=3)
    with session(config, Target(FOLDER), root) as running:
        yield running.url, next((root / "serving").glob("session-*/server.log"))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.set_num_threads(1)
    return loading.load(FOLDER)


@pytest.fixture(scope="module")
def prompts(loaded: Loaded) -> list[list[int]]:
    rng = random.Random(3)
    words = ("发动机", "水温高", "请抽取三元组：", "风扇", "不转", "油泵", "漏油", "头痛", "怎么办？", "abc")
    texts = ["".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(14)]
    return [loaded.renderer.prompt_ids([Message("user", text)]) for text in texts]


def ask(url: str, loaded: Loaded, prompts: Sequence[Sequence[int]], **options: Any) -> dict[int, decoding.Reply]:
    server = Server(url, timeout_s=60, concurrency=options.pop("concurrency", 3))
    settings = {"stop_ids": loaded.renderer.stop_ids, "max_new_tokens": LIMIT, **options}
    came = list(replies(server, "embedded", prompts, **settings))
    assert sorted(index for index, _ in came) == list(range(len(prompts)))
    return dict(came)


def test_replies_are_those_of_greedy_decoding_token_for_token(
    own_server: tuple[str, Path], loaded: Loaded, prompts: list[list[int]]
) -> None:
    stop_ids = loaded.renderer.stop_ids
    # half of the tokens of the first reply end replies too, so that some end early
    first = decoding.greedy(loaded.model, prompts[:1], stop_ids=stop_ids, max_new_tokens=LIMIT)[0]
    stop_ids = [*stop_ids, *first.ids[4:]]
    expected = [
        decoding.greedy(loaded.model, [prompt], stop_ids=stop_ids, max_new_tokens=LIMIT)[0] for prompt in prompts
    ]
    came = ask(own_server[0], loaded, prompts, stop_ids=stop_ids)
    for index, reply in enumerate(expected):
        assert (came[index].ids, came[index].finish_reason) == (reply.ids, reply.finish_reason)
    assert {reply.finish_reason for reply in expected} == {"stop", "length"}
    assert all(reply.seconds > 0 for reply in came.values())


def test_drawn_replies_depend_on_seed_and_row_only(
    own_server: tuple[str, Path], loaded: Loaded, prompts: list[list[int]]
) -> None:
    def drawn(seed: int, order: Sequence[int], concurrency: int) -> dict[str, list[int]]:
        ids = [f"r{i}" for i in order]
        options: dict[str, Any] = {"sampling": Sampling(temperature=1.0, top_p=0.9, seed=seed), "row_ids": ids}
        came = ask(own_server[0], loaded, [prompts[0]] * len(ids), concurrency=concurrency, **options)
        return {ids[i]: reply.ids for i, reply in came.items()}

    first = drawn(1, range(5), 3)
    assert drawn(1, range(4, -1, -1), 1) == first
    assert len({tuple(ids) for ids in first.values()}) > 1
    assert drawn(2, range(5), 3) != first


def test_a_full_queue_is_waited_for(
    own_server: tuple[str, Path],
    loaded: Loaded,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(vllm_engine, "_WAITS_S", (0.05,) * 200)
    caplog.set_level(logging.INFO, logger="tasks.evaluation.answering.vllm_server")
    ask(
        own_server[0], loaded, prompts, concurrency=len(prompts)
    )  # one is generated, three wait, the others are refused
    assert "429 busy: 3 requests are waiting already; trying again in about 0.05 s" in caplog.text


def test_whoever_stops_reading_ends_what_is_under_way(
    own_server: tuple[str, Path], loaded: Loaded, prompts: list[list[int]]
) -> None:
    url, log = own_server
    before = log.read_text(encoding="utf-8").count("client left")
    server = Server(url, timeout_s=60, concurrency=3)
    stream = replies(server, "embedded", [prompts[0]] * 6, stop_ids=[10**6], max_new_tokens=400)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while log.read_text(encoding="utf-8").count("client left") == before:
        assert time.monotonic() < deadline, "the server goes on generating"
        time.sleep(0.02)


def test_another_model_is_refused_with_those_that_are_served(own_server: tuple[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"serves no model 'tuned'; it serves 'embedded'"):
        list(replies(Server(own_server[0]), "tuned", [[1]], stop_ids=[1], max_new_tokens=1))


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(own_server: tuple[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"400 prompt: 2040 tokens and 20 for the reply make 2060, more than"):
        list(replies(Server(own_server[0]), "embedded", [[300] * 2040], stop_ids=[1], max_new_tokens=20))


def test_no_prompts_no_requests() -> None:
    assert list(replies(Server("http://127.0.0.1:9"), "m", [], stop_ids=[1], max_new_tokens=1)) == []


def test_where_no_server_answers_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "_WAITS_S", (0.01,))
    for call in (
        lambda: list(replies(Server("http://127.0.0.1:9"), "m", [[1]], stop_ids=[1], max_new_tokens=1)),
        lambda: prepare(Server("http://127.0.0.1:9"), []),
    ):
        with pytest.raises(ResourceError, match=r"evaluation\.vllm\.url=http://127\.0\.0\.1:9: no server answers"):
            call()


def test_a_rows_seed_fits_a_signed_64_bit_number() -> None:
    seeds = {row_seed(42, f"r{i}") for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 1 << 63 for seed in seeds)


# --- a stand-in for vLLM --------------------------------------------------------------------------------------


class StandIn:
    """What vLLM answers to /v1/models, /v1/load_lora_adapter and /v1/completions.

    Attributes:
        served: the model cards.
        loads: adapters can be loaded at run time.
        answers: what /v1/completions gives in turn: (status, body); the last one for ever.
        requests: (path, headers, body) of every POST.
    """

    def __init__(self, base: str = "/models/base", name: str | None = None, *, loads: bool = True) -> None:
        self.served: list[dict[str, Any]] = [{"id": name or base, "root": base, "parent": None}]
        self.loads = loads
        self.max_lora_rank = 16
        self.key: str | None = None
        self.answers: list[tuple[int, Any]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    def answer(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        if (method, path) == ("GET", "/v1/models"):
            return 200, {"object": "list", "data": self.served}
        self.requests.append((path, headers, body))
        if path == "/v1/load_lora_adapter" and self.loads:
            return self._load(body["lora_name"], body["lora_path"])
        if path == "/v1/completions":
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return 404, {"detail": "Not Found"}

    def _load(self, name: str, path: str) -> tuple[int, Any]:
        rank = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        if rank > self.max_lora_rank:
            return 500, error(f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}.", 500)
        if any(model["id"] == name for model in self.served):
            return 400, error(f"The lora adapter '{name}' has already been loaded.", 400)
        self.served.append({"id": name, "root": path, "parent": self.served[0]["id"]})
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    @contextmanager
    def running(self) -> Iterator[Server]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply("GET", {})

            def do_POST(self) -> None:
                self.reply("POST", json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def reply(self, method: str, body: dict[str, Any]) -> None:
                headers = {key.lower(): value for key, value in self.headers.items()}
                status, answer = stand_in.answer(method, self.path, headers, body)
                if status == 0:  # a server that is killed
                    self.close_connection = True
                    return
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                return

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:  # a client that has left
                return

        with Http(("127.0.0.1", 0), Handler) as http:
            thread = threading.Thread(target=http.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield Server(f"http://127.0.0.1:{http.server_port}/v1", timeout_s=10)
            finally:
                http.shutdown()
                thread.join()


def error(message: str, status: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def completion(ids: list[int] | None, finish: str | None = "stop") -> tuple[int, Any]:
    return 200, {"choices": [{"index": 0, "text": "x", "token_ids": ids, "finish_reason": finish}]}


def answered(stand_in: StandIn, count: int = 1, **options: Any) -> list[decoding.Reply]:
    with stand_in.running() as server:
        settings: dict[str, Any] = {"stop_ids": [2, 7], "max_new_tokens": 5, **options}
        return [reply for _, reply in replies(server, "m", [[3, 4]] * count, **settings)]


def test_a_greedy_request_leaves_nothing_to_the_models_own_settings() -> None:
    stand_in = StandIn()
    stand_in.answers = [completion([5, 2])]
    answered(stand_in)
    _, _, body = stand_in.requests[0]
    assert body == {
        "model": "m",
        "prompt": [3, 4],
        "max_tokens": 5,
        "stop_token_ids": [2, 7],
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "skip_special_tokens": True,
        "return_token_ids": True,
    }


def test_a_drawing_request_says_how() -> None:
    stand_in = StandIn()
    stand_in.answers = [completion([5, 2])]
    answered(stand_in, sampling=Sampling(temperature=0.7, top_k=20, top_p=0.8, seed=3), row_ids=["a"])
    _, _, body = stand_in.requests[0]
    assert (body["temperature"], body["top_k"], body["top_p"], body["seed"]) == (0.7, 20, 0.8, row_seed(3, "a"))


@pytest.mark.parametrize(
    ("ids", "finish", "expected"),
    [
        ([5, 6, 7], "stop", ([5, 6], "stop")),
        ([5, 6], "length", ([5, 6], "length")),
        ([7], "stop", ([], "stop")),
        ([5, 9], "stop", ([5, 9], "stop")),  # an end token that only the server knows
        ([], "length", ([], "length")),
    ],
)
def test_a_reply_is_cut_before_its_end_token(ids: list[int], finish: str, expected: Any) -> None:
    stand_in = StandIn()
    stand_in.answers = [completion(ids, finish)]
    [reply] = answered(stand_in)
    assert (reply.ids, reply.finish_reason) == expected


@pytest.mark.parametrize("fault", [(500, error("engine", 500)), (503, "loading"), (429, error("busy", 429)), (0, "")])
def test_what_passes_is_tried_again(fault: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "_WAITS_S", (0.01, 0.01))
    stand_in = StandIn()
    stand_in.answers = [fault, fault, completion([5, 2])]
    assert answered(stand_in)[0].ids == [5]
    assert len(stand_in.requests) == 3


def test_what_does_not_pass_ends_with_the_servers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "_WAITS_S", (0.01, 0.01))
    stand_in = StandIn()
    stand_in.answers = [(500, error("EngineCore\nencountered an issue", 500))]
    with pytest.raises(ResourceError, match="500 EngineCore encountered an issue; see the server's log"):
        answered(stand_in)
    assert len(stand_in.requests) == 3


@pytest.mark.parametrize("status", [400, 422, 504])
def test_what_cannot_pass_is_not_tried_again(status: int) -> None:
    stand_in = StandIn()
    stand_in.answers = [(status, {"object": "error", "message": "max_model_len is 8", "code": status})]
    with pytest.raises(ResourceError if status == 504 else ConfigError, match=f"{status} max_model_len is 8"):
        answered(stand_in)
    assert len(stand_in.requests) == 1


def test_replies_that_came_before_a_failure_are_given_first() -> None:
    stand_in = StandIn()
    stand_in.answers = [completion([5, 2]), completion([6, 2]), (400, error("no", 400))]
    came = []
    with stand_in.running() as server:
        one_by_one = Server(server.url, 10, concurrency=1)
        with pytest.raises(ConfigError, match="400 no"):
            for index, reply in replies(one_by_one, "m", [[1]] * 4, stop_ids=[2], max_new_tokens=3):
                came.append((index, reply.ids))
    assert came == [(0, [5]), (1, [6])]


def test_a_server_without_token_ids_is_refused() -> None:
    stand_in = StandIn()
    stand_in.answers = [completion(None)]
    with pytest.raises(ConfigError, match=r"no token ids .* use vLLM 0\.10\.2 or newer"):
        answered(stand_in)


@pytest.mark.parametrize(
    ("body", "words"), [({"choices": []}, "no completion"), (completion([5], "abort")[1], "abort")]
)
def test_an_answer_that_is_no_reply_is_an_error(body: Any, words: str) -> None:
    stand_in = StandIn()
    stand_in.answers = [(200, body)]
    with pytest.raises(StageError, match=words):
        answered(stand_in)


def test_a_reply_that_takes_too_long_names_the_limit() -> None:
    held = threading.Event()

    class Slow(StandIn):
        def answer(self, *_: Any) -> tuple[int, Any]:
            held.wait(30)
            return completion([5])

    with Slow().running() as server:
        impatient = Server(server.url, timeout_s=0.05)
        with pytest.raises(ResourceError, match=r"evaluation\.vllm\.timeout_s=0\.05: .* gave no reply"):
            list(replies(impatient, "m", [[1]], stop_ids=[2], max_new_tokens=3))
        held.set()


def test_the_key_of_the_environment_is_sent_and_its_variable_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = StandIn()
    stand_in.key, stand_in.answers = "secret", [completion([5, 2])]
    monkeypatch.setenv("WEITIAO_VLLM_API_KEY", "secret")
    assert answered(stand_in)[0].ids == [5]
    monkeypatch.delenv("WEITIAO_VLLM_API_KEY")
    with pytest.raises(ConfigError, match="401 .*; export the server's key in WEITIAO_VLLM_API_KEY"):
        answered(stand_in)


# --- which models are served ----------------------------------------------------------------------------------

BASE = {"name": "base", "path": "/models/base", "base": None, "served_as": None}


@pytest.fixture
def adapter(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return {"name": "checkpoint-20", "path": str(folder), "base": "/models/base", "served_as": None}


def prepared(stand_in: StandIn, *systems: dict[str, Any]) -> dict[str, str]:
    with stand_in.running() as server:
        return prepare(server, systems)


def test_a_model_is_known_by_its_folder_or_by_the_name_given() -> None:
    assert prepared(StandIn("/models/base"), BASE) == {"base": "/models/base"}
    assert prepared(StandIn("/models/base", "qwen"), BASE) == {"base": "qwen"}
    assert prepared(StandIn("hub/qwen", "qwen"), {**BASE, "served_as": "qwen"}) == {"base": "qwen"}


def test_an_adapter_is_loaded_once_and_again_when_its_weights_changed(adapter: dict[str, Any]) -> None:
    stand_in = StandIn()
    names = prepared(stand_in, BASE, adapter)
    name = names["checkpoint-20"]
    assert name.startswith("weitiao-checkpoint-20-")
    path, _, body = stand_in.requests[0]
    assert (path, body) == ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": adapter["path"]})
    assert prepared(stand_in, BASE, adapter) == names
    assert len(stand_in.requests) == 1
    (Path(adapter["path"]) / "adapter_model.safetensors").write_bytes(b"others")
    assert prepared(stand_in, adapter)["checkpoint-20"] != name
    assert len(stand_in.requests) == 2


def test_an_adapter_on_another_base_is_not_loaded(adapter: dict[str, Any]) -> None:
    stand_in = StandIn("/models/other", "other")
    with pytest.raises(ConfigError, match=r"no model '/models/base', the base of checkpoint-20; it serves 'other'"):
        prepared(stand_in, adapter)
    assert stand_in.requests == []
    assert prepared(stand_in, {**adapter, "base_served_as": "other"})["checkpoint-20"]


def test_an_adapter_that_is_served_already_is_not_loaded(adapter: dict[str, Any]) -> None:
    stand_in = StandIn()
    stand_in.served.append({"id": "tuned", "root": "/elsewhere", "parent": "/models/base"})
    assert prepared(stand_in, {**adapter, "served_as": "tuned"}) == {"checkpoint-20": "tuned"}
    assert stand_in.requests == []


def test_a_server_that_loads_no_adapters_is_told_how_to_be_started(adapter: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"404 Not Found.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, --enable-lora"):
        prepared(StandIn(loads=False), adapter)


def test_a_rank_that_is_too_large_for_the_server_is_named(adapter: dict[str, Any]) -> None:
    config = Path(adapter["path"]) / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 64}), encoding="utf-8")
    with pytest.raises(ConfigError, match="500 LoRA rank 64 .*--max-lora-rank of at least 64"):
        prepared(StandIn(), adapter)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("freeze", r"trained with freeze.*: merge it \(python -m flows\.merge\)"),
        ("full", "trained with full.*tuned_served_as=NAME"),
        ("ptuning_v2", "trained with ptuning_v2.*vLLM cannot run it; use evaluation.engine=transformers"),
    ],
)
def test_other_checkpoints_are_refused_with_what_to_do(method: str, words: str, tmp_path: Path) -> None:
    loading.describe(tmp_path, method={"name": method}, base=Path("/models/base"), base_fingerprint="0" * 64, step=1)
    with pytest.raises(ConfigError, match=words):
        prepared(StandIn(), {"name": "checkpoint-1", "path": str(tmp_path), "base": "/models/base"})


def test_prompt_learning_of_another_program_is_refused(adapter: dict[str, Any]) -> None:
    config = Path(adapter["path"]) / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "PREFIX_TUNING"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="another program and is no LoRA adapter"):
        prepared(StandIn(), adapter)


def test_every_system_that_is_missing_has_its_line(adapter: dict[str, Any]) -> None:
    stand_in = StandIn("/models/other", "other")
    with pytest.raises(ConfigError) as caught:
        prepared(stand_in, {**BASE, "served_as": "qwen"}, {**adapter, "served_as": "tuned"})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "evaluation.vllm.base_served_as",
        "evaluation.vllm.tuned_served_as",
    ]
    assert all("it serves 'other'" in problem for problem in caught.value.problems)
