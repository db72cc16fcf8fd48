"""The simulator over real HTTP: OpenAI's shapes, every fault, the served log, and the static fast path."""

import base64
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from routing.simulator.faults import Plan, fault_table
from routing.simulator.static_parser import BadRequestError, Incomplete, parse_request
from routing.simulator.tokens import count_tokens, split_tokens

ROOT = Path(__file__).resolve().parent.parent
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, big world!"}]
CHAT = "/v1/chat/completions"
WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}, "x": {}},
            "required": ["city", "days"],
        },
    },
}
CLOCK: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object"}},
}


MANAGE = """
import sys
from django.conf import settings
from routing.management.commands.simulator import Command
settings.configure()
Command().run_from_argv(["manage.py", "simulator", *sys.argv[1:]])
"""


def launch(*flags: str, program: tuple[str, ...] = ("-m", "routing.simulator")) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, "--port", "0", *flags],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=10)
    return process.returncode, stdout, stderr


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("simulator listening on http://"), line or process.communicate()
    return str(line.split()[-1])


@dataclass
class Driver:
    """One running simulator and the clients that drive it."""

    url: str
    http: httpx.Client
    sdk: openai.OpenAI

    def post(self, faults: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": "sim-small", "messages": USER, "simulator": faults or {}, **fields}
        return self.http.post(CHAT, json=body)

    def frames(self, faults: dict[str, Any] | None = None, **fields: Any) -> list[str]:
        return [line[6:] for line in self.post(faults, stream=True, **fields).text.split("\n") if line]

    def served(self, **query: Any) -> dict[str, Any]:
        report: dict[str, Any] = self.http.get("/simulator/served", params=query).json()
        return report

    def last(self) -> dict[str, Any]:
        call: dict[str, Any] = self.served()["calls"][-1]
        return call

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=5)


QUESTION: dict[str, Any] = {"model": "sim-small", "max_tokens": 1500, "messages": USER}


def claude(simulator: Driver, **faults: Any) -> anthropic.Anthropic:
    """The package, at an address whose path holds the faults."""
    base_url = f"{simulator.url}/with/{quote(json.dumps(faults), safe='')}"
    headers = {"anthropic-version": "2023-06-01"}
    return anthropic.Anthropic(base_url=base_url, api_key="x", max_retries=0, default_headers=headers)


def drive(*flags: str) -> Iterator[Driver]:
    process = launch(*flags)
    try:
        url = address_of(process)
        with (
            httpx.Client(base_url=url, timeout=5) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0, timeout=5) as sdk,
        ):
            yield Driver(url, http, sdk)
    finally:
        status, _, stderr = stop(process)
    assert (status, stderr) == (0, "")


@pytest.fixture(scope="module")
def running() -> Iterator[Driver]:
    yield from drive()


@pytest.fixture(scope="module")
def static() -> Iterator[Driver]:
    yield from drive("--static", "--stream-seconds", "0.042")


@pytest.fixture
def simulator(running: Driver) -> Driver:
    running.http.delete("/simulator/served")
    return running


def raw_post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (
        CHAT.encode(),
        len(body),
        extra,
        body,
    )


def read_answers(connection: socket.socket, count: int) -> list[bytes]:
    """So many whole HTTP answers, bodies only."""
    data = b""
    bodies: list[bytes] = []
    while len(bodies) < count:
        head, found, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if found and length and len(rest) >= int(length[1]):
            bodies.append(rest[: int(length[1])])
            data = rest[int(length[1]) :]
        elif found and not length and b"0\r\n\r\n" in rest:
            body, _, data = rest.partition(b"0\r\n\r\n")
            bodies.append(body)
        else:
            received = connection.recv(65536)
            assert received, "connection closed early"
            data += received
    assert not data
    return bodies


