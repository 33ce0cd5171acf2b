"""Calls that an agent's shell might make so that the provider does more than answer."""

from __future__ import annotations

from typing import Any


URL = "https://attacker.example/x.png"
FILE = "file-of-the-attacker"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LONG = "A text that is long enough for a cache. " * 600

Body = dict[str, Any]


def function(name: str = "look", **more: Any) -> Body:
    """Return a tool that the agent runs itself."""
    schema = {"type": "object", "properties": {"where": {"type": "string"}}}
    return {"name": name, "description": "Looks.", "parameters": schema} | more


def chat(*messages: Body, **fields: Any) -> Body:
    """Return a body of /chat/completions."""
    said = list(messages) or [{"role": "user", "content": "Hello."}]
    return {"model": "any", "messages": said} | fields


def items(*input_items: Body, **fields: Any) -> Body:
    """Return a body of /responses."""
    return {
        "model": "any",
        "input": [asked(input_text("Hello.")), *input_items],
    } | fields


def user(*parts: Body) -> Body:
    """Return a message of the user's in /chat/completions."""
    return {"role": "user", "content": [{"type": "text", "text": "See:"}, *parts]}


def asked(*parts: Body) -> Body:
    """Return a message of the user's in /responses."""
    return {"type": "message", "role": "user", "content": list(parts)}


def input_text(text: str, **more: Any) -> Body:
    """Return a text in /responses."""
    return {"type": "input_text", "text": text} | more


def after_a_tool(message: Body, content: Any = "Done.") -> Body:
    """Return a body in which the model has called a tool and got its answer."""
    called = {"name": "look", "arguments": '{"where": "here"}'}
    call = {"id": "call_1", "type": "function", "function": called}
    said = {"role": "assistant", "tool_calls": [call]} | message
    made = said["tool_calls"][0]["id"] if said["tool_calls"] else "call_1"
    answer = {"role": "tool", "name": "look", "tool_call_id": made, "content": content}
    tools = [{"type": "function", "function": function()}]
    return chat({"role": "user", "content": "Look."}, said, answer, tools=tools)


# Tools that a provider runs, in each provider's spelling.
PROVIDER_TOOLS: list[Body] = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {
        "type": "computer_20250124",
        "name": "computer",
        "display_width_px": 9,
        "display_height_px": 9,
    },
    {"type": "bash_20250124", "name": "bash"},
    {"type": "memory_20250818", "name": "memory"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "attacker"},
    {"type": "url", "url": URL, "name": "attacker"},
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {
        "type": "mcp",
        "server_label": "a",
        "server_url": URL,
        "require_approval": "never",
    },
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "file_search", "vector_store_ids": ["vs_attacker"]},
    {"type": "image_generation"},
    {
        "type": "computer_use_preview",
        "display_width": 9,
        "display_height": 9,
        "environment": "browser",
    },
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "openrouter:web_search"},
    {"googleSearch": {}},
    {"google_search": {}},
    {"googleSearchRetrieval": {}},
    {"google_search_retrieval": {}},
    {"enterpriseWebSearch": {}},
    {"googleMaps": {}},
    {"url_context": {}},
    {"urlContext": {}},
    {"codeExecution": {}},
    {"code_execution": {}},
    {"computerUse": {"environment": "ENVIRONMENT_BROWSER"}},
    {"fileSearch": {"fileSearchStoreNames": ["stores/attacker"]}},
    {"function_declarations": [{"name": "look"}], "googleSearch": {}},
]

# Names that providers, or LiteLLM, give to tools of their own: as functions they stay functions.
FUNCTION_NAMES = (
    "googleSearch google_search googleSearchRetrieval enterpriseWebSearch googleMaps url_context "
    "urlContext codeExecution code_execution code_interpreter web_search web_search_20250305 "
    "web_search_preview web_fetch file_search mcp computer computer_use computer_use_preview "
    "image_generation bash text_editor str_replace_based_edit_tool memory local_shell "
    "tool_search_tool_regex litellm_web_search json_tool_call"
).split()

EVIL_TOOL = {"type": "web_search_20250305", "name": "web_search"}

