"""Bodies of LLM calls: what the relay must refuse, and what an agent needs."""

from __future__ import annotations

import json
from typing import Any


Body = dict[str, Any]

URL = "https://192.0.2.1/a.png"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT: Body = {"type": "text", "text": "hi"}
FUNCTION = {"name": "a", "parameters": {"type": "object"}}
CHAT: Body = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": FUNCTION}],
}
RESPONSES: Body = {
    "model": "m",
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}],
        }
    ],
    "tools": [{"type": "function", **FUNCTION}],
}
BODIES = {"chat": CHAT, "responses": RESPONSES}


def said(*messages: Body) -> Body:
    """Return a chat of these messages, after one of the user's."""
    return {"messages": [CHAT["messages"][0], *messages]}


def user(*parts: Any) -> Body:
    """Return a chat whose user sends these parts."""
    return said({"role": "user", "content": list(parts)})


def image(url: Any, **fields: Any) -> Body:
    """Return a part of a chat that is an image."""
    return {"type": "image_url", "image_url": {"url": url}, **fields}


def assistant(**fields: Any) -> Body:
    """Return a chat in which the model said this."""
    return said({"role": "assistant", "content": "hi", **fields})


def item(*parts: Any, **fields: Any) -> Body:
    """Return an input whose user sends these parts."""
    message = {"type": "message", "role": "user", "content": list(parts)}
    return {"input": [message | fields]}


def tool_call(**fields: Any) -> Body:
    """Return a call of a tool in a chat."""
    function = {"name": "a", "arguments": "{}"}
    return {"id": "1", "type": "function", "function": function} | fields


def parameters(schema: Any) -> Body:
    """Return a chat with a tool that has these parameters."""
    return {"tools": [{"type": "function", "function": {"name": "a"} | schema}]}


def nested(depth: int) -> Body:
    """Return a schema with this many levels."""
    schema: Body = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


# Not to be let through in either style.
PROVIDER_TOOLS: list[Body] = [
    {"type": "web_search"},
    {"type": "web_search_2025_08_26"},
    {"type": "web_search_preview_2025_03_11", "search_context_size": "low"},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "mcp", "server_label": "x", "server_url": "https://192.0.2.1/mcp"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "computer_20250124", "name": "computer"},
    {"type": "image_generation"},
    {"type": "local_shell"},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "function ", **FUNCTION},
    {"type": "Function", **FUNCTION},
    {"type": ["function"], **FUNCTION},
    {"type": None, **FUNCTION},
    {"type": "custom", "name": "a"},
    {**FUNCTION},
    {"googleSearch": {}},
    {"google_search": {}},
    {"googleSearchRetrieval": {}},
    {"enterpriseWebSearch": {}},
    {"urlContext": {}},
    {"codeExecution": {}},
    {"googleMaps": {}},
    {"type": "function", "function": FUNCTION, "googleSearch": {}},
    {"type": "function", "function": FUNCTION, **FUNCTION},
]
FIELDS: list[Body] = [
    {"stream": True},
    {"stream": False},
    {"web_search_options": {}},
    {"plugins": [{"id": "web"}]},
    {"mcp_servers": [{"type": "url", "url": "https://192.0.2.1/mcp", "name": "x"}]},
    {"background": True},
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"prompt": {"id": "pmpt_1"}},
    {"container": "container_1"},
    {"models": ["gpt-4o"]},
    {"fallbacks": ["gpt-4o"]},
    {"api_base": "https://192.0.2.1"},
    {"base_url": "https://192.0.2.1"},
    {"api_key": "x"},
    {"custom_llm_provider": "openai"},
    {"provider": {"order": ["x"]}},
    {"route": "fallback"},
    {"transforms": []},
    {"extra_body": {"web_search_options": {}}},
    {"extra_headers": {"Host": "192.0.2.1"}},
    {"functions": []},
    {"modalities": ["text", "audio"]},
    {"search_parameters": {"mode": "on"}},
    {"enable_search": True},
    {"mock_response": "x"},
    {"mock_tool_calls": []},
    {"metadata": {}},
    {"user": "x"},
    {"service_tier": "priority"},
    {"n": 100},
    {"max_retries": 9},
    {"Web_Search_Options": {}},
    {"tool_choice": {"type": "web_search"}},
    {"tool_choice": "required"},
    {"temperature": "NaN"},
    {"temperature": True},
    {"tools": {"type": "web_search"}},
    {"tools": "web_search"},
    {"tools": ["web_search"]},
    {"tools": [[]]},
    {"tools": 1},
    {"model": None},
    {"model": "m" * 1000},
    {"store": True},
    {"include": ["web_search_call.action.sources"]},
    {"thinking": {"type": "enabled", "budget_tokens": 1, "web": True}},
    {"max_completion_tokens": -1},
    {"max_tokens": 1.5},
    {"reasoning": {"effort": "high", "generate_summary": "x"}},
    {"": {}},
    {"\x1b[31m\n" + "x" * 5000: "SECRET"},
]

