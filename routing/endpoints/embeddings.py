"""POST /v1/embeddings."""

import base64
import struct
from typing import Annotated, Any, Literal

import msgspec

from billing.estimate import Extent
from billing.usage import UnusableUsage, Usage
from routing.dialects.base import Relay
from routing.endpoints.base import Prompt, Request, body_asking_usage, decode_fields, encode
from routing.endpoints.bounds import Bounds
from routing.endpoints.inputs import extent_of, prompt_of, read_inputs
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.endpoints.usage import decode_answer
from routing.errors import OPENAI
from routing.frames import FrameRelay
from teams.errors import field_invalid


class _Embeddings(Checked):
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _WireUsage(msgspec.Struct):
    prompt_tokens: int


_decoder = msgspec.json.Decoder(_Embeddings)
_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_vector = msgspec.json.Decoder(list[float] | str).decode
_decode_usage = msgspec.json.Decoder(_WireUsage).decode


class EmbeddingsEndpoint:
    """See base.Endpoint. There is no stream, and an answer has no tokens of its own."""

    operation = "embeddings"
    path = "embeddings"
    wire = OPENAI

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint."""
        embeddings, fields = read_json(body, _decoder)
        if embeddings.stream:
            raise field_invalid("stream", "Embeddings cannot be streamed.")
        if is_null(fields, "input"):
            raise field_invalid("input", "Missing required field: 'input'.")
        read_inputs("input", fields["input"], bounds.inputs)
        return Request(
            endpoint=self,
            model=model_of(embeddings, path_model),
            stream=False,
            wants_usage=False,
            end_user=end_user_of(embeddings, fields),
            choices=0,
            max_tokens=None,
            max_tokens_field="",
            fields=fields,
        )

    def extent(self, request: Request) -> Extent:
        """See base.Endpoint."""
        return extent_of(request.fields["input"])

    def prompt(self, request: Request) -> Prompt:
        """See base.Endpoint."""
        return prompt_of(msgspec.json.decode(request.fields["input"]))

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint."""
        return body_asking_usage(request, upstream_model)

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        usage = decode_answer(answer, "data").usage
        try:
            tokens = _decode_usage(usage).prompt_tokens
            return Usage(input_tokens=tokens) if tokens else None
        except (msgspec.DecodeError, UnusableUsage):
            return None

    def answer_texts(self, answer: bytes) -> list[str]:
        """Vectors hold no tokens."""
        return []

    def finish(self, request: Request, answer: bytes) -> bytes:
        """With vectors in the encoding that was asked for: not every backend knows both.

        The official client asks for base64 (little-endian float32) unless told otherwise.
        """
        wants_text = bytes(request.fields.get("encoding_format", b"null")) == b'"base64"'
        try:
            fields = decode_fields(answer)
            items = _decode_items(fields["data"])
            if all(bytes(item["embedding"]).startswith(b'"') is wants_text for item in items):
                return answer
            data = [{**item, "embedding": _convert(item["embedding"], wants_text)} for item in items]
        except (
            msgspec.DecodeError,
            KeyError,
            ValueError,
            OverflowError,
        ):  # UnicodeDecodeError is a ValueError
            return answer  # not as we know vectors: the caller may
        return encode({**fields, "data": data})

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return FrameRelay(wants_usage=request.wants_usage)


def _convert(embedding: msgspec.Raw, wants_text: bool) -> Any:
    """One vector in the other encoding, or as it is when it has the one asked for. Raises ValueError."""
    vector = _decode_vector(embedding)
    if isinstance(vector, str) is wants_text:
        return embedding
    if isinstance(vector, str):
        raw = base64.b64decode(vector, validate=True)
        if len(raw) % 4:
            raise ValueError("not a whole number of float32")
        return struct.unpack(f"<{len(raw) // 4}f", raw)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
