"""Each extra is optional: one sentence if it is missing, and everything else works."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from codomyrmex.integrations import MissingExtraError

HIDE = """
import sys

class Hide:
    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide(*%r))
"""

STRUCTLOG = "from codomyrmex.integrations.logging_monitoring import StructlogSink; StructlogSink()"
OTEL = "from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink; OpenTelemetrySink()"
PYBREAKER = "from codomyrmex.integrations.service_mesh import attach_pybreaker"
APPRISE = """
import asyncio
from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AppriseChannel
from codomyrmex.streaming import InMemoryStream

async def main():
    async with attach(InMemoryStream(), AppriseChannel("operations", "json://127.0.0.1/s3cret")):
        pass

asyncio.run(main())
"""

BOARD = """
from codomyrmex.integrations.service_mesh import CircuitBoard
from codomyrmex.streaming import InMemoryStream
CircuitBoard(InMemoryStream()).render()
"""
METRICS = "from codomyrmex.integrations.logging_monitoring import DeliveryCollector"
MESH = "from codomyrmex.integrations.service_mesh import "
DURABLE = "from codomyrmex.integrations.durable import "
USES = {
    "asyncpg": (DURABLE + "PostgresStore", "PostgresStore", "postgres"),
    "aiobreaker": (MESH + "attach_aiobreaker", "attach_aiobreaker", "aiobreaker"),
    "purgatory": (MESH + "attach_purgatory", "attach_purgatory", "purgatory"),
    "circuitbreaker": (MESH + "attach_circuitbreaker", "attach_circuitbreaker", "circuitbreaker"),
    "pyresilience": (MESH + "attach_pyresilience", "attach_pyresilience", "pyresilience"),
    "stamina": (MESH + "attach_stamina", "attach_stamina", "stamina"),
    "httpx": (MESH + "EnvoyAdmin, SSEFeed", "a remote feed", "mesh"),
    "rich": (BOARD, "CircuitBoard.render", "board"),
    # hidden module: (what is used, its name in the message, the extra)
    "structlog": (STRUCTLOG, "StructlogSink", "structlog"),
    "opentelemetry": (OTEL, "OpenTelemetrySink", "otel"),
    "prometheus_client": (METRICS, "DeliveryCollector", "metrics"),
    "pybreaker": (PYBREAKER, "attach_pybreaker", "pybreaker"),
    "apprise": (APPRISE, "AppriseChannel", "apprise"),
    "starlette": ("from codomyrmex.integrations.web import dashboard", "codomyrmex.integrations.web", "web"),
}
EACH = pytest.mark.parametrize("hidden", USES)


def run(code: str, *hidden: str) -> str:
    """Run code where some packages are not installed, and give what it prints."""
    program = HIDE % (hidden,) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@EACH
def test_a_missing_package_is_one_clear_sentence(hidden):
    use, what, extra = USES[hidden]
    code = f"""
from codomyrmex.integrations import MissingExtraError
import json
try:
    exec({use!r})
except ImportError as error:
    print(json.dumps([isinstance(error, MissingExtraError), str(error), error.name]))
"""
    is_missing_extra, sentence, name = json.loads(run(code, hidden))
    assert is_missing_extra
    assert sentence.startswith(f"{what} needs ")
    assert f"pip install 'codomyrmex-streaming[{extra}]'" in sentence
    assert "\n" not in sentence
    assert "s3cret" not in sentence
    assert name.replace("-", "_").startswith(hidden)


@EACH
def test_integrations_that_do_not_need_it_still_work(hidden):
    others = "\n".join(use for name, (use, _, _) in USES.items() if name != hidden)
    code = f"""
import codomyrmex.streaming, codomyrmex.integrations
import codomyrmex.integrations.logging_monitoring
import codomyrmex.integrations.notification
import codomyrmex.integrations.service_mesh
{others}
print("fine")
"""
    assert run(code, hidden).strip() == "fine"


def test_without_any_extra_the_core_and_attach_work():
    code = """
import asyncio
from codomyrmex.integrations import InlineSink, Sink, attach
from codomyrmex.streaming import InMemoryStream, create_event

class Print(InlineSink):
    name = "print"

    def emit(self, event):
        print("inline", event.data)

class PrintLater(Sink):
    name = "print later"

    async def send(self, events):
        print("queued", [event.data for event in events])

async def main():
    stream = InMemoryStream()
    async with attach(stream, Print(), PrintLater()):
        await stream.publish(create_event(1))

asyncio.run(main())
"""
    assert run(code, *USES).splitlines() == ["inline 1", "queued [1]"]


@EACH
def test_a_second_use_raises_the_same_sentence(hidden):
    use, what, _ = USES[hidden]
    code = f"""
for _ in range(2):
    try:
        exec({use!r})
    except ImportError as error:
        print(error)
"""
    first, second = run(code, hidden).splitlines()
    assert first == second
    assert first.startswith(what)


@pytest.mark.parametrize(
    "package",
    [
        "codomyrmex.streaming",
        "codomyrmex.streaming.testing",
        "codomyrmex.integrations",
        "codomyrmex.integrations.logging_monitoring",
        "codomyrmex.integrations.notification",
        "codomyrmex.integrations.service_mesh",
    ],
)
def test_importing_loads_no_third_party_package_but_two(package):
    code = f"""
before = set(sys.modules)
import json
import {package}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""
    # msgspec looks for typing_extensions, and goes on without.
    assert set(json.loads(run(code, "typing_extensions"))) <= {"codomyrmex", "msgspec", "uuid_utils"}


def test_the_core_does_not_load_the_integrations():
    code = """
import codomyrmex.streaming, codomyrmex.streaming.testing
print([name for name in sys.modules if name.startswith("codomyrmex.integrations")])
"""
    assert run(code).strip() == "[]"


def test_a_name_that_does_not_exist_is_an_ordinary_error():
    for package in ("logging_monitoring", "service_mesh"):
        with pytest.raises(ImportError, match="Nonsense") as caught:
            exec(f"from codomyrmex.integrations.{package} import Nonsense")
        assert not isinstance(caught.value, MissingExtraError)


def test_all_public_names_exist():
    code = """
import codomyrmex.integrations as root
from codomyrmex.integrations import logging_monitoring, notification, service_mesh
for package in (root, logging_monitoring, notification, service_mesh):
    for name in package.__all__:
        value = getattr(package, name)
        assert name.isupper() or value.__module__.startswith("codomyrmex.integrations"), name
print("fine")
"""
    assert run(code).strip() == "fine"
