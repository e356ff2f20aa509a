"""The question of docs/mcp.md, asked while the demo runs: the documented calls have the documented results.

`ANSWERS=1 pytest tests/peers/test_mcp_demo.py` writes the results into the document.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from demo_program import PATIENCE, running
from mcp_process import assisting

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "mcp.md"
SECTION = re.compile(r"^## Why was nobody paged for orders\?\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"(?<=^```json\n).*?(?=\n```$)", re.MULTILINE | re.DOTALL)
VARYING = {  # what differs each time, and what the document has instead
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(?:Z|\+00:00)": "2026-11-27T12:35:57Z",
    r'(?<="id": ")[0-9a-f-]{36}': "01a21d01-593e-75fc-b453-3b55f9e44337",
    r'(?<="traceparent": ")[0-9a-f-]{55}': "00-3e1eaf614b32da2f95fb1d380f609637-59b99eef22269a18-03",
    r'(?:(?<=instance=)|(?<="instance": "))[^\s"]+:\d+': "web-1:4711",
    r'(?<="fingerprint": ")\w+': "d49834a46773dfa2528bd12b",
    r'(?<="cursor": ")[0-9a-f]+:\d+': "e2167760e8df:35",
    r'(?<="item": ")\w+': "tea",
    r'(?<="order": )\d+': "30",
    r'(?<="rejected": )\d+': "10",
    r'(?<="opened_last_hour": )\d+': "2",
    r'(?<="failures": )\d+': "4",
    r"after \d failures?": "after 4 failures",
}


def written(result: Any) -> str:
    """Return a result as it is in the document."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    for pattern, usual in VARYING.items():
        text = re.sub(pattern, usual, text)
    return text


def answers(results: list[str]) -> bool:
    """Return whether the circuit is open, and the pager has been notified."""
    return '"inhibited"' in results[0] and '"state": "open"' in results[1] and '"pager[0]"' in results[2]


def replaced(text: str, blocks: list[re.Match[str]], begin: int, results: list[str]) -> str:
    """Return the document with other results."""
    for block, result in zip(reversed(blocks), reversed(results), strict=True):
        text = text[: begin + block.start()] + result + text[begin + block.end() :]
    return text


def test_the_documented_calls_answer_the_question_on_the_demo():
    text = DOCUMENT.read_text(encoding="utf-8")
    section = SECTION.search(text)
    assert section is not None
    blocks = list(BLOCK.finditer(section[1]))
    calls = [json.loads(block[0]) for block in blocks[::2]]
    expected = [block[0] for block in blocks[1::2]]
    assert len(calls) == len(expected) == 5
    with running("--port", "0", "--cycle", "8") as demo:
        url = demo.wait_for(r"The live page: +(\S+)\n")[1]
        with assisting("--url", url) as assistant:
            demo.wait_for("the pager gets: FIRING CircuitBreakerOpen")
            deadline = time.monotonic() + PATIENCE
            results: list[str] = []
            while results != expected and time.monotonic() < deadline:  # it comes back in each cycle
                results = [written(assistant.result(call["name"], **call["arguments"])) for call in calls]
                if "ANSWERS" in os.environ and answers(results):
                    text = replaced(text, blocks[1::2], section.start(1), results)
                    DOCUMENT.write_text(text, encoding="utf-8")
                    return
                time.sleep(0.1)
    assert results == expected
