"""Bodies of LLM calls: how they are built, and how large and how odd they may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


Body = dict[str, Any]

URL = "https://attacker.example/x.png"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HELLO: Body = {"role": "user", "content": "hi"}
TEXT: Body = {"type": "text", "text": "hi"}
# Names that mean something elsewhere in a call.
SCHEMA = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "description": URL},
        "type": {"type": "string", "enum": ["web_search", "mcp"]},
        "source": {"type": "object", "properties": {"file_id": {"type": "string"}}},
        "image_url": {"type": "string", "format": "uri"},
        "content": {"anyOf": [{"type": "array", "items": {"type": "string"}}]},
    },
    "required": ["url"],
}


def function(name: str = "look", **fields: Any) -> Body:
    """Return a function that the agent runs itself."""
    return {"name": name, "description": f"See {URL}", "parameters": SCHEMA} | fields


def chat_tool(**fields: Any) -> Body:
    """Return a tool of /chat/completions."""
    return {"type": "function", "function": function(**fields)}


def responses_tool(**fields: Any) -> Body:
    """Return a tool of /responses."""
    return {"type": "function", **function(**fields)}


def tool_call(name: str = "look", arguments: str = "{}", **fields: Any) -> Body:
    """Return a call of a tool in /chat/completions."""
    called = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": called} | fields


def image(url: Any, **fields: Any) -> Body:
    """Return an image in /chat/completions."""
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def user(*parts: Any) -> Body:
    """Return a message of the user's in /chat/completions."""
    return {"role": "user", "content": [{"type": "text", "text": "See:"}, *parts]}


def chat(*messages: Any, **fields: Any) -> Body:
    """Return a body of /chat/completions."""
    return {"model": "any", "messages": list(messages) or [HELLO]} | fields


def after_a_tool(said: Body, content: Any = "Done.", **fields: Any) -> Body:
    """Return a body in which the model has called a tool and got its answer."""
    said = {"role": "assistant", "tool_calls": [tool_call()]} | said
    made = said["tool_calls"][0]["id"]
    answer = {"role": "tool", "name": "look", "tool_call_id": made, "content": content}
    return chat(HELLO, said, answer | fields, tools=[chat_tool()])


def input_text(text: str, **fields: Any) -> Body:
    """Return a text in /responses."""
    return {"type": "input_text", "text": text} | fields


def asked(*parts: Any) -> Body:
    """Return a message of the user's in /responses."""
    return {"type": "message", "role": "user", "content": list(parts)}


def items(*input_items: Any, **fields: Any) -> Body:
    """Return a body of /responses."""
    said = [asked(input_text("hi")), *input_items]
    return {"model": "any", "input": said} | fields


def nested(depth: int) -> Body:
    """Return a schema with this many levels."""
    schema: Body = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def as_responses(body: Body) -> Body:
    """Return a body of /chat/completions as /responses has it."""
    found: list[Body] = []
    for message in body["messages"]:
        content: Any = message.get("content") or []
        if isinstance(content, str):
            content = [TEXT | {"text": content}]
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        parts = [
            {"type": "input_image", "image_url": part["image_url"]["url"]}
            if part["type"] == "image_url"
            else {"type": kind, "text": part["text"]}
            for part in content
        ]
        if message["role"] == "tool":
            answer = {"call_id": message["tool_call_id"], "output": parts}
            found.append({"type": "function_call_output"} | answer)
            continue
        for thought in message.get("thinking_blocks", []):
            summary = {"type": "summary_text", "text": thought["thinking"]}
            found.append({"type": "reasoning", "id": "1", "summary": [summary]})
        if parts:
            found.append({**asked(*parts), "role": message["role"]})
        for call in message.get("tool_calls", []):
            ids = {"id": "fc_" + call["id"], "call_id": call["id"]}
            found.append({"type": "function_call"} | ids | call["function"])
    tools = [{"type": "function"} | tool["function"] for tool in body.get("tools", [])]
    return {"model": "any", "input": found[:7_000], "tools": tools}


# ## What is no body

