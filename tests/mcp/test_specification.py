"""MCP_TOOL_SPECIFICATION.md is up to date."""

from __future__ import annotations

import json
import re

import mcp_specification
import pytest
from codomyrmex.integrations.mcp import LocalBackend, mcp_server
from helpers import in_time
from jsonschema import Draft202012Validator
from mcp import Client
from mcp_specification import PATH, WRITTEN, describe, sections, update

NAMES = sorted(sections(PATH.read_text(encoding="utf-8")))


@in_time
async def test_it_describes_every_tool_with_its_parameters_and_its_result():
    found = await mcp_specification.tools()
    assert sorted(tool.name for tool in found) == NAMES
    written = sections(PATH.read_text(encoding="utf-8"))
    for tool in found:  # to update it: python tests/mcp_specification.py
        assert written[tool.name].partition(WRITTEN)[0].strip() == describe(tool, found)


@in_time
async def test_it_can_be_written_again():
    text = PATH.read_text(encoding="utf-8")
    assert update(text, await mcp_specification.tools()) == text


@in_time
async def test_its_examples_have_the_schemas_of_the_tools():
    written = sections(PATH.read_text(encoding="utf-8"))
    for tool in await mcp_specification.tools():
        arguments, result = re.findall(r"^```json\n(.*?)\n```", written[tool.name], re.MULTILINE | re.DOTALL)
        Draft202012Validator(tool.input_schema).validate(json.loads(arguments))
        assert json.loads(arguments).keys() <= tool.input_schema["properties"].keys()
        Draft202012Validator(tool.output_schema).validate(json.loads(result))
        assert json.loads(result).keys() == (tool.output_schema or {})["properties"].keys()


@in_time
async def test_its_errors_are_those_of_a_server_without_alerts():
    written = sections(PATH.read_text(encoding="utf-8"))
    backend = LocalBackend()
    async with Client(mcp_server(backend, allow_actions=True)) as client:
        for name, section in written.items():
            errors = re.findall(r"^- `(\{.*\})`: \*(.*)\*$", section, re.MULTILINE)
            assert errors, name
            for arguments, message in errors:
                answer = await client.call_tool(name, json.loads(arguments))
                assert (answer.is_error, answer.content[0].text) == (True, message)
    await backend.aclose()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"allow_actions": True}, set()),
        ({"streams_writable": True}, {"add_silence", "expire_silence", "replay_dead_letters"}),
        (
            {},
            {"add_silence", "expire_silence", "replay_dead_letters", "stream_create", "stream_publish"},
        ),
    ],
)
@in_time
async def test_tools_that_change_something_are_offered_only_if_they_are_allowed(options, missing):
    backend = LocalBackend()
    async with Client(mcp_server(backend, **options)) as client:
        offered = {tool.name for tool in (await client.list_tools()).tools}
    await backend.aclose()
    assert offered == set(NAMES) - missing