REFUSED: dict[str, list[Body]] = {
    "chat": [
        user(image(URL)),
        user({"type": "image_url", "image_url": URL}),
        user({"type": "image_url", "image_url": PIXEL}),
        user(image("http://192.0.2.1/")),
        user(image("gs://bucket/a.png")),
        user(image("file:///etc/passwd")),
        user(image("//192.0.2.1/a.png")),
        user(image("/etc/passwd")),
        user(image(f" {PIXEL}")),
        user(image(f"{PIXEL}\n")),
        user(image(f"{PIXEL}\n{URL}")),
        user(image("data:image/png,x")),
        user(image("data:image/png;base64,")),
        user(image("data:image/png;base64,../..")),
        user(image("data:image/png;x=y;base64,AAAA")),
        user(image("DATA:image/png;base64,AAAA")),
        *(
            user(image(f"data:{kind};base64,AAAA"))
            for kind in ("image/svg+xml", "text/html", "application/pdf", "image/bmp")
        ),
        user({"type": "image_url", "image_url": {"url": PIXEL, "file_id": "f"}}),
        user({"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}),
        user(image([URL])),
        user(TEXT, image(URL)),
        user({"type": "file", "file": {"file_id": "file-1"}}),
        user({"type": "file", "file": {"file_data": URL}}),
        user({"type": "video_url", "video_url": {"url": URL}}),
        user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        user({"type": "input_image", "image_url": PIXEL}),
        user({"type": "document", "source": {"type": "url", "url": URL}}),
        user({"type": "image", "source": {"type": "url", "url": URL}}),
        user({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}),
        user({"type": "tool_result", "tool_use_id": "1", "content": []}),
        user({"type": "container_upload", "file_id": "file_1"}),
        user(TEXT | {"file_id": "file-1"}),
        user(TEXT | {"citations": {"enabled": True}}),
        user(TEXT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}),
        user(TEXT | {"cache_control": {"type": "persistent"}}),
        user(TEXT | {"text": {"url": URL}}),
        user("hi"),
        user([TEXT]),
        said({"role": "user", "content": TEXT}),
        said({"role": "user", "content": None}),
        said({"role": "user"}),
        said({"role": "user", "content": "x", "audio": {"id": "audio_1"}}),
        said({"role": "user", "content": "x", "name": "x"}),
        said({"role": "developer", "content": "x"}),
        said({"role": "function", "name": "a", "content": "x"}),
        said({"role": "web", "content": "x"}),
        said({"content": "x"}),
        said({"role": "system", "content": [image(PIXEL)]}),
        said({"role": "tool", "tool_call_id": "1", "name": "a", "content": [{}]}),
        said(
            {"role": "tool", "tool_call_id": "1", "name": "a", "content": [image(URL)]}
        ),
        assistant(thinking_blocks=[{"type": "image", "source": {"url": URL}}]),
        assistant(thinking_blocks=[{"type": "server_tool_use", "name": "web_search"}]),
        assistant(thinking_blocks=[{"type": "thinking", "thinking": "x", "url": URL}]),
        assistant(thinking_blocks=[{"type": "redacted_thinking", "data": {"x": 1}}]),
        assistant(reasoning_content=[URL]),
        assistant(provider_specific_fields={"x": URL}),
        assistant(function_call={"name": "a", "arguments": "{}"}),
        assistant(audio={"id": "audio_1"}),
        assistant(tool_calls=[tool_call(type="web_search")]),
        assistant(tool_calls=[tool_call(type="custom")]),
        assistant(tool_calls=[tool_call(provider_specific_fields={"x": URL})]),
        assistant(tool_calls=[tool_call(function={"name": "a", "arguments": {}})]),
        assistant(tool_calls=[tool_call(function={"name": "a", "arguments": "{"})]),
        assistant(
            tool_calls=[tool_call(function={"name": "a", "arguments": '{"a": 1e999}'})]
        ),
        assistant(
            tool_calls=[tool_call(function={"name": "a", "arguments": "[" * 100_000})]
        ),
        assistant(tool_calls=[tool_call(function={"name": "a" * 300})]),
        {"messages": "x"},
        {"messages": {"role": "user", "content": "x"}},
        {"messages": [[]]},
        {"messages": None},
        {"input": RESPONSES["input"]},
        parameters({"parameters": {"$ref": "#/$defs/a"}}),
        parameters({"parameters": {"properties": {"a": {"$ref": "https://x/y"}}}}),
        parameters({"parameters": {"$defs": {}}}),
        parameters({"parameters": {"definitions": {}}}),
        parameters({"parameters": {"$dynamicRef": "#a"}}),
        parameters({"parameters": {"a" * 300: {}}}),
        parameters({"parameters": nested(30)}),
        parameters({"parameters": {"enum": [0] * 1000}}),
        parameters({"parameters": []}),
        parameters({"parameters": {}, "cache_control": {"type": "ephemeral"}}),
        parameters({"parameters": {}, "defer_loading": True}),
    ],
    "responses": [
        item({"type": "input_image", "image_url": URL}),
        item({"type": "input_image", "image_url": {"url": URL}}),
        item({"type": "input_image", "file_id": "file-1"}),
        item({"type": "input_image", "image_url": PIXEL, "file_id": "file-1"}),
        item({"type": "input_image", "image_url": "data:text/html;base64,AAAA"}),
        item({"type": "input_file", "file_url": URL}),
        item({"type": "input_file", "file_id": "file-1"}),
        item({"type": "input_text", "text": "x", "file_url": URL}),
        item({"type": "output_text", "text": "x", "annotations": [{"url": URL}]}),
        item({"type": "refusal", "refusal": "x"}),
        item(role="system"),
        item(role="developer"),
        item(id="msg_1"),
        {"input": "x"},
        {"input": [{"id": "msg_1"}]},
        {"input": [{"role": "user", "content": "x"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "web_search_call", "id": "1", "status": "completed"}]},
        {"input": [{"type": "mcp_approval_response", "approve": True}]},
        {"input": [{"type": "mcp_list_tools", "server_label": "x", "tools": []}]},
        {"input": [{"type": "image_generation_call", "id": "ig_1"}]},
        {"input": [{"type": "code_interpreter_call", "id": "1", "container_id": "c"}]},
        {"input": [{"type": "file_search_call", "id": "fs_1"}]},
        {"input": [{"type": "computer_call_output", "output": {"image_url": URL}}]},
        {"input": [{"type": "custom_tool_call", "call_id": "1", "name": "a"}]},
        {"input": [{"type": "compaction", "encrypted_content": "x"}]},
        *(
            {"input": [{"type": kind, "call_id": "1", "output": output}]}
            for kind, output in (
                ("function_call_output", [{"type": "input_image", "image_url": URL}]),
                ("function_call_output", [{"type": "input_file", "file_id": "f"}]),
                ("function_call_output", {"url": URL}),
                ("custom_tool_call_output", "x"),
            )
        ),
        {"input": [{"type": "reasoning", "id": "1", "summary": [{"url": URL}]}]},
        {"input": [{"type": "reasoning", "id": "1", "summary": "x"}]},
        {"input": [{"type": "reasoning", "id": "1", "summary": [], "content": [{}]}]},
        {"instructions": item({"type": "input_image", "image_url": URL})["input"]},
        {"messages": CHAT["messages"]},
        {"tools": [{"type": "function", "name": "a", "parameters": {"$ref": "#"}}]},
    ],
}

SCHEMA = {
    "type": "object",
    "description": "Fetches nothing.",
    "properties": {
        "url": {"type": "string", "description": URL},
        "type": {"type": "string", "enum": ["web_search", "mcp"]},
        "source": {"type": "object", "properties": {"file_id": {"type": "string"}}},
        "image_url": {"type": "string", "format": "uri"},
        "content": {"anyOf": [{"type": "array", "items": {"type": "string"}}]},
    },
    "required": ["url"],
}
ARGUMENTS = json.dumps({"url": URL, "type": "web_search", "source": {"file_id": "f"}})
CALLED = [
    {
        "role": "assistant",
        "content": [TEXT],
        "reasoning_content": "hm",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        ],
        "tool_calls": [
            tool_call(function={"name": "web_search", "arguments": ARGUMENTS})
        ],
    },
    {
        "role": "tool",
        "tool_call_id": "1",
        "name": "web_search",
        "content": [TEXT, image(PIXEL)],
        "cache_control": {"type": "ephemeral"},
    },
]
NAMES = (
    "googleSearch",
    "google_search",
    "url_context",
    "code_execution",
    "web_search",
    "web_search_20250305",
    "computer",
    "mcp",
    "file_search",
    "json_tool_call",
)
# What an agent may need, harmless though it looks otherwise.
ALLOWED: dict[str, list[Body]] = {
    "chat": [
        {},
        {"tools": []},
        {"model": "another"},
        said(*CALLED),
        said(*CALLED, *CALLED),
        user(TEXT, image(PIXEL, cache_control={"type": "ephemeral"})),
        user(TEXT | {"text": f"see {URL} and data:text/html;base64,AAAA"}),
        said({"role": "system", "content": [TEXT | {"text": "web_search: on"}]}),
        assistant(
            tool_calls=[tool_call(function={"name": "a", "arguments": '{"a": "x\ny"}'})]
        )
        | {},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": name,
                        "description": URL,
                        "parameters": SCHEMA,
                    },
                }
                for name in NAMES
            ]
        },
        {
            "max_completion_tokens": 1000,
            "reasoning_effort": "high",
            "prompt_cache_key": "x",
            "prompt_cache_retention": "24h",
        },
    ],
    "responses": [
        {},
        {"model": "another"},
        {"instructions": f"see {URL}"},
        item({"type": "input_image", "image_url": PIXEL, "detail": "auto"}),
        {
            "input": [
                *RESPONSES["input"],
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": "hm"}],
                    "content": [{"type": "reasoning_text", "text": "hm"}],
                    "encrypted_content": "x",
                    "status": "completed",
                },
                {
                    "type": "function_call",
                    "id": "fc_1",
                    "call_id": "1",
                    "name": "web_search",
                    "arguments": ARGUMENTS,
                },
                {
                    "type": "function_call_output",
                    "call_id": "1",
                    "output": [{"type": "input_image", "image_url": PIXEL}],
                },
            ]
        },
        {
            "tools": [
                {
                    "type": "function",
                    "name": name,
                    "description": URL,
                    "parameters": SCHEMA,
                    "strict": False,
                }
                for name in NAMES
            ],
            "max_output_tokens": 1000,
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "high"},
            "tool_choice": "auto",
            "prompt_cache_key": "x",
        },
    ],
}

