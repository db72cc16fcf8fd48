"""A request of Anthropic's Messages API as a chat. Pure; the rules are in docs/reference/dialects.md."""

from typing import Any

from routing.dialects.fields import (
    Carried,
    Fields,
    as_object,
    as_text,
    cannot_carry,
    dump,
    objects,
)

_KNOWN = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p"),
        *("tools", "tool_choice", "metadata", "output_config", "thinking", "cache_control"),
    }
)
_WOULD_CHANGE = ("mcp_servers", "container", "inference_geo")


def messages_to_chat(given: Fields) -> Carried:
    """`given`: decoded fields of a Messages request. Raises GatewayError: what is wrong, or would be another request
    if it were left out."""
    carried = Carried()
    to = carried.fields
    for name in _WOULD_CHANGE:
        if name in given:
            raise cannot_carry(name, f"{name!r}")
    to["messages"] = _messages(given, carried)
    to["max_completion_tokens"] = given["max_tokens"]
    for name in ("stream", "temperature", "top_p"):
        if name in given:
            to[name] = given[name]
    if given.get("stop_sequences"):
        to["stop"] = given["stop_sequences"]
    _carry_tools(given, carried)
    _carry_output(given, carried)
    if as_object(given.get("thinking", {}), "thinking").get("type", "disabled") != "disabled":
        carried.drop("thinking")
    if user := as_object(given.get("metadata", {}), "metadata").get("user_id"):
        to["user"] = user
    if "cache_control" in given:
        carried.drop("cache_control")
    carried.drop_rest(given, _KNOWN)
    return carried


def _messages(given: Fields, carried: Carried) -> list[Fields]:
    messages: list[Fields] = []
    if system := _join(given.get("system", ""), "system", carried):
        messages.append({"role": "system", "content": system})
    for place, message in objects(given["messages"], "messages"):
        content = message.get("content")
        blocks = [("", {"type": "text", "text": content})] if isinstance(content, str) else None
        blocks = objects(content, f"{place}.content") if blocks is None else blocks
        match message.get("role"):
            case "user":
                messages += _of_user(blocks, carried)
            case "assistant":
                messages.append(_of_assistant(blocks, carried))
            case "system":
                messages.append({"role": "system", "content": _join(content, f"{place}.content", carried)})
            case role:
                raise cannot_carry(f"{place}.role", f"A message of the role {role!r}")
    return messages


def _join(content: Any, place: str, carried: Carried) -> str:
    """The text of a system prompt or of a tool's result."""
    if isinstance(content, str):
        return content
    texts = []
    for at, block in objects(content, place):
        _note_cache(block, carried)
        if block.get("type") != "text":
            raise cannot_carry(at, f"Content of the type {block.get('type')!r}")
        texts.append(as_text(block.get("text"), f"{at}.text"))
    return "\n".join(texts)


def _note_cache(block: Fields, carried: Carried) -> None:
    if "cache_control" in block:
        carried.drop("cache_control")


def _of_user(blocks: list[tuple[str, Fields]], carried: Carried) -> list[Fields]:
    """The results of tools first, as messages of their own; what they show besides text follows as the user's."""
    results: list[Fields] = []
    shown: list[Fields] = []
    parts: list[Fields] = []
    for place, block in blocks:
        _note_cache(block, carried)
        if block.get("type") == "tool_result":
            message, media = _tool_result(block, place, carried)
            results.append(message)
            shown += media
        else:
            parts.append(_part(block, place, carried))
    parts = shown + parts
    if all(part["type"] == "text" for part in parts):
        return (
            [*results, {"role": "user", "content": "\n".join(part["text"] for part in parts)}]
            if parts
            else results
        )
    return [*results, {"role": "user", "content": parts}]


def _part(block: Fields, place: str, carried: Carried) -> Fields:
    match block.get("type"):
        case "text":
            if block.get("citations"):
                carried.drop("citations")
            return {"type": "text", "text": as_text(block.get("text"), f"{place}.text")}
        case "image":
            return {"type": "image_url", "image_url": {"url": _url(block, place)}}
        case "document":
            return _document(block, place, carried)
        case "search_result":
            return {"type": "text", "text": _join(block.get("content", []), f"{place}.content", carried)}
        case kind:
            raise cannot_carry(place, f"Content of the type {kind!r}")


