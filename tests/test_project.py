"""What the layout of the project promises to those who install it and to those who work on it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import codomyrmex
import codomyrmex.integrations
import codomyrmex.streaming
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    "streaming": "codomyrmex.streaming",
    "integrations": "codomyrmex.integrations",
    "examples/demo": "codomyrmex.demo",
}


def package_folders() -> dict[str, Path]:
    """Return every package that has a Python file in the source folders, with its folder."""
    return {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts]): path.parent
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def source_files(folder: str) -> list[Path]:
    """Return what is installed of a source folder, relative to it."""
    kinds = ("*.py", "py.typed", "*.yaml", "page/*")
    return [path.relative_to(ROOT / folder) for kind in kinds for path in (ROOT / folder).rglob(kind)]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


# Versions that must not be installed, with the advisory. None of a dependency that is not listed affects us.
VULNERABLE = {
    "jinja2": ("3.1.5", "CVE-2025-27516, out of the sandbox"),
    "h11": ("0.15.0", "CVE-2025-43859, malformed chunks"),
    "starlette": ("0.49.0", "CVE-2025-62727, Range headers"),
    "pyyaml": ("5.3.1", "CVE-2020-14343, code in YAML"),
    "apprise": ("0.9.5", "CVE-2021-39229, a regular expression without bounds"),
}


@pytest.mark.parametrize("name", VULNERABLE)
def test_no_version_with_a_known_vulnerability_is_accepted(name):
    version, _ = VULNERABLE[name]
    extras = PROJECT["project"]["optional-dependencies"].values()
    requirements = [Requirement(text) for extra in extras for text in extra]
    required = [requirement for requirement in requirements if requirement.name == name]
    assert required
    for requirement in required:
        assert not requirement.specifier.contains(version), f"{requirement} accepts {version}"


def test_a_file_gets_a_table_of_benchmarks_without_wrapped_lines():
    work, detail = "publish to 1,000 plain handlers " * 4, "510.4 µs against 476.8 µs " * 3
    printed = python(
        "import sys; sys.path.insert(0, 'benchmarks'); import run; from measure import Result\n"
        f"results = [Result({work!r}, 'the bare loop', 1.07, 1.15, False, {detail!r})] * 2\n"
        "run.print_table(run.new_console(), results)",
        PYTHONUTF8="1",
        COLUMNS="",
    )
    lines = printed.stdout.splitlines()
    assert [work.strip() in line and detail.strip() in line for line in lines].count(True) == 2, printed
    assert len(lines) == 6  # three rows, and three lines around them


def test_the_package_above_is_a_namespace():
    assert getattr(codomyrmex, "__file__", None) is None
    for folder in codomyrmex.__path__:
        assert not (Path(folder) / "__init__.py").exists()
    assert not (ROOT / "codomyrmex").exists()


@pytest.mark.parametrize("package", FOLDERS.values())
def test_each_package_is_typed(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][package]


def test_every_python_file_is_in_a_package_that_is_listed():
    files_only = {"codomyrmex.integrations.web.page"}
    assert set(package_folders()) | files_only == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_package_has_an_init():
    for package, folder in package_folders().items():
        assert (folder / "__init__.py").is_file(), package


def test_the_folders_are_mapped_to_their_names():
    mapped = {folder: name for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()}
    assert mapped == FOLDERS


def test_the_installed_files_are_those_of_the_project():
    for folder, package in FOLDERS.items():
        installed = importlib.resources.files(package)
        for path in source_files(folder):
            assert installed.joinpath(*path.parts).read_bytes() == (ROOT / folder / path).read_bytes()


def test_the_version_is_the_installed_one():
    assert codomyrmex.streaming.__version__ == importlib.metadata.version("codomyrmex-streaming")


def test_the_core_needs_two_packages_only():
    names = {re.split(r"[^A-Za-z0-9-]", need)[0] for need in PROJECT["project"]["dependencies"]}
    assert names == {"msgspec", "uuid-utils"}


def test_all_is_every_extra_of_a_system():
    extras = PROJECT["project"]["optional-dependencies"]
    systems = set(extras) - {"all", "bench", "dev", "docs"}
    [everything] = extras["all"]
    listed = re.fullmatch(r"codomyrmex-streaming\[([^]]+)\]", everything)
    assert listed is not None
    assert set(listed[1].split(",")) == systems


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "README.md", "LICENSE", "Makefile", "docs", "examples", "benchmarks"]
)
def test_what_belongs_to_the_project_is_there(name):
    assert (ROOT / name).exists()


def test_every_command_that_the_readme_names_is_in_the_makefile():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = [*re.findall(r"^```.*?^```", readme, re.MULTILINE | re.DOTALL), *re.findall(r"`[^`\n]+`", readme)]
    named = {command for part in code for command in re.findall(r"\bmake +([a-z][a-z-]*)", part)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert named <= targets
    assert {"setup", "demo", "test", "check", "bench", "docs"} <= targets


def test_another_distribution_of_the_same_name_lives_beside_it(tmp_path):
    other = tmp_path / "codomyrmex" / "other"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("WHO = 'the other one'\n", encoding="utf-8")
    code = (
        "import codomyrmex.other\n"
        "from codomyrmex.integrations import attach\n"
        "from codomyrmex.streaming import Event\n"
        "print(codomyrmex.other.WHO, Event.__module__)\n"
    )
    done = python(code, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "the other one codomyrmex.streaming.events"


def test_a_source_distribution_has_what_its_tests_need():
    listed = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    assert {"benchmarks", "conftest.py", "docs", "examples", "tests", "*.md", "Makefile"} <= set(listed)


def test_a_wheel_has_both_packages_and_no_init_above(tmp_path):
    if find_spec("setuptools") is None or find_spec("wheel") is None:
        pytest.skip("setuptools and wheel are not both installed here")
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is older than the project asks for")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", *command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=120
    )
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "codomyrmex/__init__.py" not in names
    for folder, package in FOLDERS.items():
        for path in source_files(folder):
            assert f"{package.replace('.', '/')}/{path.as_posix()}" in names
