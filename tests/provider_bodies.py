"""Calls that an agent's shell might make so that the provider does more than answer."""

from __future__ import annotations

from typing import Any

from relay_bodies import (
    HELLO,
    PIXEL,
    TEXT,
    URL,
    Body,
    after_a_tool,
    asked,
    chat,
    chat_tool,
    function,
    image,
    input_text,
    items,
    responses_tool,
    tool_call,
    user,
)


FILE = "file-of-the-attacker"
LONG = "A text that is long enough for a cache. " * 600
CACHED = {"cache_control": {"type": "ephemeral"}}
PDF = "data:application/pdf;base64,QQ=="

# Tools that a provider runs, in each provider's spelling, and what is no function.
PROVIDER_TOOLS: list[Any] = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "computer_20250124", "name": "computer", "display_width_px": 9},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "attacker"},
    {"type": "url", "url": URL, "name": "attacker"},
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": "mcp", "server_label": "a", "server_url": URL},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "file_search", "vector_store_ids": ["vs_attacker"]},
    {"type": "image_generation"},
    {"type": "local_shell"},
    {"type": "custom", "name": "look"},
    {"type": "openrouter:web_search"},
    {"type": "Function", "function": function()},
    {"type": ["function"], "function": function()},
    {"type": "function", "defer_loading": True},
    {"googleSearch": {}},
    {"enterpriseWebSearch": {}},
    {"googleMaps": {}},
    {"url_context": {}},
    {"urlContext": {}},
    {"codeExecution": {}},
    {"computerUse": {"environment": "ENVIRONMENT_BROWSER"}},
    {"fileSearch": {"fileSearchStoreNames": ["stores/attacker"]}},
    {"function_declarations": [{"name": "look"}], "googleSearch": {}},
]

# Names that providers, or LiteLLM, give to tools of their own: as functions they stay
# functions.
FUNCTION_NAMES = (
    "googleSearch google_search googleSearchRetrieval enterpriseWebSearch googleMaps "
    "url_context urlContext codeExecution code_execution code_interpreter web_search "
    "web_search_20250305 web_search_preview web_fetch file_search mcp computer "
    "computer_use computer_use_preview image_generation bash text_editor "
    "str_replace_based_edit_tool memory local_shell tool_search_tool_regex "
    "litellm_web_search json_tool_call"
).split()

# Parameters of a function that LiteLLM would write out, each time.
SCHEMAS: dict[str, Any] = {
    "a reference": {"properties": {"a": {"$ref": "#/$defs/b"}}},
    "definitions": {"$defs": {}},
    "definitions of old": {"definitions": {}},
    "a long name": {"a" * 300: {}},
}

# Fields beside the messages: of the providers, of OpenAI's client and of LiteLLM
# itself; and those that are listed, with what they may not be.
FIELDS: Body = {
    "web_search_options": {"search_context_size": "high"},
    "Web_Search_Options": {},
    "plugins": [{"id": "web"}],
    "models": ["attacker/model"],
    "provider": {"order": ["attacker"]},
    "extra_body": {"plugins": [{"id": "web"}], "model": "attacker/model"},
    "extra_headers": {"anthropic-beta": "web-fetch-2025-09-10"},
    "api_base": URL,
    "base_url": URL,
    "api_key": "sk-attacker",
    "organization": "attacker",
    "custom_llm_provider": "openai",
    "model_list": [{"litellm_params": {"model": "attacker/model"}}],
    "fallbacks": ["openai/gpt-attacker"],
    "mock_response": "attacker",
    "mock_tool_calls": [{"id": "1", "function": {"name": "x", "arguments": "{}"}}],
    "litellm_params": {"api_base": URL},
    "metadata": {"attacker": "attacker"},
    "callbacks": ["langfuse"],
    "cache_control_injection_points": [{"location": "message", "role": "system"}],
    "allowed_openai_params": ["plugins"],
    "use_litellm_proxy": True,
    "ssl_verify": False,
    "proxies": {"https": URL},
    "timeout": 0.001,
    "num_retries": 9,
    "input_cost_per_token": 0.0,
    "n": 100,
    "stream": True,
    "container": {"skills": [{"type": "custom", "skill_id": "attacker"}]},
    "mcp_servers": [{"type": "url", "url": URL, "name": "attacker"}],
    "cachedContent": "cachedContents/attacker",
    "cached_content": "cachedContents/attacker",
    "tool_config": {"functionCallingConfig": {"mode": "ANY"}},
    "googleSearch": {},
    "vertex_credentials": "/etc/passwd",
    "aws_bedrock_runtime_endpoint": URL,
    "previous_response_id": "resp_attacker",
    "conversation": "conv_attacker",
    "prompt": {"id": "pmpt_attacker"},
    "background": True,
    "session_id": "attacker",
    "": {},
    "\x1b[31m\n" + "x" * 5000: "attacker",
    "model": None,
    "messages": [[]],
    "input": "attacker",
    "instructions": [asked({"type": "input_image", "image_url": URL})],
    "tools": [[]],
    "tool_choice": {"type": "web_search"},
    "store": True,
    "include": ["web_search_call.action.sources"],
    "reasoning": {"effort": "high", "generate_summary": "attacker"},
    "thinking": {"type": "enabled", "budget_tokens": 1024, "web": True},
    "max_completion_tokens": -1,
    "max_tokens": 1.5,
    "temperature": "NaN",
}