class TestShapes:
    def test_plain_completion_has_openai_shape_and_hand_counted_usage(self, simulator: Driver) -> None:
        answer = simulator.sdk.chat.completions.create(model="sim-small", messages=USER)
        assert answer.id.startswith("chatcmpl-")
        assert answer.object == "chat.completion"
        assert answer.system_fingerprint == "fp_simulator"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 5
        assert answer.usage.completion_tokens == 16
        assert answer.usage.total_tokens == 21
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0

    def test_same_request_gets_same_text_plain_and_streamed(self, simulator: Driver) -> None:
        texts = {simulator.post().json()["choices"][0]["message"]["content"] for _ in range(3)}
        chunks = [json.loads(frame) for frame in simulator.frames()[:-1]]
        streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert texts == {streamed}
        other = simulator.post(messages=[{"role": "user", "content": "Other"}]).json()
        assert other["choices"][0]["message"]["content"] not in texts

    def test_stream_has_role_one_frame_per_token_finish_and_done(self, simulator: Driver) -> None:
        frames = simulator.frames({"text": "One two, three"})
        chunks = [json.loads(frame)["choices"][0] for frame in frames[:-1]]
        assert chunks[0]["delta"]["role"] == "assistant"
        assert [chunk["delta"]["content"] for chunk in chunks[1:-1]] == ["One", " two", ",", " three"]
        assert chunks[-1] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
        assert frames[-1] == "[DONE]"
        assert not any('"usage"' in frame for frame in frames)

    def test_usage_frame_comes_last_and_others_carry_null(self, simulator: Driver) -> None:
        frames = simulator.frames(stream_options={"include_usage": True})
        *others, last = [json.loads(frame) for frame in frames[:-1]]
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == 21
        assert all(chunk["usage"] is None for chunk in others)
        assert simulator.last()["frames_sent"] == len(frames) == 20

    def test_choices_differ_and_their_tokens_add_up(self, simulator: Driver) -> None:
        answer = simulator.post(n=3).json()
        assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
        assert answer["usage"]["completion_tokens"] == 48
        chunks = [json.loads(frame) for frame in simulator.frames(n=3)[:-1]]
        assert [chunk["choices"][0]["index"] for chunk in chunks[:6]] == [0, 1, 2, 0, 1, 2]

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_answer_is_cut_at_the_most_tokens(self, simulator: Driver, field: str) -> None:
        answer = simulator.post(None, **{field: 4}).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 4

    def test_answer_is_cut_before_stop(self, simulator: Driver) -> None:
        answer = simulator.post({"text": "red green blue"}, stop=["blue", " green"]).json()
        assert answer["choices"][0]["message"]["content"] == "red"
        assert answer["choices"][0]["finish_reason"] == "stop"

    def test_logprobs_name_every_token(self, simulator: Driver) -> None:
        answer = simulator.post({"text": "a b"}, logprobs=True).json()
        tokens = [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]]
        assert tokens == ["a", " b"]

    def test_images_and_tool_calls_count_in_the_prompt(self, simulator: Driver) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        parts = [{"type": "text", "text": "two words"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": [call]}]
        assert simulator.post(messages=messages).json()["usage"]["prompt_tokens"] == 2 + 85 + 3

    @pytest.mark.parametrize(
        ("inputs", "tokens"), [("a b c", [3]), (["a", "b c"], [1, 2]), ([1, 2], [2]), ([[1], [2, 3]], [1, 2])]
    )
    def test_embeddings_take_every_input_form(
        self, simulator: Driver, inputs: Any, tokens: list[int]
    ) -> None:
        answer = simulator.sdk.embeddings.create(model="sim-embedding", input=inputs)
        assert [item.index for item in answer.data] == list(range(len(tokens)))
        assert answer.usage.prompt_tokens == sum(tokens)
        assert simulator.last()["prompt_tokens"] == sum(tokens)

    def test_embedding_base64_is_little_endian_float32(self, simulator: Driver) -> None:
        body = {"model": "m", "input": "hello world", "dimensions": 8}
        floats = simulator.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
        packed = simulator.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
        assert list(struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))) == floats

    def test_similar_texts_have_similar_vectors(self, simulator: Driver) -> None:
        texts = ["how do I reset my password", "how do I reset the password", "prices of green tea"]
        first, near, far = [
            item.embedding for item in simulator.sdk.embeddings.create(model="m", input=texts).data
        ]
        assert sum(map(float.__mul__, first, near)) > 0.7 > 0.3 > abs(sum(map(float.__mul__, first, far)))

    def test_models_are_listed(self, simulator: Driver) -> None:
        assert "sim-small" in {model.id for model in simulator.sdk.models.list()}
        assert simulator.sdk.models.retrieve("sim-small").object == "model"

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "param"),
        [
            ("POST", CHAT, b'{"model": ', 400, None),
            ("POST", CHAT, b'{"messages": [{}]}', 400, "model"),
            ("POST", CHAT, b'{"model": "m", "messages": []}', 400, "messages"),
            ("POST", CHAT, b'{"model": "m", "messages": [{}], "n": 0}', 400, "n"),
            ("POST", CHAT, b'{"model": "m", "messages": [{}], "tool_choice": "x"}', 400, "tool_choice"),
            ("POST", "/v1/embeddings", b'{"model": "m", "input": [1, "a"]}', 400, "input"),
            ("POST", "/v1/nothing", b"{}", 404, None),
            ("GET", "/nothing", b"", 404, None),
            ("GET", "/v1/models/none", b"", 404, "model"),
            ("GET", CHAT, b"", 405, None),
        ],
    )
    def test_bad_requests_get_openai_errors(
        self, simulator: Driver, method: str, path: str, body: bytes, status: int, param: str | None
    ) -> None:
        answer = simulator.http.request(method, path, content=body)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["param"] == param

    @given(text=st.text())
    def test_pieces_are_the_text_again_one_token_each(self, text: str) -> None:
        pieces = split_tokens(text)
        assert "".join(pieces) == text
        assert sum(count_tokens(piece) for piece in pieces) == count_tokens(text)
        assert all(count_tokens(piece) == 1 for piece in pieces) or not text.strip()


