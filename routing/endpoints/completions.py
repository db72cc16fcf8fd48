"""POST /v1/completions: the older form, a prompt in and a text out."""

import msgspec

from billing.estimate import Extent
from billing.usage import Usage
from routing.dialects.base import Relay
from routing.endpoints.base import Prompt, Request, body_asking_usage
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.conversation import AtLeastOne
from routing.endpoints.inputs import count_inputs, extent_of, prompt_of, read_inputs
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.endpoints.usage import choice_texts, decode_answer, read_usage
from routing.errors import OPENAI
from routing.frames import FrameRelay
from teams.errors import field_invalid


class _Completion(Checked):
    n: AtLeastOne | None = None
    best_of: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None


_decoder = msgspec.json.Decoder(_Completion)


class CompletionsEndpoint:
    """See base.Endpoint."""

    operation = "completions"
    path = "completions"
    wire = OPENAI

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint. A list holds one prompt an item, each with `n` answers."""
        completion, fields = read_json(body, _decoder)
        if is_null(fields, "prompt"):
            raise field_invalid("prompt", "Missing required field: 'prompt'.")
        given = read_inputs("prompt", fields["prompt"], bounds.inputs)
        for name, value in (("n", completion.n), ("best_of", completion.best_of)):
            if value is not None and value > bounds.choices:
                raise beyond(name, "it may be", bounds.choices)
        check_max_tokens("max_tokens", completion.max_tokens, bounds.tokens)
        return Request(
            endpoint=self,
            model=model_of(completion, path_model),
            stream=bool(completion.stream),
            wants_usage=bool(completion.stream_options and completion.stream_options.include_usage),
            end_user=end_user_of(completion, fields),
            choices=count_inputs(given) * max(completion.n or 1, completion.best_of or 1),
            max_tokens=completion.max_tokens,
            max_tokens_field="max_tokens",
            fields=fields,
        )

    def extent(self, request: Request) -> Extent:
        """See base.Endpoint."""
        return extent_of(request.fields["prompt"], request.fields.get("suffix", b""))

    def prompt(self, request: Request) -> Prompt:
        """See base.Endpoint."""
        return prompt_of(msgspec.json.decode(request.fields["prompt"]))

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint."""
        return body_asking_usage(request, upstream_model)

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        return read_usage(decode_answer(answer, "choices").usage)

    def answer_texts(self, answer: bytes) -> list[str]:
        """See base.Endpoint."""
        return choice_texts(answer)

    def finish(self, request: Request, answer: bytes) -> bytes:
        """As it came."""
        return answer

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return FrameRelay(wants_usage=request.wants_usage)