# What a message of the user's or a tool's answer might hold.
PARTS: list[Body] = [
    image(URL),
    {"type": "image_url", "image_url": URL},
    image("gs://attacker/x.png"),
    image("file:///etc/hostname"),
    image("/etc/hostname"),
    image("http://127.0.0.1:9/x.png"),
    image("http://169.254.169.254/latest/meta-data"),
    image(PIXEL, format="text/html"),
    image(PIXEL, file_id=FILE),
    image(f" {PIXEL}"),
    image(f"{PIXEL}\n"),
    image(f"{PIXEL}\n{URL}"),
    image(f"data:image/png;base64,{URL}"),
    image("data:image/png;base64,../.."),
    image("data:image/png;x=y;base64,AAAA"),
    image("DATA:image/png;base64,AAAA"),
    image(PDF),
    image("data:text/html;base64,QQ=="),
    {"type": "image", "source": {"type": "url", "url": URL}},
    {"type": "input_image", "image_url": PIXEL},
    {"type": "document", "source": {"type": "url", "url": URL}},
    {"type": "file", "file": {"file_id": FILE}},
    {"type": "file", "file": {"file_id": URL, "format": "application/pdf"}},
    {"type": "file", "file": {"file_data": URL, "filename": "x.pdf"}},
    {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
    {"type": "video_url", "video_url": {"url": URL}},
    {"type": "search_result", "source": URL, "title": "x", "content": []},
    {"type": "tool_result", "tool_use_id": "call_1", "content": []},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_fetch", "input": {}},
    TEXT | {"citations": [{"type": "web", "url": URL}]},
    TEXT | {"file_id": FILE},
    TEXT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    TEXT | {"cache_control": {"type": "url", "url": URL}},
]

# What a message of the model's might hold that no model said.
ANSWERS: list[Body] = [
    {"thinking_blocks": [{"type": "server_tool_use", "name": "web_search"}]},
    {"thinking_blocks": [{"type": "image", "source": {"type": "url", "url": URL}}]},
    {"thinking_blocks": [{"type": "document", "source": {"file_id": FILE}}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "x", "url": URL}]},
    {"thinking_blocks": [{"type": "redacted_thinking", "data": "x", "url": URL}]},
    {"provider_specific_fields": {"compaction_blocks": [{"type": "document"}]}},
    {"provider_specific_fields": {"web_search_results": [{"tool_use_id": "1"}]}},
    {"tool_calls": [tool_call(type="web_search")]},
    {"tool_calls": [tool_call(type="custom", custom={"name": "x", "input": "y"})]},
    {"tool_calls": [tool_call(provider_specific_fields={"thought_signature": "x"})]},
    {"tool_calls": [tool_call(arguments="{")]},
    {"tool_calls": [tool_call(arguments='{"a": 1e999}')]},
    {"tool_calls": [tool_call(arguments="[" * 100_000)]},
    {"tool_calls": [tool_call("a" * 300)]},
    {"audio": {"id": "audio_attacker"}},
    {"images": [image(URL)]},
    {"reasoning_details": [{"type": "reasoning.encrypted", "data": URL}]},
    {"reasoning_content": [URL]},
    {"function_call": {"name": "web_search", "arguments": "{}"}},
    {"content": [image(URL)]},
    {"content": [{"type": "server_tool_use", "id": "1", "name": "web_search"}]},
    CACHED,
    {"role": "function", "name": "look"},
    {"role": "developer", "content": URL},
]

