"""Values in place of their placeholders on the way back to the caller, plain and streamed, in every form."""

import re
from collections.abc import AsyncGenerator, Collection
from typing import Any

import msgspec

from guards.redaction import Vault
from guards.texts import SIGNED
from routing.answer_pieces import JSON_TEXTS, Key, Pieces, Where, encode_event
from routing.call import Reply


async def restore(reply: Reply, operation: str, vault: Vault) -> Reply:
    """The reply as its caller is to see it."""
    if not vault.originals or operation == "embeddings":
        return reply
    if reply.stream is None:
        reply.body = restore_body(reply.body, vault)
        return reply
    pieces, stream = Pieces(operation, Restorer(vault)), reply.stream
    piece = await pieces.feed(reply.first_piece)
    try:
        while not piece:
            piece = await pieces.feed(await anext(stream))
    except StopAsyncIteration:
        pass
    except BaseException:
        await stream.aclose()
        raise
    reply.first_piece, reply.stream = piece, _restored(stream, pieces)
    return reply


async def _restored(stream: AsyncGenerator[bytes, None], pieces: Pieces) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in stream:
            if restored := await pieces.feed(piece):
                yield restored
    finally:
        await stream.aclose()


def restore_body(body: bytes, vault: Vault) -> bytes:
    """A plain answer; one that is no JSON is what it is."""
    if b"<" not in body and b"\\u003" not in body:
        return body
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    root = {"": answer}
    _restore_all(root, vault)
    return encode_event(root[""])


def _restore_all(root: dict[str, Any], vault: Vault) -> bool:
    """Every text below `root`. Returns whether any may have changed."""
    stack: list[Any] = [root]
    is_changed = False
    while stack:
        holder = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, str):
                if "<" in value and key not in SIGNED:
                    is_json = key in JSON_TEXTS or _is_json(value)
                    holder[key] = vault.restore_json(value) if is_json else vault.restore(value)
                    is_changed = True
            elif isinstance(value, dict | list):
                stack.append(value)
    return is_changed


def _is_json(text: str) -> bool:
    """Whether values have to be written in it as in a string."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


# Whether a text is JSON is known once two characters are there: prose may begin with a bracket as well.
_BEGINS = re.compile(r"\s*(?:(?P<json>\{\s*[\"}]|\[\s*[\"{\[\]])|[{\[]\s*\S|[^\s{\[])")


class Restorer:
    """Of the texts of one stream. A backend may cut a placeholder anywhere: the end of a text that may be the beginning
    of one is held."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._are_json: dict[Key, bool] = {}

    def begin(self, event: dict[str, Any]) -> bool:
        """See answer_pieces.Filter."""
        return False

    async def take(self, text: Key, said: str, *, ends: bool) -> tuple[str, int]:
        """See answer_pieces.Filter."""
        if text.name in SIGNED:
            return said, len(said)
        cut = len(said) if ends else self._vault.open_end(said)
        if text not in self._are_json:
            if (begins := _BEGINS.match(said)) is not None:
                self._are_json[text] = bool(begins["json"])
            elif not ends:
                return "", 0
        is_json = text.name in JSON_TEXTS or self._are_json.get(text)
        restore = self._vault.restore_json if is_json else self._vault.restore
        return restore(said[:cut]), cut

    async def change(self, event: dict[str, Any], pieces: Collection[Where]) -> bool:
        """See answer_pieces.Filter; beside a piece there is nothing that the model says."""
        return not pieces and _restore_all({"": event}, self._vault)

    def pass_unread(self, frame: bytes) -> bytes:
        """See answer_pieces.Filter."""
        return frame
