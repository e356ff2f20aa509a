"""Go templates with the texts that `amtool template render` of Alertmanager 0.25 made of them.

`tests/peers/test_go_templates.py` renders them again with amtool. A case looks like this:

    ### its name
    {{ the template }}
    --- text
    the text; there is none after `--- error`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "integrations" / "go_templates"
NOTIFICATION: dict[str, Any] = json.loads((FOLDER / "notification.json").read_text(encoding="utf-8"))


class Case(NamedTuple):
    name: str
    template: str
    text: str | None  # None if rendering fails
    html: bool


def _cases(kind: str) -> Iterator[Case]:
    content = (FOLDER / f"{kind}.txt").read_bytes().decode()
    for block in content.split("\n### ")[1:]:
        name, rest = block.split("\n", 1)
        template, result = rest.split("\n--- ")
        outcome, text = result.split("\n", 1)
        text = text.split("\n\n# ")[0]  # the title of the next section
        yield Case(name, template, text.removesuffix("\n") if outcome == "text" else None, kind == "html")


CASES = [*_cases("text"), *_cases("html")]