CHAT_TEXT = json.dumps(CHAT).encode()
NO_BODIES = {
    "nothing": b"",
    "text": b"hello",
    "list": b"[]",
    "list of calls": b"[" + CHAT_TEXT + b"]",
    "null": b"null",
    "cut off": CHAT_TEXT[:-1],
    "two": CHAT_TEXT * 2,
    "form": b"model=gpt-4o-mini&messages=",
    "not UTF-8": CHAT_TEXT.replace(b'"hi"', b'"\xff"'),
    "half a character": CHAT_TEXT.replace(b'"hi"', rb'"\ud83d"'),
    "no number": CHAT_TEXT.replace(b'"hi"', b'"hi", "temperature": NaN', 1),
    "deep": b'{"model":' + b"[" * 100_000,
    "deep and whole": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many values": b'{"messages":[' + b"0," * 300_000 + b"0]}",
    "many fields": b"{" + b'"a":0,' * 300_000 + b'"a":0}',
}


def steps(count: int, at_once: int = 1, distinct: bool = True) -> Body:
    """Return a chat of so many steps, in each of which so many tools are called."""
    messages = list(CHAT["messages"])
    for step in range(count):
        ids = [f"{step if distinct else 0}-{number}" for number in range(at_once)]
        calls = [tool_call(id=each) for each in ids]
        messages.append({"role": "assistant", "content": [TEXT], "tool_calls": calls})
        for each in ids:
            answer = {"role": "tool", "tool_call_id": each, "name": "a"}
            messages.append(answer | {"content": [TEXT]})
    return {"messages": messages}


