"""The older form: a prompt in, a text out. Each prompt is answered as a chat with one message would be."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from routing.simulator.answers import Choice, Usage, make_choices
from routing.simulator.faults import Plan
from routing.simulator.requests import ChatRequest, CompletionRequest, Refusal
from routing.simulator.tokens import count_tokens, split_tokens
from routing.simulator.wire import DONE, FINGERPRINT, Frame, Identity, encode

DEFAULT_MAX_TOKENS = 16


def read_prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a request: one for a string or a list of numbers, else one per item; raises Refusal."""
    given = request.prompt
    if isinstance(given, str):
        return [given]
    if not given or len({type(item) for item in given}) > 1:
        raise Refusal(400, "'$.prompt' must be a string or a list of one kind, not empty.", param="prompt")
    if isinstance(given[0], int):
        return [[item for item in given if isinstance(item, int)]]
    return [item for item in given if not isinstance(item, int)]


def make_completions(
    request: CompletionRequest, prompts: Sequence[str | list[int]], plan: Plan
) -> list[Choice]:
    """The choices, `n` for each prompt in turn."""
    choices: list[Choice] = []
    for prompt in prompts:
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        chat = ChatRequest(
            model=request.model,
            messages=[{"role": "user", "content": text}],
            n=request.n,
            max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS,
            stop=request.stop,
            seed=request.seed,
        )
        choices += make_choices(chat, plan)
    return choices


def count_completions(prompts: Sequence[str | list[int]], choices: Sequence[Choice], plan: Plan) -> Usage:
    """The true usage, save for the numbers the plan gives."""
    forced = plan.usage if isinstance(plan.usage, dict) else {}
    prompt_tokens = sum(
        count_tokens(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts
    )
    counted = {"prompt_tokens": prompt_tokens, "completion_tokens": sum(c.tokens for c in choices)}
    return Usage(**{**counted, **forced})


def text_body(identity: Identity, choices: Sequence[Choice], usage: dict[str, Any] | None) -> dict[str, Any]:
    """A plain completion."""
    listed = [_choice(index, choice.text or "", choice.finish_reason) for index, choice in enumerate(choices)]
    body = {**_head(identity), "choices": listed}
    return body if usage is None else {**body, "usage": usage}


def text_frames(
    identity: Identity, choices: Sequence[Choice], usage: dict[str, Any] | None, *, asked_usage: bool
) -> Iterator[Frame]:
    """The frames of a streamed completion; choices take turns, a token each."""
    head, no_usage = _head(identity), {"usage": None} if asked_usage else {}
    pieces = zip_longest(*(split_tokens(choice.text or "") for choice in choices))
    for turn in pieces:
        for index, piece in enumerate(turn):
            if piece is not None:
                told = {**head, "choices": [_choice(index, piece, None)], **no_usage}
                yield Frame(encode(told), 1 if piece.strip() else 0)
    for index, choice in enumerate(choices):
        yield Frame(encode({**head, "choices": [_choice(index, "", choice.finish_reason)], **no_usage}))
    if asked_usage and usage is not None:
        yield Frame(encode({**head, "choices": [], "usage": usage}))
    yield Frame(DONE, is_last=True)


def _head(identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id.replace("chatcmpl-", "cmpl-"),
        "object": "text_completion",
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": FINGERPRINT,
    }


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
