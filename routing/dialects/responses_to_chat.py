"""A request of OpenAI's Responses API as a chat. Pure; the rules are in docs/reference/dialects.md.

Only what can be answered without state is carried: the gateway keeps no conversation.
"""

from typing import Any

from routing.dialects.fields import (
    Carried,
    Fields,
    as_list,
    as_object,
    as_text,
    cannot_carry,
    objects,
)

HIDDEN = "hidden:"  # begins what stands for thinking that nobody but its provider can read
_SAME = (
    *("stream", "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier"),
    *("prompt_cache_key", "service_tier", "top_logprobs"),
)
_KNOWN = frozenset(
    {
        *_SAME,
        *("model", "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning"),
        *("store", "stream_options", "background", "truncation", "include", "previous_response_id"),
        *("conversation", "prompt"),
    }
)


def responses_to_chat(given: Fields, *, keeps_thinking: bool) -> Carried:
    """`given`: decoded fields of a Responses request. `keeps_thinking`: whether the target takes `thinking_blocks`.
    Raises GatewayError: what is wrong, or would be another request if it were left out."""
    carried = Carried()
    to = carried.fields
    to["messages"] = _messages(given, carried, keeps_thinking=keeps_thinking)
    if "max_output_tokens" in given:
        to["max_completion_tokens"] = given["max_output_tokens"]
    for name in _SAME:
        if name in given:
            to[name] = given[name]
    if "top_logprobs" in to:
        carried.drop("top_logprobs")
        del to["top_logprobs"]
    _carry_tools(given, carried)
    _carry_text(given, carried)
    reasoning = as_object(given.get("reasoning", {}), "reasoning")
    if reasoning.get("effort") is not None:
        to["reasoning_effort"] = reasoning["effort"]
    if given.get("truncation", "disabled") != "disabled":
        carried.drop("truncation")
    if any(each != "reasoning.encrypted_content" for each in as_list(given.get("include", []), "include")):
        carried.drop("include")
    carried.drop_rest(given, _KNOWN)
    return carried


def _messages(given: Fields, carried: Carried, *, keeps_thinking: bool) -> list[Fields]:
    messages: list[Fields] = []
    if given.get("instructions"):
        messages.append({"role": "system", "content": as_text(given["instructions"], "instructions")})
    if isinstance(given["input"], str):
        return [*messages, {"role": "user", "content": given["input"]}]
    for place, item in objects(given["input"], "input"):
        match item.get("type", "message"):
            case "message":
                _add_message(messages, item, place)
            case "function_call":
                _turn(messages).setdefault("tool_calls", []).append(_call(item, place))
            case "function_call_output":
                messages += _output(item, place)
            case "reasoning" if keeps_thinking:
                _add_thinking(messages, item, place, carried)
            case "reasoning":
                carried.drop("input.reasoning")
            case kind:
                raise cannot_carry(place, f"An item of the type {kind!r}")
    return messages


def _turn(messages: list[Fields]) -> Fields:
    """The model's turn that is going on."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _add_message(messages: list[Fields], item: Fields, place: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role == "assistant":
        turn = _turn(messages)
        if turn["content"] is not None or "tool_calls" in turn:
            messages.append(turn := {"role": "assistant", "content": None})
        turn["content"] = content if isinstance(content, str) else _said(content, f"{place}.content")
    elif role in ("user", "system", "developer"):
        text = content if isinstance(content, str) else _parts(content, f"{place}.content")
        messages.append({"role": role, "content": text})
    else:
        raise cannot_carry(f"{place}.role", f"A message of the role {role!r}")


def _said(content: Any, place: str) -> str:
    """What the model said before."""
    texts = []
    for at, part in objects(content, place):
        match part.get("type"):
            case "output_text" | "input_text":
                texts.append(as_text(part.get("text"), f"{at}.text"))
            case "refusal":
                texts.append(as_text(part.get("refusal"), f"{at}.refusal"))
            case kind:
                raise cannot_carry(at, f"Content of the type {kind!r}")
    return "".join(texts)


def _parts(content: Any, place: str) -> Any:
    """The user's content; a text where it is nothing else."""
    parts = [_part(part, at) for at, part in objects(content, place)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: Fields, place: str) -> Fields:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": as_text(part.get("text"), f"{place}.text")}
        case "input_image" if part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": as_text(part["image_url"], place), **detail}}
        case "input_file" if part.get("file_data"):
            name = part.get("filename") or "document.pdf"
            return {
                "type": "file",
                "file": {"filename": name, "file_data": as_text(part["file_data"], place)},
            }
        case kind:
            raise cannot_carry(place, f"Content of the type {kind!r} that is not within the request")