class TestTools:
    def test_auto_calls_the_first_tool_with_its_required_properties(self, simulator: Driver) -> None:
        choice = simulator.post(tools=[WEATHER, CLOCK]).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "get_weather", "arguments": '{"city":"city","days":3}'}

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"tool_choice": "required"}, ["get_weather", "get_time"]),
            ({"tool_choice": "required", "parallel_tool_calls": False}, ["get_weather"]),
            ({"tool_choice": {"type": "function", "function": {"name": "get_time"}}}, ["get_time"]),
            ({"tool_choice": "none"}, []),
        ],
    )
    def test_tool_choice_is_obeyed(self, simulator: Driver, fields: dict[str, Any], names: list[str]) -> None:
        message = simulator.post(tools=[WEATHER, CLOCK], **fields).json()["choices"][0]["message"]
        assert [call["function"]["name"] for call in message.get("tool_calls", [])] == names

    def test_streamed_calls_are_joined_by_the_sdk(self, simulator: Driver) -> None:
        with simulator.sdk.chat.completions.stream(
            model="m",
            messages=USER,
            tools=[WEATHER, CLOCK],
            tool_choice="required",
        ) as stream:
            final = stream.get_final_completion()
        calls = final.choices[0].message.tool_calls or []
        assert [call.function.arguments for call in calls] == ['{"city":"city","days":3}', "{}"]
        plain = simulator.post(tools=[WEATHER, CLOCK], tool_choice="required", model="m").json()
        assert [call.id for call in calls] == [
            call["id"] for call in plain["choices"][0]["message"]["tool_calls"]
        ]
        assert simulator.last()["completion_tokens"] == plain["usage"]["completion_tokens"]

    def test_arguments_are_cut_at_the_most_tokens(self, simulator: Driver) -> None:
        answer = simulator.post(tools=[WEATHER], max_tokens=3).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"'

    def test_tool_result_is_quoted(self, simulator: Driver) -> None:
        messages = [*USER, {"role": "tool", "tool_call_id": "c", "content": "18 degrees"}]
        answer = simulator.post(tools=[WEATHER], messages=messages).json()
        assert answer["choices"][0]["message"]["content"] == "The tool answered: 18 degrees"

    def test_json_schema_is_satisfied(self, simulator: Driver) -> None:
        schema = {
            "$defs": {"Colour": {"enum": ["red", "blue"]}},
            "type": "object",
            "properties": {
                "colour": {"$ref": "#/$defs/Colour"},
                "tags": {"type": "array", "minItems": 2, "items": {"type": "string", "minLength": 9}},
                "size": {"anyOf": [{"type": "number", "maximum": 1}, {"type": "null"}]},
                "day": {"type": "string", "format": "date"},
            },
            "required": ["colour", "tags", "size", "day"],
        }
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        text = simulator.post(response_format=shape).json()["choices"][0]["message"]["content"]
        expected = {"colour": "red", "tags": ["tagsxxxxx"] * 2, "size": 1, "day": "2026-01-31"}
        assert json.loads(text) == expected

    def test_json_object_is_an_object(self, simulator: Driver) -> None:
        answer = simulator.post(response_format={"type": "json_object"}).json()
        assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"answer"}


