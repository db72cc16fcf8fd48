"""Placeholders in place of what is found, and the way back. The pairs are in memory only, as long as their request."""

import json
import re
from collections.abc import Collection, Sequence

from guards.finding import Finding

PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]{0,63}_[1-9][0-9]{0,6}>")


class Vault:
    """One request's. The same value of the same type has the same placeholder; none is one that the caller's own text
    has, or what the model says of that would be taken for ours."""

    def __init__(self, texts: Collection[str]) -> None:
        """`texts`: all of the request."""
        self._taken = {found for text in texts if "<" in text for found in PLACEHOLDER.findall(text)}
        self._placeholders: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self.originals: dict[str, str] = {}  # those that are put back, by placeholder

    def redact(self, text: str, findings: Sequence[tuple[Finding, bool]]) -> str:
        """`text` with a placeholder for each of `findings`, which are in its order, and whether it is put back."""
        pieces, at = [], 0
        for finding, restores in findings:
            value = text[finding.start : finding.end]
            pieces += [text[at : finding.start], self._placeholder(finding.type, value, restores=restores)]
            at = finding.end
        return "".join([*pieces, text[at:]])

    def _placeholder(self, kind: str, value: str, *, restores: bool) -> str:
        if (known := self._placeholders.get((kind, value))) is not None:
            return known
        placeholder = ""
        while not placeholder or placeholder in self._taken:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            placeholder = f"<{kind}_{self._counts[kind]}>"
        self._placeholders[kind, value] = placeholder
        if restores:
            self.originals[placeholder] = value
        return placeholder

    def restore(self, text: str) -> str:
        """`text` with the values in place of their placeholders."""
        return PLACEHOLDER.sub(lambda found: self.originals.get(found[0], found[0]), text)

    def restore_json(self, text: str) -> str:
        """The same for a text that is JSON itself, as the arguments of tools are: values are written as in a string."""
        return PLACEHOLDER.sub(self._in_json, text)

    def _in_json(self, found: "re.Match[str]") -> str:
        value = self.originals.get(found[0])
        return found[0] if value is None else _as_json(value)

    def open_end(self, text: str) -> int:
        """Where the end of `text` begins that may be the beginning of a placeholder; its length when none is."""
        start = text.rfind("<")
        if start < 0:
            return len(text)
        tail = text[start:]
        may_go_on = any(len(tail) < len(each) and each.startswith(tail) for each in self.originals)
        return start if may_go_on else len(text)


def _as_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]
