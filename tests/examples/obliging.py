"""A model that goes through with anything that an example asks: every tool once, then an answer of the right form."""

import json
from typing import Any

from stepwarden.testing import ReceivedRequest, Reply, ToolCall


def oblige(request: ReceivedRequest) -> Reply:
    """Call every tool that is offered and has not answered, all at once; else answer, by the schema if there is one."""
    body = request.body
    if body.get("tools") and not has_tool_result(body.get("messages") or body.get("input")):
        offered = [tool.get("function", tool) for tool in body["tools"]]
        calls = [ToolCall(tool["name"], sample(tool.get("parameters") or tool.get("input_schema"))) for tool in offered]
        return Reply("", tool_calls=calls, input_tokens=40, output_tokens=10)
    schema = schema_of_answer(body)
    text = "That is what I found." if schema is None else json.dumps(sample(schema))
    return Reply(text, input_tokens=40, output_tokens=10)


def has_tool_result(messages: Any) -> bool:
    """Tell whether a tool has answered, in the words of any of the APIs."""
    said = json.dumps(messages)
    return any(mark in said for mark in ('"role": "tool"', '"function_call_output"', '"tool_result"'))


def schema_of_answer(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema that the answer must have, or None."""
    form = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    return form.get("schema") or (form.get("json_schema") or {}).get("schema")


def sample(schema: dict[str, Any] | None, definitions: dict[str, Any] | None = None) -> Any:
    """Make the plainest value of a JSON schema."""
    schema = schema or {}
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return sample(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], definitions)
    plain: dict[str | None, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}
    match schema.get("type"):
        case "array":
            return [sample(schema.get("items"), definitions)]
        case "object" | None:
            properties = schema.get("properties", {})
            return {name: sample(part, definitions) for name, part in properties.items()}
        case kind:
            return plain[kind]