class TestFaults:
    def test_first_byte_waits(self, simulator: Driver) -> None:
        started = time.monotonic()
        with simulator.http.stream("POST", CHAT, json=chat({"first_byte_s": 0.15}, stream=True)) as answer:
            assert time.monotonic() - started >= 0.15
            assert answer.status_code == 200

    def test_chunks_are_spaced(self, simulator: Driver) -> None:
        started = time.monotonic()
        simulator.frames({"between_chunks_s": 0.05, "text": "a b"})
        assert 0.2 <= time.monotonic() - started < 1

    def test_status_carries_the_given_error(self, simulator: Driver) -> None:
        faults = {"status": 429, "message": "Slow", "type": "t", "code": "slow_down", "retry_after": 7}
        answer = simulator.post(faults, stream=True)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        error = {"message": "Slow", "type": "t", "param": None, "code": "slow_down"}
        assert answer.json() == {"error": error}
        call = simulator.last()
        assert (call["outcome"], call["status"], call["prompt_tokens"]) == ("failed", 429, 0)

    def test_retry_after_may_be_a_date(self, simulator: Driver) -> None:
        date = "Wed, 21 Oct 2026 07:28:00 GMT"
        answer = simulator.post({"status": 503, "retry_after": date, "headers": {"X-Should-Retry": "false"}})
        assert answer.headers["retry-after"] == date
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["error"]["code"] == "server_is_overloaded"

    def test_share_is_counted_exactly(self, simulator: Driver) -> None:
        statuses = [simulator.post({"share": 0.25}).status_code for _ in range(12)]
        assert statuses == [200, 200, 200, 500] * 3
        statuses = [simulator.post({"share": 0.1, "status": 502}).status_code for _ in range(20)]
        assert [at for at, status in enumerate(statuses) if status == 502] == [9, 19]

    def test_break_cuts_the_connection_after_frames(self, simulator: Driver) -> None:
        received: list[str] = []
        body = chat({"break_after_frames": 3}, stream=True)
        with (
            pytest.raises(httpx.RemoteProtocolError),
            simulator.http.stream("POST", CHAT, json=body) as answer,
        ):
            received.extend(answer.iter_lines())
        assert len([line for line in received if line]) == 3
        call = simulator.last()
        assert (call["outcome"], call["frames_sent"], call["completion_tokens"]) == ("broken", 3, 2)
        assert call["prompt_tokens"] == 5

    def test_break_cuts_a_plain_answer_in_half(self, simulator: Driver) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            simulator.post({"break_after_frames": 0})
        assert simulator.last()["outcome"] == "broken"
        assert simulator.last()["completion_tokens"] == 16

    def test_hang_after_frames_goes_silent_until_the_client_leaves(self, simulator: Driver) -> None:
        with simulator.http.stream("POST", CHAT, json=chat({"hang_after_frames": 2}, stream=True)) as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)][3] == ""
            assert simulator.served()["open"] == 1
        call = simulator.served(wait=1)["calls"][-1]
        assert (call["outcome"], call["frames_sent"], call["completion_tokens"]) == ("client_left", 2, 1)

    def test_hang_never_answers(self, simulator: Driver) -> None:
        with pytest.raises(httpx.ReadTimeout):
            simulator.http.post(CHAT, json=chat({"hang": True}), timeout=0.1)
        call = simulator.served(wait=1)["calls"][-1]
        assert (call["outcome"], call["status"], call["prompt_tokens"]) == ("client_left", None, 0)

    def test_drop_closes_with_no_answer(self, simulator: Driver) -> None:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            simulator.post({"drop": True})
        call = simulator.served(wait=1)["calls"][-1]
        assert (call["outcome"], call["status"]) == ("broken", None)

    def test_bad_json_breaks_plain_body_and_one_frame(self, simulator: Driver) -> None:
        answer = simulator.post({"bad_json": True})
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            answer.json()
        frames = simulator.frames({"bad_json": True})
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            json.loads(frames[1])
        assert json.loads(frames[2])
        assert frames[-1] == "[DONE]"

    def test_usage_may_be_missing(self, simulator: Driver) -> None:
        assert "usage" not in simulator.post({"usage": "missing"}).json()
        frames = simulator.frames({"usage": "missing"}, stream_options={"include_usage": True})
        assert all(json.loads(frame)["usage"] is None for frame in frames[:-1])
        assert simulator.last()["completion_tokens"] == 16

    def test_usage_may_be_wrong(self, simulator: Driver) -> None:
        assert simulator.post({"usage": "wrong"}).json()["usage"]["prompt_tokens"] < 0
        assert simulator.last()["prompt_tokens"] == 5

    def test_usage_may_be_exact_numbers(self, simulator: Driver) -> None:
        numbers = {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "cached_tokens": 400,
            "reasoning_tokens": 30,
        }
        usage = simulator.post({"usage": {**numbers, "cache_write_tokens": 9}}).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1000, 50, 1050)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 400
        assert usage["prompt_tokens_details"]["cache_write_tokens"] == 9
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 30
        assert simulator.served()["totals"]["cached_tokens"] == 400

    def test_error_frame_ends_the_stream(self, simulator: Driver) -> None:
        frames = simulator.frames({"error_frame_after_frames": 3, "message": "Gone"})
        assert json.loads(frames[3])["error"]["message"] == "Gone"
        assert len(frames) == 4
        assert simulator.last()["outcome"] == "broken"

    def test_output_length_and_text_are_as_told(self, simulator: Driver) -> None:
        assert simulator.post({"output_tokens": 123}).json()["usage"]["completion_tokens"] == 123
        assert simulator.post({"output_tokens": 0}).json()["usage"]["completion_tokens"] == 0
        answer = simulator.post({"text": " Ja, é\n"}, tools=[WEATHER]).json()
        assert answer["choices"][0]["message"]["content"] == " Ja, é\n"
        assert answer["usage"]["completion_tokens"] == 3

    def test_echo_returns_what_the_user_said(self, simulator: Driver) -> None:
        assert (
            simulator.post({"echo": True}).json()["choices"][0]["message"]["content"] == "Hello, big world!"
        )
        message = simulator.post({"echo": True}, tools=[WEATHER]).json()["choices"][0]["message"]
        arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
        assert arguments == {"city": "Hello, big world!", "days": 3}

    def test_stream_may_end_without_done(self, simulator: Driver) -> None:
        frames = simulator.frames({"no_done": True})
        assert json.loads(frames[-1])["choices"][0]["finish_reason"] == "stop"
        assert (simulator.last()["outcome"], simulator.last()["completion_tokens"]) == ("broken", 16)

    def test_redirect_points_elsewhere(self, simulator: Driver) -> None:
        answer = simulator.post({"redirect": "http://169.254.169.254/"})
        assert (answer.status_code, answer.headers["location"]) == (302, "http://169.254.169.254/")

    def test_content_type_is_as_told(self, simulator: Driver) -> None:
        assert simulator.post({"content_type": "text/html"}).headers["content-type"] == "text/html"

    def test_headers_are_logged_only_when_asked(self, simulator: Driver) -> None:
        headers = {"Authorization": "Bearer sk-abc", "X-Request-ID": "r1", "X-Twice": "1"}
        simulator.http.post(CHAT, json=chat({"echo_headers": True}), headers=headers)
        assert simulator.last()["headers"]["authorization"] == "Bearer sk-abc"
        simulator.http.post(CHAT, json=chat({}), headers=headers)
        assert "headers" not in simulator.last()

    def test_bodies_are_logged_only_when_asked(self, simulator: Driver) -> None:
        body = json.dumps(chat({"keep_body": True})).encode()
        simulator.http.post(CHAT, content=body)
        assert simulator.last()["body"] == body.decode()
        simulator.http.post(CHAT, json=chat({}))
        assert "body" not in simulator.last()

    def test_frames_are_written_together(self, simulator: Driver) -> None:
        with simulator.connect() as connection:
            body = json.dumps(chat({"frames_per_write": 6, "text": "a b c"}, stream=True)).encode()
            connection.sendall(raw_post(body))
            (answer,) = read_answers(connection, 1)
        assert len(re.findall(rb"^[0-9a-f]+\r\n", answer, re.MULTILINE)) == 1
        assert answer.count(b"data: ") == 6

    def test_frames_may_end_with_crlf(self, simulator: Driver) -> None:
        text = simulator.post({"crlf": True}, stream=True).text
        assert text.endswith("data: [DONE]\r\n\r\n")
        assert "\n" not in text.replace("\r\n", "")

    def test_request_wins_over_header(self, simulator: Driver) -> None:
        headers = {"x-simulator": '{"status": 503, "message": "Header"}'}
        answer = simulator.http.post(CHAT, json=chat({"status": 429}), headers=headers)
        assert (answer.status_code, answer.json()["error"]["message"]) == (429, "Header")

    @pytest.mark.parametrize(
        "faults",
        [
            {"stauts": 500},
            {"status": 200},
            {"status": True},
            {"share": 1.5},
            {"first_byte_s": -1},
            {"hang": 1},
            {"text": 5},
            {"redirect": "a\nb"},
            {"headers": {"a b": "c"}},
            {"frames_per_write": 0},
            {"usage": "absent"},
            {"usage": {"tokens": 1}},
            [],
        ],
    )
    def test_bad_fault_is_refused_by_name(self, simulator: Driver, faults: Any) -> None:
        answer = simulator.http.post(CHAT, json=chat(faults))
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "bad_fault"
        for name in faults:
            assert repr(name) in answer.json()["error"]["message"]

    def test_bad_header_is_refused(self, simulator: Driver) -> None:
        assert simulator.http.post(CHAT, json=chat({}), headers={"x-simulator": "{"}).status_code == 400


