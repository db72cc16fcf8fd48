"""A chat request as Anthropic's Messages API takes it. Pure; the rules are in docs/reference/dialects.md."""

from typing import Any

import msgspec

from routing.dialects.fields import (
    Carried,
    Fields,
    as_list,
    as_object,
    as_text,
    cannot_carry,
    objects,
    split_data_url,
)
from teams.errors import field_invalid

_KNOWN = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "stop"),
        *("temperature", "top_p", "top_k", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
        *("reasoning_effort", "thinking", "user", "safety_identifier", "n", "modalities", "functions"),
        *("function_call", "audio"),
    }
)
_THINKING = frozenset({"thinking", "redacted_thinking"})
_LEAST_THINKING, _THINKING_TOKENS = (
    1_024,
    {"minimal": 1_024, "low": 1_024, "medium": 4_096, "high": 16_384, "xhigh": 32_768},
)


def chat_to_messages(given: Fields, *, most_tokens: int) -> Carried:
    """`given`: decoded fields of a chat request. `most_tokens`: the answer's bound where the caller sets none, which
    this form needs. Raises GatewayError: what is wrong, or would be another request if it were left out."""
    carried = Carried()
    to = carried.fields
    _refuse_other_meanings(given)
    asked = [given[name] for name in ("max_tokens", "max_completion_tokens") if name in given]
    to["max_tokens"] = max(asked, default=most_tokens)
    to["messages"], system = _messages(given["messages"], carried)
    if system:
        to["system"] = system
    for name in ("stream", "top_p", "top_k"):
        if name in given:
            to[name] = given[name]
    _carry_temperature(given, carried)
    _carry_stop(given, carried)
    _carry_tools(given, carried)
    _carry_format(given, carried)
    _carry_thinking(given, carried)
    if user := given.get("safety_identifier") or given.get("user"):
        to["metadata"] = {"user_id": user}
    carried.drop_rest(given, _KNOWN)
    return carried


def without_sampling(carried: Carried) -> Carried:
    """As the newer version takes it, which refuses these even at their usual values."""
    sampling = [name for name in ("temperature", "top_p", "top_k") if name in carried.fields]
    newer = Carried(
        {name: value for name, value in carried.fields.items() if name not in sampling}, list(carried.dropped)
    )
    for name in sampling:
        newer.drop(name)
    return newer


def _refuse_other_meanings(given: Fields) -> None:
    if given.get("n", 1) != 1:
        raise cannot_carry("n", "More than one answer")
    if given.get("modalities", ["text"]) != ["text"] or "audio" in given:
        raise cannot_carry("modalities", "An answer in sound")
    for name in ("functions", "function_call"):
        if name in given:
            raise cannot_carry(name, f"The older {name!r}")


def _messages(value: Any, carried: Carried) -> tuple[list[Fields], Any]:
    """The conversation, turns of one side joined, and the system's text. A tool's results are the user's."""
    turns: list[Fields] = []
    system: list[Fields] = []
    for place, message in objects(value, "messages"):
        role = message.get("role")
        if "name" in message and role != "function":
            carried.drop("messages.name")
        match role:
            case "system" | "developer":
                system += _texts(message.get("content"), f"{place}.content")
            case "user":
                _add(turns, "user", _user_blocks(message.get("content"), f"{place}.content"))
            case "assistant":
                _add(turns, "assistant", _assistant_blocks(message, place, carried))
            case "tool":
                _add(turns, "user", [_tool_result(message, place)])
            case _:
                raise cannot_carry(f"{place}.role", f"A message of the role {role!r}")
    if any("cache_control" in block for block in system):
        return turns, system
    return turns, "\n".join(block["text"] for block in system)


