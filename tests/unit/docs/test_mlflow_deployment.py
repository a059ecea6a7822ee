"""The files in deploy/mlflow: secrets come from the environment, and versions are fixed."""

import re

import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy/mlflow"


def test_the_compose_file_has_no_secret_and_names_every_variable_in_the_example():
    text = (FOLDER / "compose.yaml").read_text()
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    example = dict(
        line.split("=", 1)
        for line in (FOLDER / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert variables == example.keys()
    assert not [name for name, value in example.items() if value and name != "MLFLOW_HOST"]
    services = yaml.safe_load(text)["services"]
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value.startswith("${"), name
            assert "SECRET" not in name or value.startswith("${"), name


def test_images_have_versions_and_only_the_proxy_has_ports():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    images = [service["image"] for service in services.values() if "image" in service]
    assert all(re.fullmatch(r"[\w/]+:[\w.-]*\d[\w.-]*", image) for image in images)
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]


def test_a_filled_in_env_file_is_not_committed():
    assert "/deploy/mlflow/.env" in (ROOT / ".gitignore").read_text().splitlines()
