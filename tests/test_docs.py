"""Links in the documentation resolve, and its navigation and its reference are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from codomyrmex.integrations.notification import load_alert_config
from codomyrmex.integrations.notification.alerts.simulation import run_tests
from codomyrmex.integrations.pipelines import load_pipeline_config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ABOVE = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "MCP_TOOL_SPECIFICATION.md",
        "SECURITY.md",
    )
]
PAGES = [*ABOVE, *sorted(DOCS.rglob("*.md"))]
PUBLIC = [
    "codomyrmex.streaming",
    "codomyrmex.streaming.testing",
    "codomyrmex.integrations",
    "codomyrmex.integrations.configuration",
    "codomyrmex.integrations.durable",
    "codomyrmex.integrations.logging_monitoring",
    "codomyrmex.integrations.mcp",
    "codomyrmex.integrations.notification",
    "codomyrmex.integrations.pipelines",
    "codomyrmex.integrations.service_mesh",
    "codomyrmex.integrations.web",
]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pages_of(nav: list[object]) -> list[str]:
    pages: list[str] = []
    for entry in nav:
        [target] = entry.values() if isinstance(entry, dict) else [entry]
        pages += pages_of(target) if isinstance(target, list) else [target]
    return pages


def nav() -> list[str]:
    return pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_navigation_lists_every_page_once():
    assert sorted(nav()) == [page.relative_to(DOCS).as_posix() for page in PAGES if DOCS in page.parents]


def test_every_public_package_has_a_reference_page():
    pages = [page for page in nav() if page.startswith("reference/")]
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages)
    assert set(PUBLIC) <= set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


def test_every_file_that_the_architecture_names_exists():
    names = set(re.findall(r"\b\w+\.py\b", (DOCS / "architecture.md").read_text(encoding="utf-8")))
    files = {path.name for folder in ("streaming", "integrations") for path in (ROOT / folder).rglob("*.py")}
    assert names <= files
    assert {path.name for path in (ROOT / "streaming").glob("[a-z]*.py")} <= names


def test_every_test_that_the_reliability_page_names_exists():
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:\w+/)*test_\w+\.py)`", text)
    assert files
    assert [name for name in files if not (ROOT / "tests" / name).is_file()] == []


def test_the_files_of_the_guides_are_valid(tmp_path):
    blocks = {
        name: re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for name in ("alerts", "pipelines")
        for page in [DOCS / "guides" / f"{name}.md"]
    }
    alerts, pipeline = tmp_path / "alerts.yaml", tmp_path / "pipeline.yaml"
    alerts.write_text("".join(blocks["alerts"]), encoding="utf-8")
    results = run_tests(load_alert_config(alerts))
    assert [result.passed for result in results] == [True]
    for block in blocks["pipelines"]:
        pipeline.write_text(block, encoding="utf-8")
        load_pipeline_config(pipeline)