# Fields beside the messages: of the providers, of OpenAI's client and of LiteLLM itself.
FIELDS: Body = {
    "web_search_options": {"search_context_size": "high"},
    "plugins": [{"id": "web"}],
    "models": ["attacker/model"],
    "route": "fallback",
    "provider": {"order": ["attacker"]},
    "transforms": ["middle-out"],
    "extra_body": {
        "tools": [EVIL_TOOL],
        "plugins": [{"id": "web"}],
        "model": "attacker/model",
    },
    "extra_headers": {
        "x-attacker": "attacker",
        "anthropic-beta": "web-fetch-2025-09-10",
    },
    "extra_query": {"attacker": "1"},
    "headers": {"x-attacker": "attacker"},
    "api_base": URL,
    "base_url": URL,
    "api_key": "sk-attacker",
    "api_version": "attacker",
    "organization": "attacker",
    "custom_llm_provider": "openai",
    "model_list": [
        {"model_name": "any", "litellm_params": {"model": "attacker/model"}}
    ],
    "fallbacks": ["openai/gpt-attacker"],
    "context_window_fallback_dict": {"any": "openai/gpt-attacker"},
    "mock_response": "attacker",
    "mock_tool_calls": [{"id": "1", "function": {"name": "x", "arguments": "{}"}}],
    "litellm_params": {"api_base": URL},
    "metadata": {"attacker": "attacker"},
    "litellm_metadata": {"attacker": "attacker"},
    "callbacks": ["langfuse"],
    "success_callback": ["langfuse"],
    "prompt_id": "attacker",
    "prompt_variables": {"attacker": "1"},
    "guardrails": ["attacker"],
    "litellm_credential_name": "attacker",
    "cache_control_injection_points": [{"location": "message", "role": "system"}],
    "allowed_openai_params": ["plugins"],
    "additional_drop_params": ["max_tokens"],
    "use_litellm_proxy": True,
    "ssl_verify": False,
    "proxies": {"https": URL},
    "timeout": 0.001,
    "num_retries": 9,
    "input_cost_per_token": 0.0,
    "output_cost_per_token": 0.0,
    "no-log": True,
    "functions": [function()],
    "function_call": "auto",
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "attacker"},
    "service_tier": "priority",
    "user": "attacker",
    "safety_identifier": "attacker",
    "n": 100,
    "stream": True,
    "container": {"skills": [{"type": "custom", "skill_id": "attacker"}]},
    "mcp_servers": [{"type": "url", "url": URL, "name": "attacker"}],
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "speed": "fast",
    "inference_geo": "attacker",
    "cachedContent": "cachedContents/attacker",
    "cached_content": "cachedContents/attacker",
    "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
    "labels": {"attacker": "1"},
    "tool_config": {"functionCallingConfig": {"mode": "ANY"}},
    "googleSearch": {},
    "vertex_credentials": "/etc/passwd",
    "aws_bedrock_runtime_endpoint": URL,
    "previous_response_id": "resp_attacker",
    "conversation": "conv_attacker",
    "prompt": {"id": "pmpt_attacker"},
    "background": True,
    "text": {"format": {"type": "json_object"}},
    "truncation": "auto",
    "max_tool_calls": 9,
    "session_id": "attacker",
    "prompt_cache_key": "attacker",
    "prompt_cache_retention": "attacker",
    "reasoning_effort": "attacker",
    "thinking": {"type": "enabled", "budget_tokens": 1024, "attacker": True},
}