def large_call(size: int) -> Body:
    """Return a chat with a tool call that has large arguments."""
    function = {"name": "a", "arguments": json.dumps({"a": "x" * size})}
    return said(
        {"role": "assistant", "tool_calls": [tool_call(function=function)]},
        {"role": "tool", "tool_call_id": "1", "name": "a", "content": "x"},
    )


def as_responses(chat: Body) -> Body:
    """Return a chat as /responses has it."""
    items: list[Body] = []
    for message in chat.get("messages", CHAT["messages"]):
        said = message.get("content") or []
        said_parts: list[Body] = (
            [TEXT | {"text": said}] if isinstance(said, str) else said
        )
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        parts = [
            {"type": "input_image", "image_url": part["image_url"]["url"]}
            if part["type"] == "image_url"
            else {"type": kind, "text": part["text"]}
            for part in said_parts
        ]
        if message["role"] == "tool":
            answer = {"call_id": message["tool_call_id"], "output": parts}
            items.append({"type": "function_call_output"} | answer)
            continue
        for thought in message.get("thinking_blocks", []):
            summary = {"type": "summary_text", "text": thought["thinking"]}
            items.append({"type": "reasoning", "id": "1", "summary": [summary]})
        if parts:
            role = {"role": message["role"], "content": parts}
            items.append({"type": "message"} | role)
        for call in message.get("tool_calls", []):
            ids = {"id": "fc_" + call["id"], "call_id": call["id"]}
            items.append({"type": "function_call"} | ids | call["function"])
    tools = chat.get("tools", CHAT["tools"])
    tools = [{"type": "function"} | tool["function"] for tool in tools]
    return {"model": "m", "input": items[:10_000], "tools": tools}