def _url(block: Fields, place: str) -> str:
    source = as_object(block.get("source"), f"{place}.source")
    match source.get("type"):
        case "base64":
            media_type = as_text(source.get("media_type"), f"{place}.source.media_type")
            return f"data:{media_type};base64,{as_text(source.get('data'), f'{place}.source.data')}"
        case "url":
            return as_text(source.get("url"), f"{place}.source.url")
        case kind:
            raise cannot_carry(f"{place}.source", f"A source of the type {kind!r}")


def _document(block: Fields, place: str, carried: Carried) -> Fields:
    if as_object(block.get("citations") or {}, f"{place}.citations").get("enabled"):
        carried.drop("citations")
    source = as_object(block.get("source"), f"{place}.source")
    match source.get("type"):
        case "text":
            return {"type": "text", "text": as_text(source.get("data"), f"{place}.source.data")}
        case "content":
            return {"type": "text", "text": _join(source.get("content"), f"{place}.source.content", carried)}
        case "base64":
            name = block.get("title") or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": _url(block, place)}}
        case kind:
            raise cannot_carry(f"{place}.source", f"A document whose source is of the type {kind!r}")


def _tool_result(block: Fields, place: str, carried: Carried) -> tuple[Fields, list[Fields]]:
    """The message, and what the result holds besides text."""
    content = block.get("content") or ""
    texts, media = [content] if isinstance(content, str) else [], []
    for at, inner in [] if isinstance(content, str) else objects(content, f"{place}.content"):
        _note_cache(inner, carried)
        part = _part(inner, at, carried)
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            media.append(part)
    if block.get("is_error"):
        carried.drop("tool_result.is_error")
    called = as_text(block.get("tool_use_id"), f"{place}.tool_use_id")
    return {"role": "tool", "tool_call_id": called, "content": "\n".join(texts)}, media


def _of_assistant(blocks: list[tuple[str, Fields]], carried: Carried) -> Fields:
    texts, calls = [], []
    for place, block in blocks:
        _note_cache(block, carried)
        match block.get("type"):
            case "text":
                texts.append(as_text(block.get("text"), f"{place}.text"))
            case "tool_use":
                function = {
                    "name": as_text(block.get("name"), f"{place}.name"),
                    "arguments": dump(as_object(block.get("input", {}), f"{place}.input")),
                }
                called = as_text(block.get("id"), f"{place}.id")
                calls.append({"id": called, "type": "function", "function": function})
            case "thinking" | "redacted_thinking":
                carried.drop("messages.thinking")
            case kind:
                raise cannot_carry(place, f"An earlier answer with content of the type {kind!r}")
    message: Fields = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        message["tool_calls"] = calls
    return message


def _carry_tools(given: Fields, carried: Carried) -> None:
    tools = []
    for place, tool in objects(given.get("tools", []), "tools"):
        _note_cache(tool, carried)
        if tool.get("type", "custom") != "custom":
            raise cannot_carry(place, f"A tool of the type {tool['type']!r}")
        function = {
            "name": as_text(tool.get("name"), f"{place}.name"),
            "parameters": as_object(tool.get("input_schema"), f"{place}.input_schema"),
        }
        for name in ("description", "strict"):
            if tool.get(name) is not None:
                function[name] = tool[name]
        tools.append({"type": "function", "function": function})
    if not tools:
        return
    carried.fields["tools"] = tools
    choice = as_object(given.get("tool_choice", {}), "tool_choice")
    match choice.get("type"):
        case None:
            pass
        case "auto" | "none" as kind:
            carried.fields["tool_choice"] = kind
        case "any":
            carried.fields["tool_choice"] = "required"
        case "tool":
            function = {"name": as_text(choice.get("name"), "tool_choice.name")}
            carried.fields["tool_choice"] = {"type": "function", "function": function}
        case _:
            raise cannot_carry("tool_choice", "This choice of tools")
    if choice.get("disable_parallel_tool_use"):
        carried.fields["parallel_tool_calls"] = False


def _carry_output(given: Fields, carried: Carried) -> None:
    config = as_object(given.get("output_config", {}), "output_config")
    for name in config.keys() - {"format"}:
        carried.drop(f"output_config.{name}")
    if not (shape := as_object(config.get("format") or {}, "output_config.format")):
        return
    if shape.get("type") != "json_schema":
        raise cannot_carry("output_config.format", f"A format of the type {shape.get('type')!r}")
    schema = as_object(shape.get("schema"), "output_config.format.schema")
    carried.fields["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