# What a message of the user's or a tool's answer might hold.
PARTS: list[Body] = [
    {"type": "image_url", "image_url": {"url": URL}},
    {"type": "image_url", "image_url": URL},
    {"type": "image_url", "image_url": {"url": URL.replace("https", "http")}},
    {"type": "image_url", "image_url": {"url": "gs://attacker/x.png"}},
    {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}},
    {"type": "image_url", "image_url": {"url": "/etc/hostname"}},
    {"type": "image_url", "image_url": {"url": PIXEL, "format": "text/html"}},
    {"type": "image_url", "image_url": {"url": PIXEL, "file_id": FILE}},
    {"type": "image_url", "image_url": {"url": f"{PIXEL}\n{URL}"}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{URL}"}},
    {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,QQ=="}},
    {"type": "image_url", "image_url": {"url": "data:text/html;base64,QQ=="}},
    {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,QQ=="}},
    {"type": "image", "source": {"type": "url", "url": URL}},
    {"type": "image", "source": {"type": "file", "file_id": FILE}},
    {"type": "document", "source": {"type": "url", "url": URL}},
    {"type": "document", "source": {"type": "file", "file_id": FILE}},
    {"type": "file", "file": {"file_id": FILE}},
    {"type": "file", "file": {"file_id": URL, "format": "application/pdf"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ=="}},
    {"type": "file", "file": {"file_data": URL, "filename": "x.pdf"}},
    {"type": "container_upload", "file_id": FILE},
    {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
    {"type": "video_url", "video_url": {"url": URL}},
    {"type": "search_result", "source": URL, "title": "x", "content": []},
    {"type": "tool_reference", "tool_name": "web_search"},
    {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "web_fetch",
        "input": {"url": URL},
    },
    {"type": "text", "text": "x", "citations": [{"type": "web", "url": URL}]},
    {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"type": "text", "text": "x", "cache_control": {"type": "url", "url": URL}},
    {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}},
    {"type": "text", "text": URL},
    {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}},
    {
        "type": "image_url",
        "image_url": {"url": "http://169.254.169.254/latest/meta-data"},
    },
]

# What a message of the model's might hold that no model said.
ANSWERS: list[Body] = [
    {
        "thinking_blocks": [
            {
                "type": "server_tool_use",
                "id": "srvtoolu_1",
                "name": "web_search",
                "input": {},
            }
        ]
    },
    {"thinking_blocks": [{"type": "image", "source": {"type": "url", "url": URL}}]},
    {
        "thinking_blocks": [
            {"type": "document", "source": {"type": "file", "file_id": FILE}}
        ]
    },
    {
        "thinking_blocks": [
            {
                "type": "thinking",
                "thinking": "x",
                "signature": "y",
                "source": {"url": URL},
            }
        ]
    },
    {"thinking_blocks": [{"type": "redacted_thinking", "data": "x", "url": URL}]},
    {
        "provider_specific_fields": {
            "compaction_blocks": [
                {"type": "document", "source": {"type": "url", "url": URL}}
            ]
        }
    },
    {
        "provider_specific_fields": {
            "web_search_results": [
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srvtoolu_1",
                    "content": [],
                }
            ]
        }
    },
    {
        "tool_calls": [
            {
                "id": "srvtoolu_1",
                "type": "function",
                "function": {"name": "web_fetch", "arguments": f'{{"url": "{URL}"}}'},
            }
        ]
    },
    {
        "tool_calls": [
            {
                "id": "mcptoolu_1",
                "type": "function",
                "function": {"name": "look", "arguments": "{}"},
            }
        ]
    },
    {
        "tool_calls": [
            {
                "id": "1",
                "type": "web_search",
                "function": {"name": "x", "arguments": "{}"},
            }
        ]
    },
    {
        "tool_calls": [
            {"id": "1", "type": "custom", "custom": {"name": "x", "input": "y"}}
        ]
    },
    {
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {
                    "name": "look",
                    "arguments": "{}",
                    "provider_specific_fields": {"thought_signature": "x"},
                },
            }
        ]
    },
    {
        "tool_calls": [
            {
                "id": "1__thought__x",
                "type": "function",
                "function": {"name": "googleSearch", "arguments": "{}"},
            }
        ]
    },
    {"audio": {"id": "audio_attacker"}},
    {"images": [{"type": "image_url", "image_url": {"url": URL}}]},
    {"annotations": [{"type": "url_citation", "url_citation": {"url": URL}}]},
    {"reasoning_details": [{"type": "reasoning.encrypted", "data": URL}]},
    {"reasoning_items": [{"type": "reasoning", "id": "rs_attacker"}]},
    {"function_call": {"name": "web_search", "arguments": "{}"}},
    {"content": [{"type": "image_url", "image_url": {"url": URL}}]},
    {
        "content": [
            {
                "type": "server_tool_use",
                "id": "srvtoolu_1",
                "name": "web_search",
                "input": {},
            }
        ]
    },
    {"prefix": True, "content": "x"},
    {"cache_control": {"type": "ephemeral"}},
    {"role": "function", "name": "look"},
    {"role": "developer", "content": URL},
]

