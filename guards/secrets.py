"""Secrets: keys, tokens and passwords by the forms that their issuers give them, and by what stands before them.

The expressions here are our own; issuers publish the forms so that leaked keys can be found. Those of classifinder,
which knows a hundred issuers, stand beside them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial

from guards.expressions import Expression
from guards.finding import Guard
from guards.recogniser import Judged, Recogniser

API_KEY, PRIVATE_KEY, PASSWORD = "API_KEY", "PRIVATE_KEY", "PASSWORD"
TYPES = (API_KEY, PRIVATE_KEY, PASSWORD)

# Name of the rule and its expression: none of them begins or ends within a longer word of the same letters.
_KEYS = {
    "openai": r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,200}",
    "anthropic": r"sk-ant-[A-Za-z0-9_-]{20,200}",
    "gateway": r"gw_[A-Za-z0-9_]{16,}",
    "aws": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    "github": r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
    "gitlab": r"gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_-]{20,64}",
    "google": r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{20,}",
    "slack": r"xox[abposr]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250}",
    "slack hook": r"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}",
    "stripe": r"(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,247}",
    "sendgrid": r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",
    "twilio": r"(?:SK|AC)[0-9a-f]{32}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "pypi": r"pypi-[A-Za-z0-9_-]{50,}",
    "hugging face": r"hf_[A-Za-z0-9]{30,}",
    "digitalocean": r"do[opr]_v1_[0-9a-f]{64}",
    "shopify": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "databricks": r"dapi[0-9a-f]{32}",
    "telegram": r"\d{8,10}:AA[A-Za-z0-9_-]{32,34}",
    "azure storage": r"AccountKey=[A-Za-z0-9+/]{40,}={0,2}",
}
# Between the lines of a key: as they are, indented, or written as `\n` in a string. One that is cut off goes as far as
# its lines do.
_GAP = r"(?:\s|\\[nrt])"
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\sA-Za-z0-9+/=:,.()\\-]{0,8192}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    rf"|(?:{_GAP}*+(?:[A-Z][A-Za-z-]{{2,20}}: [^\n\\]{{1,200}}|[A-Za-z0-9+/=_-]{{16,8192}}))*+"
    rf"(?:{_GAP}*+[A-Za-z0-9+/]{{0,64}}={{1,2}})?)"
)
# JSON web tokens: a header and, dotted, what it is about and its signature. They are of any length.
_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+)?")
_MOST_TOKEN_CHARS = 16_000
_VALUE = r"s?[\"']?\s{0,4}(?:=>|:=|[:=])\s{0,4}[\"']?(?P<value>[^\s\"'<>{}()\[\],;]{6,200})"
_KEY_NAME = (
    r"(?:secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|client[_-]?secret|private[_-]?key|credential)"
)
_PASSWORD_NAME = r"(?:pass(?:word|wd|phrase|code)?|pwd)"  # noqa: S105
_NAMED_KEY = re.compile(_KEY_NAME + _VALUE, re.IGNORECASE)
_NAMED_PASSWORD = re.compile(_PASSWORD_NAME + _VALUE, re.IGNORECASE)
_IN_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@\"']{0,100}:(?P<value>[^\s:/@\"']{3,200})@")
_BEARER = re.compile(r"\b(?:bearer|basic)\s+(?P<value>[A-Za-z0-9._~+/-]{16,}={0,2})", re.IGNORECASE)
_NO_SECRETS = re.compile(
    r"^(?:none|null|true|false|undefined|string|required|optional|your[_-].*|example.*|changeme|placeholder|redacted|"
    r"x{3,}|\*+|\.+|\$.*|%.*|(?:os|process|env|self|config|settings|this|args|request)\..*|get.*|input.*|str\b.*|[a-z]+)$",
    re.IGNORECASE,
)
_LEAST_BITS = 2.2  # of each character, by its share in the value: a word that repeats itself is none
_LEFT, _RIGHT = r"(?<![A-Za-z0-9_-])(?:", r")(?![A-Za-z0-9])"


def _judge_keys(rules: list[tuple[str, "re.Pattern[str]"]], text: str) -> Iterator[Judged]:
    for rule, expression in rules:
        for found in expression.finditer(text):
            if _bits(found.group()) >= _LEAST_BITS:
                yield found.start(), found.end(), 0.95, rule


def _judge_token(text: str) -> Iterator[Judged]:
    for found in _TOKEN.finditer(text):
        yield found.start(), found.end(), 0.95, "web token"


def _judge_private_key(text: str) -> Iterator[Judged]:
    for found in _PRIVATE_KEY.finditer(text):
        yield found.start(), found.end(), 1.0, "private key"


def _judge_named_key(text: str) -> Iterator[Judged]:
    """What stands behind a name of a key, or in a header."""
    for found in _NAMED_KEY.finditer(text):
        value = found.group("value").rstrip(".")
        if _is_mixed(value) and not _NO_SECRETS.match(value):
            yield found.start("value"), found.start("value") + len(value), 0.7, "name"
    for found in _BEARER.finditer(text):
        if any(map(str.isdigit, found.group("value"))):
            yield found.start("value"), found.end("value"), 0.8, "header"


def _judge_password(text: str) -> Iterator[Judged]:
    """What stands behind a name of a password, or before the host of an address."""
    for found in _IN_ADDRESS.finditer(text):
        yield found.start("value"), found.end("value"), 0.9, "address"
    for found in _NAMED_PASSWORD.finditer(text):
        value = found.group("value").rstrip(".")
        if (_is_mixed(value) or not value.isalnum()) and not _NO_SECRETS.match(value):
            yield found.start("value"), found.start("value") + len(value), 0.7, "name"


def _is_mixed(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _bits(value: str) -> float:
    counts, total = Counter(value).values(), len(value)
    return -sum(count / total * math.log2(count / total) for count in counts)


# What classifinder looks for besides keys, or takes for one too easily.
_NOT_OF_THEIRS = frozenset(
    {
        "generic_high_entropy",
        "credit_card_number",
        "ssh_private_key",
        "gcp_service_account_key",
        "password_in_url",
    }
)
_PUBLIC = frozenset({"stripe_live_publishable_key"})


_MORE_KEY = re.compile(
    rf"(?:{_GAP}*+[A-Za-z0-9+/=_-]{{16,8192}})*+(?:{_GAP}*+[A-Za-z0-9+/]{{0,64}}={{1,2}})?"
    r"(?:(?:\s|\\[nrt])*+-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)?"
)


def end_of_private_key(text: str, end: int) -> int:
    """Where one ends that was found up to `end`, however long it is."""
    if text.endswith("-----", 0, end) and text[:end].rpartition("-----BEGIN ")[2].count("-----END "):
        return end
    found = _MORE_KEY.match(text, end)
    return end if found is None else found.end()


def _make_their_recogniser() -> Recogniser:
    from classifinder_engine import PATTERN_REGISTRY  # only where secrets are asked for

    theirs = [
        pattern
        for pattern in PATTERN_REGISTRY
        if not pattern.id.startswith("pi_")
        and not pattern.id.endswith("_connection_string")
        and pattern.id not in _NOT_OF_THEIRS | _PUBLIC
    ]
    starts = tuple(
        Expression(
            pattern.regex.pattern.replace("(?P<", "(?<"),
            ignores_case=bool(pattern.regex.flags & re.IGNORECASE),
            is_trigger=True,
        )
        for pattern in theirs
    )
    return Recogniser(
        Guard.SECRETS,
        API_KEY,
        starts,
        partial(_judge_theirs, [pattern.id for pattern in theirs]),
        320,
        64,
        300,
    )


def _judge_theirs(ids: list[str], text: str) -> Iterator[Judged]:
    from classifinder_engine import scan

    for found in scan(text, types=ids, min_confidence=0.6, include_context=False):
        yield found.span_start, found.span_end, min(found.confidence, 1.0), found.type


def make_recognisers() -> list[Recogniser]:
    """All kinds of secrets."""
    keys = [(rule, re.compile(_LEFT + pattern + _RIGHT)) for rule, pattern in _KEYS.items()]
    starts = tuple(Expression(_start_of(pattern), is_trigger=True) for pattern in _KEYS.values())
    sign = r"s?[\"']?\s{0,4}(?:=>|:=|[:=])"
    private_key = _trigger(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
    named = _trigger(r"(?:secret|token|key|credential)" + sign, r"\b(?:bearer|basic)\s+[A-Za-z0-9]")
    passwords = _trigger(_PASSWORD_NAME + sign, r"://[^\s:/@]{0,100}:[^\s:/@]{3}")
    return [
        Recogniser(Guard.SECRETS, API_KEY, starts, partial(_judge_keys, keys), 64, 320),
        _make_their_recogniser(),
        Recogniser(Guard.SECRETS, PRIVATE_KEY, private_key, _judge_private_key, 64, 8300),
        Recogniser(
            Guard.SECRETS,
            API_KEY,
            (Expression(r"\beyJ[A-Za-z0-9_-]{10}", is_trigger=True),),
            _judge_token,
            16,
            _MOST_TOKEN_CHARS,
        ),
        Recogniser(Guard.SECRETS, API_KEY, named, _judge_named_key, 32, 256),
        Recogniser(Guard.SECRETS, PASSWORD, passwords, _judge_password, 160, 256),
    ]


def _trigger(*patterns: str) -> tuple[Expression, ...]:
    return tuple(Expression(pattern, ignores_case=True, is_trigger=True) for pattern in patterns)


_BOUNDS = re.compile(r"\{(\d+),\d*\}")


def _start_of(pattern: str) -> str:
    """Where the shortest that the expression matches ends: one trigger instead of one for every longer end."""
    shortest = _BOUNDS.sub(lambda bounds: f"{{{bounds[1]}}}" if int(bounds[1]) else "?", pattern)
    return rf"\b(?:{shortest})"