def _call(item: Fields, place: str) -> Fields:
    function = {
        "name": as_text(item.get("name"), f"{place}.name"),
        "arguments": as_text(item.get("arguments"), f"{place}.arguments"),
    }
    return {"id": as_text(item.get("call_id"), f"{place}.call_id"), "type": "function", "function": function}


def _output(item: Fields, place: str) -> list[Fields]:
    """A tool's result; what it shows besides text follows as the user's."""
    called, output = as_text(item.get("call_id"), f"{place}.call_id"), item.get("output")
    parts = output if isinstance(output, str) else _parts(output, f"{place}.output")
    if isinstance(parts, str):
        return [{"role": "tool", "tool_call_id": called, "content": parts}]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    shown = [part for part in parts if part["type"] != "text"]
    return [
        {"role": "tool", "tool_call_id": called, "content": text},
        {"role": "user", "content": shown},
    ]


def _add_thinking(messages: list[Fields], item: Fields, place: str, carried: Carried) -> None:
    sealed = item.get("encrypted_content")
    if not isinstance(sealed, str):
        carried.drop("input.reasoning")
        return
    texts = [
        as_text(each.get("text"), at) for at, each in objects(item.get("summary", []), f"{place}.summary")
    ]
    block: Fields = {"type": "thinking", "thinking": "".join(texts), "signature": sealed}
    if sealed.startswith(HIDDEN):
        block = {"type": "redacted_thinking", "data": sealed.removeprefix(HIDDEN)}
    turn = _turn(messages)
    if turn["content"] is not None or "tool_calls" in turn:
        messages.append(turn := {"role": "assistant", "content": None})
    turn.setdefault("thinking_blocks", []).append(block)


def _carry_tools(given: Fields, carried: Carried) -> None:
    tools = []
    for place, tool in objects(given.get("tools", []), "tools"):
        if tool.get("type") != "function":
            raise cannot_carry(place, f"A tool of the type {tool.get('type')!r}")
        function = {
            name: tool[name]
            for name in ("name", "description", "parameters", "strict")
            if tool.get(name) is not None
        }
        tools.append({"type": "function", "function": function})
    if not tools:
        return
    carried.fields["tools"] = tools
    match given.get("tool_choice"):
        case None:
            pass
        case "auto" | "none" | "required" as choice:
            carried.fields["tool_choice"] = choice
        case {"type": "function", "name": name}:
            carried.fields["tool_choice"] = {"type": "function", "function": {"name": name}}
        case _:
            raise cannot_carry("tool_choice", "This choice of tools")


def _carry_text(given: Fields, carried: Carried) -> None:
    text = as_object(given.get("text", {}), "text")
    if text.get("verbosity") is not None:
        carried.fields["verbosity"] = text["verbosity"]
    shape = as_object(text.get("format") or {}, "text.format")
    match shape.get("type", "text"):
        case "text":
            return
        case "json_object":
            carried.fields["response_format"] = {"type": "json_object"}
        case "json_schema":
            named = {name: value for name, value in shape.items() if name != "type"}
            carried.fields["response_format"] = {"type": "json_schema", "json_schema": named}
        case kind:
            raise cannot_carry("text.format", f"A format of the type {kind!r}")
