"""Every shipped configuration composes and validates, alone and with every option of every group."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.cli import CONF, composed, group_options
from tasks import plugins
from tasks.config import PipelineConfig, parse

PRIMARY = sorted(p.stem for p in CONF.glob("*.yaml"))
GROUPS = {
    group.name: group_options(group)
    for group in CONF.iterdir()
    if group.is_dir() and group.name not in ("verbs", "recipe")
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def test_the_shipped_configurations_are_these() -> None:
    assert PRIMARY == [
        "chatlog_persona",
        "freeze_triples",
        "full",
        "lora_advertisegen",
        "lora_medical",
        "ptuning_v2_triples",
    ]
    assert len(OPTIONS) == 83, "a group's option was added or removed: count it here"


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configuration_validates(name: str) -> None:
    config = parse(composed(name, []))
    assert config.experiment == name
    assert config.model.name == "embedded"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_group_option_validates(group: str, option: str) -> None:
    overrides = [f"{group}={option}"]
    if option == "ddp":
        overrides.append("training.batch_size=16")
    if option == "mixture":
        overrides.append("data.parts=[{source: triples}]")
    config = parse(composed("full", overrides))
    section = getattr(config, group)
    written = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
    written = written.get(group, written)  # an option that sets other sections too spells out its own
    assert set(written) - {"defaults"} <= set(type(section).model_fields)


@pytest.mark.parametrize("method", GROUPS["method"])
@pytest.mark.parametrize("name", PRIMARY)
def test_every_method_fits_every_configuration_by_the_embedded_models_recipe(name: str, method: str) -> None:
    recipe = yaml.safe_load((CONF / "recipe" / f"embedded_{method}.yaml").read_text(encoding="utf-8"))
    config = parse(composed(name, [f"method={method}"]))
    assert config.training.learning_rate == float(recipe["training"]["learning_rate"])
    other = parse(composed(name, [f"method={method}", "model=local"]))
    assert other.training.learning_rate != config.training.learning_rate


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configuration_opens_with_purpose_and_command(name: str) -> None:
    head = (CONF / f"{name}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    lines = head.strip().splitlines()
    assert all(line.startswith("#") for line in lines) and len(lines) >= 4
    assert f"--config-name {name}" in head or name == "full"


def test_every_plugin_has_its_yaml_and_its_name() -> None:
    for package, group, key in (("tasks.methods", "method", "name"), ("tasks.data.sources", "data", "source")):
        assert plugins.names(package) == GROUPS[group]
        for name in plugins.names(package):
            field = plugins.load(package, name, key=group).Config.model_fields[key]
            assert field.annotation.__args__ == (name,)


def test_every_field_is_described() -> None:
    def check(kind: type, path: str) -> None:
        for name, field in kind.model_fields.items():  # type: ignore[attr-defined]
            assert field.description and field.description.endswith("."), f"{path}{name}"
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                check(field.annotation, f"{path}{name}.")

    check(PipelineConfig, "")


def test_yaml_files_hold_no_tabs_and_are_utf8() -> None:
    for file in Path(CONF).rglob("*.yaml"):
        assert "\t" not in file.read_text(encoding="utf-8"), file