def chat(faults: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "sim-small", "messages": USER, "simulator": faults, **fields}


class TestServedLog:
    async def test_client_that_leaves_is_seen_at_once(self, simulator: Driver) -> None:
        async with openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="k", max_retries=0) as sdk:
            stream = await sdk.chat.completions.create(
                model="m",
                messages=USER,
                stream=True,
                extra_body={"simulator": {"between_chunks_s": 60, "frames_per_write": 4}},
                extra_headers={"x-request-id": "gone"},
            )
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            left = time.monotonic()
            await stream.close()
        report = simulator.served(wait=1)
        assert time.monotonic() - left < 1
        (call,) = report["calls"]
        assert (call["request_id"], call["outcome"]) == ("gone", "client_left")
        assert (call["frames_sent"], call["completion_tokens"], call["prompt_tokens"]) == (4, 3, 5)

    def test_calls_are_found_by_index_and_request_id(self, simulator: Driver) -> None:
        for name in ("a", "b", "c"):
            simulator.http.post(CHAT, json=chat({}), headers={"x-request-id": name})
        assert [call["request_id"] for call in simulator.served(since=1)["calls"]] == ["b", "c"]
        (call,) = simulator.served(request_id="b")["calls"]
        assert call["id"] == 1
        assert call["path"] == CHAT
        totals = simulator.served(since=3)["totals"]
        assert (totals["complete"], totals["prompt_tokens"], totals["completion_tokens"]) == (3, 15, 48)

    def test_delete_forgets_everything(self, simulator: Driver) -> None:
        simulator.post({"share": 0.5})
        assert simulator.http.delete("/simulator/served").json()["count"] == 0
        assert simulator.post({"share": 0.5}).status_code == 200
        assert simulator.served()["totals"]["complete"] == 1

    def test_models_and_log_are_not_calls(self, simulator: Driver) -> None:
        simulator.http.get("/v1/models")
        assert simulator.served()["count"] == 0
        assert simulator.http.get("/simulator/served?since=x").status_code == 400