CALL_ITEM = {"type": "function_call", "id": "1", "call_id": "1", "name": "look"}
ANSWER_ITEM = {"type": "function_call_output", "call_id": "1"}
THOUGHT_ITEM = {"type": "reasoning", "id": "rs_1", "summary": []}
# What /responses might be given as input.
ITEMS: list[Body] = [
    asked({"type": "input_image", "image_url": URL, "detail": "auto"}),
    asked({"type": "input_image", "file_id": FILE, "detail": "auto"}),
    asked({"type": "input_image", "image_url": PIXEL, "file_id": FILE}),
    asked({"type": "input_image", "image_url": "data:text/html;base64,AAAA"}),
    asked({"type": "input_file", "file_url": URL}),
    asked({"type": "input_file", "file_id": FILE}),
    asked({"type": "input_file", "filename": "x.pdf", "file_data": PDF}),
    asked({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}),
    asked(input_text("x", cache_control={"type": "url", "url": URL})),
    asked(input_text("x", file_url=URL)),
    asked({"type": "output_text", "text": "x", "annotations": [{"file_id": FILE}]}),
    asked(input_text("x")) | {"role": "system"},
    asked(input_text("x")) | {"id": "msg_attacker"},
    {"type": "item_reference", "id": "rs_attacker"},
    {"type": "compaction", "encrypted_content": "attacker"},
    {"type": "web_search_call", "id": "1", "action": {"type": "open_page", "url": URL}},
    {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_attacker"},
    {"type": "computer_call_output", "call_id": "1", "output": {"image_url": URL}},
    {"type": "mcp_approval_response", "approval_request_id": "1", "approve": True},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "attacker", "name": "x"},
    {"type": "local_shell_call", "id": "1", "action": {"type": "exec", "command": []}},
    {"type": "custom_tool_call", "call_id": "1", "name": "x", "input": "y"},
    ANSWER_ITEM | {"output": [{"type": "input_file", "file_url": URL}]},
    ANSWER_ITEM | {"output": [{"type": "input_image", "image_url": URL}]},
    ANSWER_ITEM | {"output": {"url": URL}},
    CALL_ITEM | {"arguments": "{}", "namespace": "mcp"},
    CALL_ITEM | {"arguments": "{"},
    THOUGHT_ITEM | {"summary": [{"type": "input_image", "image_url": URL}]},
    THOUGHT_ITEM | {"content": [{"type": "input_file", "file_url": URL}]},
]

Calls = dict[str, tuple[str, Body]]
CHAT, RESPONSES = "/chat/completions", "/responses"


def refused() -> Calls:
    """Return the path and the body of every call to be refused, by a name for it."""
    found: Calls = {}
    for tool in PROVIDER_TOOLS:
        name = tool.get("type") or "+".join(tool)
        found[f"chat tool {name}"] = CHAT, chat(tools=[tool])
        found[f"responses tool {name}"] = RESPONSES, items(tools=[tool])
        if tool.keys() - function().keys() - {"type", "function"}:
            mixed = tool | chat_tool()
            found[f"chat function and {name}"] = CHAT, chat(tools=[mixed])
            mixed = tool | responses_tool()
            found[f"responses function and {name}"] = RESPONSES, items(tools=[mixed])
    for name, schema in SCHEMAS.items():
        tool = chat_tool(parameters=schema)
        found[f"chat schema with {name}"] = CHAT, chat(tools=[tool])
        tool = responses_tool(parameters=schema)
        found[f"responses schema with {name}"] = RESPONSES, items(tools=[tool])
    for name, value in FIELDS.items():
        found[f"chat field {name}"] = CHAT, chat(**{name: value})
        found[f"responses field {name}"] = RESPONSES, items(**{name: value})
    for number, part in enumerate(PARTS):
        found[f"part {number} {part['type']}"] = CHAT, chat(user(part))
        found[f"tool's part {number}"] = CHAT, after_a_tool({}, [part])
    for number, message in enumerate(ANSWERS):
        name = f"answer {number} {next(iter(message))}"
        found[name] = CHAT, after_a_tool(message)
    for number, item in enumerate(ITEMS):
        found[f"item {number} {item['type']}"] = RESPONSES, items(item)
    return found