FLAT = {"properties": {f"p{number}": {"type": "string"} for number in range(240)}}
MEGA = 1_000_000
# The largest that are let through; built when they are needed.
LARGEST = {
    "steps": lambda: steps(3_000),
    "steps of six calls": lambda: steps(500, 6),
    "steps of 128 calls": lambda: steps(23, 128),
    "steps of one id": lambda: steps(3_000, distinct=False),
    "unanswered calls": lambda: {
        "messages": [
            message
            for message in steps(23, 128)["messages"]
            if message["role"] == "assistant"
            for message in (message, CHAT["messages"][0])
        ]
    },
    "messages": lambda: {"messages": CHAT["messages"] * 10_000},
    "parts": lambda: user(*[TEXT] * 30_000),
    "images": lambda: user(*[image(PIXEL)] * 10_000),
    "thoughts": lambda: assistant(
        thinking_blocks=[{"type": "thinking", "thinking": "x", "signature": "x"}]
        * 20_000
    ),
    "schemas": lambda: {"tools": parameters({"parameters": FLAT})["tools"] * 64},
    "text": lambda: user(TEXT | {"text": "a b " * (7 * MEGA)}),
    "wide text": lambda: user(TEXT | {"text": "a" * 15 * MEGA + "\U0001f600"}),
    "image": lambda: user(image("data:image/png;base64," + "A" * 28 * MEGA)),
    "arguments": lambda: large_call(28 * MEGA),
}
TOO_LARGE = {
    "calls": lambda: steps(3_001),
    "calls at once": lambda: steps(1, 129),
    "calls one after another": lambda: {
        "messages": [
            *CHAT["messages"],
            *[m for m in steps(129)["messages"] if m["role"] == "assistant"],
        ]
    },
    "messages": lambda: {"messages": CHAT["messages"] * 10_001},
    "tools": lambda: {"tools": CHAT["tools"] * 65},
    "schema": lambda: parameters({"parameters": {"enum": [0] * 500}}),
    "wide text": lambda: user(TEXT | {"text": "a" * 17 * MEGA + "\U0001f600"}),
    "values in arguments": lambda: assistant(
        tool_calls=[
            tool_call(function={"name": "a", "arguments": json.dumps([0] * 300_000)})
        ]
    ),
}