class TestCommand:
    def test_flags_are_defaults_for_all_calls_and_the_request_wins(self) -> None:
        for driver in drive("--status", "503", "--share", "0.5", "--retry-after", "9", "--api-key", "k1"):
            headers = {"authorization": "Bearer k1"}
            answers = [driver.http.post(CHAT, json=chat({}), headers=headers) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 503, 200, 503]
            assert answers[1].headers["retry-after"] == "9"
            answer = driver.http.post(CHAT, json=chat({"share": 1, "status": 418}), headers=headers)
            assert answer.status_code == 418
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
                driver.sdk.chat.completions.create(model="m", messages=USER)
            assert caught.value.code == "invalid_api_key"
            assert driver.http.get("/v1/models").status_code == 401

    def test_manage_command_serves_too(self) -> None:
        process = launch("--output-tokens", "2", program=("-c", MANAGE))
        try:
            answer = httpx.post(address_of(process) + CHAT, json=chat({}))
            assert answer.json()["usage"]["completion_tokens"] == 2
        finally:
            status, stdout, _ = stop(process)
        assert (status, stdout) == (0, "")

    def test_taken_port_is_said_clearly(self, simulator: Driver) -> None:
        port = simulator.url.rpartition(":")[2]
        process = launch("--port", port)
        _, stderr = process.communicate(timeout=10)
        assert process.returncode == 1
        assert stderr == f"simulator: cannot listen on 127.0.0.1:{port}: Address already in use\n"

    @pytest.mark.parametrize("flags", [("--share", "2"), ("--static", "--hang"), ("--stream-seconds", "-1")])
    def test_flags_that_make_no_sense_are_refused(self, flags: tuple[str, ...]) -> None:
        process = launch(*flags)
        _, stderr = process.communicate(timeout=10)
        assert process.returncode == 2
        assert stderr.startswith("simulator: ")

    def test_hung_call_does_not_keep_the_process(self) -> None:
        for driver in drive():
            with driver.connect() as connection:
                connection.sendall(raw_post(json.dumps(chat({"hang": True})).encode()))
                while not driver.served()["open"]:
                    pass

    def test_reference_page_has_the_fault_table(self) -> None:
        page = (ROOT / "docs/reference/simulator.md").read_text()
        assert fault_table() in page

    def test_every_fault_is_tested_here(self) -> None:
        source = Path(__file__).read_text()
        assert [
            fault.name for fault in fields(Plan) if not re.search(rf'"{fault.name}"|{fault.name}=', source)
        ] == []