def _add(turns: list[Fields], role: str, blocks: list[Fields]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _texts(content: Any, place: str) -> list[Fields]:
    """Text blocks, without those that are empty: this form refuses them."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = []
    for at, part in objects(content, place):
        if part.get("type") != "text":
            raise field_invalid(f"{at}.type", f"{at!r} must be of the type 'text'.")
        if text := as_text(part.get("text"), f"{at}.text"):
            blocks.append(_cached(part, {"type": "text", "text": text}))
    return blocks


def _cached(part: Fields, block: Fields) -> Fields:
    """`block`, with the mark by which callers say what to cache."""
    return {**block, "cache_control": part["cache_control"]} if "cache_control" in part else block


def _user_blocks(content: Any, place: str) -> list[Fields]:
    if not isinstance(content, list):
        return _texts(content, place)
    blocks = []
    for at, part in objects(content, place):
        match part.get("type"):
            case "text":
                blocks += _texts([part], place)
            case "image_url":
                blocks.append(_cached(part, _image(part, at)))
            case "file":
                blocks.append(_cached(part, _document(part, at)))
            case kind:
                raise cannot_carry(at, f"Content of the type {kind!r}")
    return blocks


def _image(part: Fields, place: str) -> Fields:
    url = as_text(as_object(part.get("image_url"), f"{place}.image_url").get("url"), f"{place}.image_url.url")
    if (data := split_data_url(url)) is not None:
        source = {"type": "base64", "media_type": data[0], "data": data[1]}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


def _document(part: Fields, place: str) -> Fields:
    file = as_object(part.get("file"), f"{place}.file")
    data = split_data_url(as_text(file.get("file_data", ""), f"{place}.file.file_data"))
    if data is None or data[0] != "application/pdf":
        raise cannot_carry(f"{place}.file", "A file that is not a PDF within the message")
    document: Fields = {
        "type": "document",
        "source": {"type": "base64", "media_type": data[0], "data": data[1]},
    }
    return {**document, "title": file["filename"]} if file.get("filename") else document


def _assistant_blocks(message: Fields, place: str, carried: Carried) -> list[Fields]:
    blocks = _thinking_blocks(message, f"{place}.thinking_blocks")
    if not blocks and message.get("reasoning_content"):
        carried.drop("messages.reasoning_content")  # without its signature nobody would believe it
    if message.get("audio"):
        raise cannot_carry(f"{place}.audio", "An earlier answer in sound")
    content = message.get("content")
    if isinstance(content, list):
        content = [
            {"type": "text", "text": part["refusal"]} if part.get("type") == "refusal" else part
            for _, part in objects(content, f"{place}.content")
        ]
    blocks += _texts(content, f"{place}.content")
    if refusal := message.get("refusal"):
        blocks += _texts(refusal, f"{place}.refusal")
    if "function_call" in message:
        raise cannot_carry(f"{place}.function_call", "The older 'function_call'")
    for at, call in objects(message.get("tool_calls") or [], f"{place}.tool_calls"):
        function = as_object(call.get("function"), f"{at}.function")
        block = {
            "type": "tool_use",
            "id": as_text(call.get("id"), f"{at}.id"),
            "name": as_text(function.get("name"), f"{at}.function.name"),
            "input": _arguments(function.get("arguments"), f"{at}.function.arguments"),
        }
        blocks.append(_cached(call, block))
    return blocks


def _thinking_blocks(message: Fields, place: str) -> list[Fields]:
    """Of an earlier answer, as they were told (writers.ChatWriter)."""
    blocks = []
    for at, block in objects(message.get("thinking_blocks") or [], place):
        if block.get("type") not in _THINKING:
            raise field_invalid(
                f"{at}.type", f"{at!r} must be of the type 'thinking' or 'redacted_thinking'."
            )
        blocks.append(dict(block))
    return blocks


def _arguments(value: Any, place: str) -> Fields:
    if not (text := as_text(value, place).strip()):
        return {}
    try:
        return as_object(msgspec.json.decode(text), place)
    except (msgspec.DecodeError, RecursionError):
        raise field_invalid(place, f"{place!r} must be the JSON of an object.") from None


def _tool_result(message: Fields, place: str) -> Fields:
    block: Fields = {
        "type": "tool_result",
        "tool_use_id": as_text(message.get("tool_call_id"), f"{place}.tool_call_id"),
    }
    content = message.get("content")
    block["content"] = content if isinstance(content, str) else _texts(content, f"{place}.content")
    return _cached(message, block)


def _carry_temperature(given: Fields, carried: Carried) -> None:
    if (temperature := given.get("temperature")) is None:
        return
    if isinstance(temperature, int | float) and temperature > 1:
        carried.drop("temperature")  # the scale ends at 1 here
        temperature = 1
    carried.fields["temperature"] = temperature


def _carry_stop(given: Fields, carried: Carried) -> None:
    if (stop := given.get("stop")) is None:
        return
    sequences = [stop] if isinstance(stop, str) else as_list(stop, "stop")
    if kept := [each for each in sequences if not isinstance(each, str) or each.strip()]:
        carried.fields["stop_sequences"] = kept
    if len(kept) < len(sequences):
        carried.drop("stop")


def _carry_tools(given: Fields, carried: Carried) -> None:
    tools = []
    for place, tool in objects(given.get("tools", []), "tools"):
        if tool.get("type") != "function":
            raise cannot_carry(place, f"A tool of the type {tool.get('type')!r}")
        function = as_object(tool.get("function"), f"{place}.function")
        carried_tool: Fields = {
            "name": as_text(function.get("name"), f"{place}.function.name"),
            "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
        }
        if function.get("description"):
            carried_tool["description"] = function["description"]
        if function.get("strict"):
            carried.drop("tools.strict")
        tools.append(_cached(tool, carried_tool))
    if not tools:
        return
    carried.fields["tools"] = tools
    choice = _tool_choice(given.get("tool_choice"))
    if given.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    if choice:
        carried.fields["tool_choice"] = choice


def _tool_choice(choice: Any) -> Fields:
    match choice:
        case None:
            return {}
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": name}}:
            return {"type": "tool", "name": name}
    raise cannot_carry("tool_choice", "This choice of tools")


def _carry_format(given: Fields, carried: Carried) -> None:
    shape = as_object(given.get("response_format", {}), "response_format")
    match shape.get("type", "text"):
        case "text":
            return
        case "json_schema":
            schema = as_object(shape.get("json_schema"), "response_format.json_schema").get("schema")
            carried.fields["output_config"] = {
                "format": {
                    "type": "json_schema",
                    "schema": as_object(schema, "response_format.json_schema.schema"),
                }
            }
        case kind:
            raise cannot_carry("response_format", f"A response format of the type {kind!r}")


def _carry_thinking(given: Fields, carried: Carried) -> None:
    """`thinking` as it is; an effort as the tokens that it may take, where the form allows thinking at all."""
    to, effort = carried.fields, given.get("reasoning_effort")
    if "thinking" in given:
        to["thinking"] = given["thinking"]
    elif effort == "none":
        to["thinking"] = {"type": "disabled"}
    elif effort is not None:
        budget = min(_THINKING_TOKENS.get(effort, 0) if isinstance(effort, str) else 0, to["max_tokens"] - 1)
        if budget < _LEAST_THINKING or _forbids_thinking(to):
            carried.drop("reasoning_effort")
        else:
            to["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if as_object(to.get("thinking", {}), "thinking").get("type") in ("enabled", "adaptive"):
        for name in ("temperature", "top_k"):
            if to.pop(name, None) is not None:
                carried.drop(name)


def _forbids_thinking(to: Fields) -> bool:
    """A tool that must be called, or an earlier call that was made without thinking."""
    if to.get("tool_choice", {}).get("type") in ("any", "tool"):
        return True
    answers = [turn["content"] for turn in to["messages"] if turn["role"] == "assistant"]
    last = answers[-1] if answers else []
    return any(block["type"] == "tool_use" for block in last) and last[0]["type"] not in _THINKING
