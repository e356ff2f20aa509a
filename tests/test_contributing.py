"""Follow the recipes of CONTRIBUTING.md in a copy of the project, and run the tests that they contain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SETTINGS = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
BLOCK = r"\n\n(?P<margin> +)```(?:python|text)\n(?P<code>.*?)\n(?P=margin)```$"
FILE = re.compile(r"Save this as `(?P<path>[^`]+)`:" + BLOCK, re.DOTALL | re.MULTILINE)
LINE = re.compile(
    r"In `(?P<path>[^`]+)`,\s+below\s+`(?P<anchor>[^`]+)`,\s+add:" + BLOCK, re.DOTALL | re.MULTILINE
)


def insert(file: Path, anchor: str, code: str) -> None:
    """Insert a line below the only line that equals the anchor, with the same indentation."""
    lines = file.read_text(encoding="utf-8").splitlines()
    [number] = [number for number, line in enumerate(lines) if line.strip() == anchor]
    margin = lines[number].removesuffix(lines[number].lstrip())
    lines.insert(number + 1, indent(code, margin))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_recipes_work_as_written(tmp_path):
    package = tmp_path / "codomyrmex"
    for folder in ("streaming", "integrations"):
        shutil.copytree(ROOT / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    copied = {"integrations": package / "integrations", "tests": tmp_path / "tests"}
    saved = []
    for match in FILE.finditer(PAGE):
        folder, _, path = match["path"].partition("/")
        saved.append(copied[folder] / path)
        saved[-1].parent.mkdir(parents=True, exist_ok=True)
        saved[-1].write_text(dedent(match["code"]) + "\n", encoding="utf-8")
    for match in LINE.finditer(PAGE):
        folder, _, path = match["path"].partition("/")
        insert(copied[folder] / path, match["anchor"], dedent(match["code"]))
    tests = [path.name for path in saved if path.name.startswith("test_")]
    assert len(saved) == 2 * len(tests) == 8
    (tmp_path / "pytest.ini").write_text(SETTINGS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(re.findall(r'^ +(?:async )?def test_', PAGE, re.MULTILINE))} passed" in done.stdout