# With a line break in a string, as some models write it.
ARGUMENTS = f'{{"url": "{URL}", "type": "web_search", "text": "two\nlines"}}'
THOUGHTS = {
    "reasoning_content": "hm",
    "thinking_blocks": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    ],
}
WHOLE_THOUGHT_ITEM = THOUGHT_ITEM | {
    "summary": [{"type": "summary_text", "text": "hm"}],
    "content": [{"type": "reasoning_text", "text": "hm"}],
    "encrypted_content": "x",
    "status": "completed",
}


def called(name: str, **fields: Any) -> Body:
    """Return a chat in which a tool of this name was called."""
    call = tool_call(name, ARGUMENTS, **fields)
    return after_a_tool({"content": [TEXT], "tool_calls": [call]})


def harmless() -> Calls:
    """Return what an agent may need, though it looks otherwise, by a name for it."""
    own_image = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
    call = CALL_ITEM | {"name": "web_search", "arguments": ARGUMENTS}
    answer = ANSWER_ITEM | {"output": [own_image]}
    system = {"role": "system", "content": [TEXT | {"text": "web_search: on"}]}
    chats: Body = {
        "no tools": chat(tools=[]),
        "a URL in a text": chat(user(TEXT | {"text": URL})),
        "a long text to cache": chat(user(TEXT | {"text": LONG} | CACHED)),
        "an image to cache": chat(user(image(PIXEL) | CACHED)),
        "an answer to cache": after_a_tool({}, [TEXT, image(PIXEL)], **CACHED),
        "an answer with an image": after_a_tool({}, [TEXT, image(PIXEL)]),
        "a system prompt": chat(system, HELLO),
        "thoughts": after_a_tool({"content": [TEXT]} | THOUGHTS),
        "a provider's tool's name": called("web_search"),
        "a provider's id": called("web_fetch", id="srvtoolu_1"),
        "an id of MCP's": called("look", id="mcptoolu_1"),
        "an id with a signature": called("googleSearch", id="1__thought__x"),
        "limits": chat(max_completion_tokens=1000, temperature=0.5),
        "effort": chat(reasoning_effort="attacker", tool_choice="auto"),
        "a key": chat(prompt_cache_key="attacker", prompt_cache_retention="attacker"),
    }
    responses: Body = {
        "a URL in a text": items(asked(input_text(URL))),
        "a URL in the prompt": items(instructions=URL),
        "an image": items(asked(own_image)),
        "a step": items(WHOLE_THOUGHT_ITEM, call, answer),
        "a strict tool": items(tools=[responses_tool(strict=False)]),
        "limits": items(max_output_tokens=1000, store=False, tool_choice="auto"),
        "effort": items(reasoning={"effort": "attacker"}),
        "a thought": items(include=["reasoning.encrypted_content"]),
        "a key": items(prompt_cache_key="attacker", prompt_cache_retention="attacker"),
    }
    for name in FUNCTION_NAMES:
        chats[f"function named {name}"] = chat(tools=[chat_tool(name=name)])
        tool = responses_tool(name=name)
        responses[f"function named {name}"] = items(tools=[tool])
    found: Calls = {f"chat {name}": (CHAT, body) for name, body in chats.items()}
    for name, body in responses.items():
        found[f"responses {name}"] = RESPONSES, body
    return found