PLAIN = json.dumps(chat()).encode()
NO_BODIES = {
    "nothing": b"",
    "list of calls": b"[" + PLAIN + b"]",
    "null": b"null",
    "cut off": PLAIN[:-1],
    "two": PLAIN * 2,
    "not UTF-8": PLAIN.replace(b'"hi"', b'"\xff"'),
    "half a character": PLAIN.replace(b'"hi"', rb'"\ud83d"'),
    "no number": PLAIN.replace(b'"any"', b'"any", "temperature": NaN'),
    "deep": b'{"model":' + b"[" * 100_000,
    "deep and whole": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many values": b'{"messages":[' + b"0," * 300_000 + b"0]}",
    "many fields": b"{" + b'"a":0,' * 300_000 + b'"a":0}',
}


# ## What is large


def steps(count: int, at_once: int = 1, distinct: bool = True) -> list[Body]:
    """Return so many steps, in each of which so many tools are called."""
    messages = [HELLO]
    for step in range(count):
        ids = [f"{step if distinct else 0}-{number}" for number in range(at_once)]
        calls = [tool_call(id=each) for each in ids]
        messages.append({"role": "assistant", "content": [TEXT], "tool_calls": calls})
        for each in ids:
            answer = {"role": "tool", "tool_call_id": each, "name": "look"}
            messages.append(answer | {"content": [TEXT]})
    return messages


def unanswered(count: int, at_once: int, between: list[Body]) -> Body:
    """Return a chat of steps whose tools have not answered, with these between them."""
    messages = [HELLO]
    for message in steps(count, at_once):
        if message["role"] == "assistant":
            messages += [message, *between]
    return chat(*messages)


def thinking(count: int) -> Body:
    """Return a chat with so many thoughts."""
    thought = {"type": "thinking", "thinking": "x", "signature": "x"}
    said = {"role": "assistant", "content": "hi"}
    return chat(HELLO, said | {"thinking_blocks": [thought] * count})


def called_with(arguments: Any) -> Body:
    """Return a chat in which a tool was called with these arguments."""
    return after_a_tool({"tool_calls": [tool_call(arguments=json.dumps(arguments))]})


def with_schema(schema: Any, tools: int = 1) -> Body:
    """Return a chat with tools that have these parameters."""
    return chat(tools=[chat_tool(parameters=schema)] * tools)


FLAT = {"properties": {f"p{number}": {"type": "string"} for number in range(240)}}
MEGA = 1_000_000
WIDE = "\U0001f600"
# The largest that are let through; built when they are needed.
LARGEST: dict[str, Callable[[], Body]] = {
    "steps": lambda: chat(*steps(3_000)),
    "steps of 128 calls": lambda: chat(*steps(23, 128)),
    "steps of one id": lambda: chat(*steps(3_000, distinct=False)),
    "unanswered calls": lambda: unanswered(23, 128, [HELLO]),
    "messages": lambda: chat(*[HELLO] * 7_000),
    "parts": lambda: chat(user(*[TEXT] * 30_000)),
    "images": lambda: chat(user(*[image(PIXEL)] * 10_000)),
    "thoughts": lambda: thinking(20_000),
    "schemas": lambda: with_schema(FLAT, tools=64),
    "text": lambda: chat(user(TEXT | {"text": "a b " * (7 * MEGA)})),
    "wide text": lambda: chat(user(TEXT | {"text": "a" * 15 * MEGA + WIDE})),
    "image": lambda: chat(user(image("data:image/png;base64," + "A" * 28 * MEGA))),
    "arguments": lambda: called_with({"a": "x" * 28 * MEGA}),
}
TOO_LARGE: dict[str, Callable[[], Body]] = {
    "calls": lambda: chat(*steps(3_001)),
    "calls at once": lambda: chat(*steps(1, 129)),
    "calls one after another": lambda: unanswered(129, 1, []),
    "messages": lambda: chat(*[HELLO] * 7_001),
    "tools": lambda: with_schema({}, tools=65),
    "values in a schema": lambda: with_schema({"enum": [0] * 500}),
    "levels of a schema": lambda: with_schema(nested(10)),
    "wide text": lambda: chat(user(TEXT | {"text": "a" * 17 * MEGA + WIDE})),
    "values in arguments": lambda: called_with([0] * 300_000),
}