class TestMessages:
    """Anthropic's API, by its own package."""

    def test_plain_and_streamed_say_the_same(self, simulator: Driver) -> None:
        with claude(
            simulator, thinking="Let me see.", usage={"prompt_tokens": 9, "cached_tokens": 4}
        ) as client:
            plain = client.messages.create(**QUESTION, extra_body={"temperature": 0.5})
            with client.messages.stream(**QUESTION) as events:
                streamed = events.get_final_message()
        assert [b.to_dict() for b in plain.content] == [b.to_dict() for b in streamed.content]
        assert [block.type for block in plain.content] == ["thinking", "text"]
        assert (plain.usage.input_tokens, plain.usage.cache_read_input_tokens) == (5, 4)
        assert plain.usage.output_tokens == streamed.usage.output_tokens == 16

    def test_it_refuses_what_the_api_refuses(self, simulator: Driver) -> None:
        result = {"type": "tool_result", "tool_use_id": "nobody's", "content": "x"}
        with claude(simulator) as client:
            for wrong in (
                {"messages": [{"role": "user", "content": [result]}]},
                {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
                {"extra_body": {"temperature": 1.5}},
                {
                    "extra_body": {"temperature": 0.5},
                    "extra_headers": {"anthropic-version": "2026-10-21"},
                },
                {"extra_headers": {"anthropic-version": "1999-01-01"}},
                {"thinking": {"type": "enabled", "budget_tokens": 5000}},
            ):
                with pytest.raises(anthropic.BadRequestError):
                    client.messages.create(**(QUESTION | wrong))

    def test_faults_in_the_path_hold_for_all_of_its_calls(self, simulator: Driver) -> None:
        with (
            claude(simulator, status=529, message="Too busy.") as client,
            pytest.raises(anthropic.APIStatusError, match="Too busy") as raised,
        ):
            client.messages.create(**QUESTION)
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["error"]["type"] == "overloaded_error"
        assert simulator.http.post("/with/{x/v1/messages", json={}).status_code == 404


class TestStatic:
    def test_sdk_reads_the_plain_answer(self, static: Driver) -> None:
        answer = static.sdk.chat.completions.create(model="m", messages=USER)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 130
        assert 1200 <= len(static.post().content) <= 1400

    @pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
    def test_stream_has_104_frames_in_21_writes(self, static: Driver, options: dict[str, Any]) -> None:
        body = json.dumps({"stream": True, **options}).encode()
        with static.connect() as connection:
            connection.sendall(raw_post(body))
            (answer,) = read_answers(connection, 1)
        frames = re.findall(rb"^data: (.*)$", answer, re.MULTILINE)
        assert len(frames) == 104
        assert frames[-1] == b"[DONE]"
        assert len(re.findall(rb"^[0-9a-f]+\r\n", answer, re.MULTILINE)) == 21
        assert ([] in [json.loads(frame)["choices"] for frame in frames[:-1]]) == bool(options)

    def test_sdk_reads_the_stream(self, static: Driver) -> None:
        stream = static.sdk.chat.completions.create(model="m", messages=USER, stream=True)
        assert sum(bool(chunk.choices[0].delta.content) for chunk in stream) == 101

    def test_stream_takes_its_time(self, static: Driver) -> None:
        started = time.monotonic()
        static.http.post(CHAT, content=b'{"stream":true}')
        assert 0.036 <= time.monotonic() - started < 0.5

    def test_requests_split_anywhere_are_answered(self, static: Driver) -> None:
        chunked = (
            b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'7;x=y\r\n{"strea\r\n8\r\nm":true}\r\n0\r\nTrailer: 1\r\n\r\n'
        ) % CHAT.encode()
        stream = raw_post(b'{"stream": true}')
        with static.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in (raw_post(b'{"model":"m"}'), stream, chunked):
                for at in range(len(request)):
                    connection.sendall(request[at : at + 1])
                (answer,) = read_answers(connection, 1)
                assert (answer.count(b"data: ") == 104) == (b"strea" in request)

    def test_pipelined_requests_are_answered_in_order(self, static: Driver) -> None:
        requests = [
            raw_post(b"{}"),
            raw_post(b'{"stream":true}'),
            raw_post(b"{}"),
            b"GET /v1/models HTTP/1.1\r\n\r\n",
        ]
        with static.connect() as connection:
            connection.sendall(b"".join(requests))
            plain, stream, again, models = read_answers(connection, 4)
        assert json.loads(plain) == json.loads(again)
        assert stream.count(b"data: ") == 104
        assert json.loads(models)["object"] == "list"

    def test_connection_close_and_bad_requests_end_the_connection(self, static: Driver) -> None:
        bad = b"POST %b HTTP/1.1\r\nContent-Length: -1\r\n\r\n" % CHAT.encode()
        for request, status in ((raw_post(b"{}", b"Connection: close\r\n"), b"200"), (bad, b"400")):
            with static.connect() as connection:
                connection.sendall(request)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 " + status)

    def test_expect_continue_is_answered(self, static: Driver) -> None:
        head, _, body = raw_post(b"{}", b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        with static.connect() as connection:
            connection.sendall(head + b"\r\n\r\n")
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert len(read_answers(connection, 1)) == 1

    def test_streams_that_clients_leave_are_counted(self, static: Driver) -> None:
        before = static.served()["streams_left"]
        with static.connect() as connection:
            connection.sendall(raw_post(b'{"stream":true}'))
            connection.recv(100)
        while static.served()["streams_left"] != before + 1:
            pass
        assert static.http.get("/nothing").status_code == 404

    @pytest.mark.parametrize(
        "data",
        [
            b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"x" * 70_000,
        ],
    )
    def test_parser_refuses_what_is_no_request(self, data: bytes) -> None:
        with pytest.raises(BadRequestError):
            parse_request(data, 0)

    def test_parser_names_the_bytes_it_needs(self) -> None:
        whole = raw_post(b"{}")
        assert parse_request(whole[:-1], 0) == Incomplete(len(whole), wants_continue=False)
        request = parse_request(b"\r\n" + whole, 0)
        assert not isinstance(request, Incomplete)
        assert (request.body, request.end) == (b"{}", len(whole) + 2)