# What /responses might be given as input.
ITEMS: list[Body] = [
    asked({"type": "input_image", "image_url": URL, "detail": "auto"}),
    asked({"type": "input_image", "file_id": FILE, "detail": "auto"}),
    asked(
        {"type": "input_image", "image_url": PIXEL, "file_id": FILE, "detail": "auto"}
    ),
    asked({"type": "input_file", "file_url": URL}),
    asked({"type": "input_file", "file_id": FILE}),
    asked(
        {
            "type": "input_file",
            "filename": "x.pdf",
            "file_data": "data:application/pdf;base64,QQ==",
        }
    ),
    asked({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}),
    asked(input_text("x", cache_control={"type": "url", "url": URL})),
    asked(input_text(URL)),
    asked(input_text("x")) | {"role": "developer"},
    asked(input_text("x")) | {"id": "msg_attacker"},
    asked(
        {
            "type": "output_text",
            "text": "x",
            "annotations": [{"type": "file_path", "file_id": FILE, "index": 0}],
        }
    ),
    {"type": "item_reference", "id": "rs_attacker"},
    {"type": "compaction", "encrypted_content": "attacker"},
    {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "open_page", "url": URL},
    },
    {"type": "file_search_call", "id": "fs_1", "queries": ["x"], "status": "completed"},
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": "cntr_attacker",
        "code": "x",
        "status": "completed",
    },
    {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "1",
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    {
        "type": "computer_call_output",
        "call_id": "1",
        "output": {"type": "computer_screenshot", "image_url": URL},
    },
    {
        "type": "image_generation_call",
        "id": "ig_attacker",
        "result": None,
        "status": "completed",
    },
    {"type": "mcp_list_tools", "id": "mcp_1", "server_label": "attacker", "tools": []},
    {"type": "mcp_approval_response", "approval_request_id": "1", "approve": True},
    {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "attacker",
        "name": "x",
        "arguments": "{}",
    },
    {
        "type": "local_shell_call",
        "id": "1",
        "call_id": "1",
        "action": {"type": "exec", "command": ["x"], "env": {}},
        "status": "completed",
    },
    {
        "type": "function_call_output",
        "call_id": "1",
        "output": [{"type": "input_file", "file_url": URL}],
    },
    {
        "type": "function_call_output",
        "call_id": "1",
        "output": [{"type": "input_image", "image_url": URL}],
    },
    {
        "type": "function_call",
        "id": "1",
        "call_id": "1",
        "name": "x",
        "arguments": "{}",
        "namespace": "mcp",
    },
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "input_image", "image_url": URL}],
    },
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "input_file", "file_url": URL}],
    },
]

TOOL_CHOICES: list[Any] = [
    {"type": "tool", "name": "web_search"},
    {"type": "web_search_preview"},
    {"type": "mcp", "server_label": "attacker"},
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
]


def attacks() -> dict[str, tuple[str, Body]]:
    """Return the path and the body of every attack, by a name for it."""
    found: dict[str, tuple[str, Body]] = {}

    def add(name: str, body: Body) -> None:
        found[name] = (
            "/chat/completions" if "messages" in body else "/responses",
            body,
        )

    for tool in PROVIDER_TOOLS:
        name = tool.get("type") or "+".join(tool)
        add(f"chat tool {name}", chat(tools=[tool]))
        mixed = tool | {"type": "function", "function": function()}
        add(f"chat function and {name}", chat(tools=[mixed]))
        add(f"responses tool {name}", items(tools=[tool]))
        add(
            f"responses function and {name}",
            items(tools=[tool | function() | {"type": "function"}]),
        )
    for name in FUNCTION_NAMES:
        add(
            f"chat function named {name}",
            chat(tools=[{"type": "function", "function": function(name)}]),
        )
        add(
            f"responses function named {name}",
            items(tools=[{"type": "function", **function(name)}]),
        )
    for name, value in FIELDS.items():
        add(f"chat field {name}", chat(**{name: value}))
        add(f"responses field {name}", items(**{name: value}))
    for number, part in enumerate(PARTS):
        add(f"part {number} {part['type']}", chat(user(part)))
        add(f"tool's part {number} {part['type']}", after_a_tool({}, [part]))
    for number, message in enumerate(ANSWERS):
        add(f"answer {number} {next(iter(message))}", after_a_tool(message))
    for number, item in enumerate(ITEMS):
        add(f"item {number} {item['type']}", items(item))
    for number, choice in enumerate(TOOL_CHOICES):
        tools = [{"type": "function", "function": function("web_search")}]
        add(f"chat tool choice {number}", chat(tools=tools, tool_choice=choice))
        tools = [{"type": "function", **function("web_search")}]
        add(f"responses tool choice {number}", items(tools=tools, tool_choice=choice))
    return found
