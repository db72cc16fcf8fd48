"""What is found in texts, and what is not."""

import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.checksums import CHECKSUMS
from guards.custom import Custom
from guards.expressions import ExpressionError
from guards.finding import VALUES, Finding, Guard, without_overlaps
from guards.look import wanted_of
from guards.pii.kinds import NATIONAL
from guards.policy import KNOWN, USUAL, Act, Rule, Rules
from guards.scanner import Scanner, Wanted

USUAL_TYPES = frozenset(kind for guard in VALUES for kind in USUAL[guard])
ALL_TYPES = frozenset(kind for guard in VALUES for kind in KNOWN[guard])


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(Wanted(ALL_TYPES))


def found(
    scanner: Scanner, text: str, types: frozenset[str] = USUAL_TYPES | {"DATE_TIME"}
) -> list[tuple[str, str]]:
    wanted = without_overlaps([each for each in scanner.scan(text) if each.type in types])
    return [(each.type, text[each.start : each.end]) for each in wanted]


TEXTS = [
    ("Write to anna.schmidt@example.com, please.", [("EMAIL_ADDRESS", "anna.schmidt@example.com")]),
    ("<anna@example.co.uk>", [("EMAIL_ADDRESS", "anna@example.co.uk")]),
    ("müller@exämple.de schrieb", [("EMAIL_ADDRESS", "müller@exämple.de")]),
    ("4111 1111 1111 1111 expired", [("CREDIT_CARD", "4111 1111 1111 1111")]),
    ("4111 1111 1111 1111 12/27 123", [("CREDIT_CARD", "4111 1111 1111 1111")]),
    (
        "4111111111111111 4111-1111-1111-1111",
        [("CREDIT_CARD", "4111111111111111"), ("CREDIT_CARD", "4111-1111-1111-1111")],
    ),
    ("4111111111111111 1226 123", [("CREDIT_CARD", "4111111111111111")]),
    ("4111 1111 1111 1111 1226", [("CREDIT_CARD", "4111 1111 1111 1111")]),
    ("In 2024 4111111111111111-123", [("CREDIT_CARD", "4111111111111111")]),
    ("4111.1111.1111.1111", [("CREDIT_CARD", "4111.1111.1111.1111")]),
    ("4111\u00a01111\u00a01111\u00a01111", [("CREDIT_CARD", "4111\u00a01111\u00a01111\u00a01111")]),
    (
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        [("IBAN_CODE", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000")],
    ),
    ("phone:212-555-0123", [("PHONE_NUMBER", "212-555-0123")]),
    ("call 212\u2011555\u20110123", [("PHONE_NUMBER", "212\u2011555\u20110123")]),
    ("card 2221-0000-0000-0009", [("CREDIT_CARD", "2221-0000-0000-0009")]),
    ("IBAN DE89 3704 0044 0532 0130 00", [("IBAN_CODE", "DE89 3704 0044 0532 0130 00")]),
    ("her ssn is 536-22-1234", [("US_SSN", "536-22-1234")]),
    ("from 192.168.17.4 at night", [("IP_ADDRESS", "192.168.17.4")]),
    ("from 2001:db8:0:1:1:1:1:1 at night", [("IP_ADDRESS", "2001:db8:0:1:1:1:1:1")]),
    ("call +49 30 901820 now", [("PHONE_NUMBER", "+49 30 901820")]),
    ("(212) 555-0123", [("PHONE_NUMBER", "(212) 555-0123")]),
    ("my number is 2125550123", [("PHONE_NUMBER", "2125550123")]),
    ("born 12 March 1985", [("DATE_TIME", "12 March 1985")]),
    ("born 1985-03-12.", [("DATE_TIME", "1985-03-12")]),
    ("sk-ant-api03-aB3dE5gH7jK9mN1pQ3sT5", [("API_KEY", "sk-ant-api03-aB3dE5gH7jK9mN1pQ3sT5")]),
    ("AWS: AKIA4HJQ7ZX2M6NP3RTW!", [("API_KEY", "AKIA4HJQ7ZX2M6NP3RTW")]),
    ('{"api_key": "9f86d081884c7d65"}', [("API_KEY", "9f86d081884c7d65")]),
    ("password: hunter2!", [("PASSWORD", "hunter2!")]),
    ("postgres://app:s3cr3tpw@db.internal/x", [("PASSWORD", "s3cr3tpw")]),
    (
        "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----",
        [("PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----")],
    ),
]
CLEAN = [
    "The quarterly report shows 12.5 % growth over 2024, with 1,234 customers in 17 regions.",
    "Order 4567890123 of batch 123456789012 shipped.",
    "See section 1.2.3.4 of version 10.0.0.1.",
    "UUID 550e8400-e29b-41d4-a716-446655440000, commit 9fceb02d0ae598e95dc970b74767f19372d61af8.",
    "def f(token: str) -> None: password = os.environ['PASSWORD']",
    "max_tokens=1024, secret=None, api_key=YOUR_API_KEY, password=<password>",
    "The time is 12:34:56; ratio 16:9; a::b in C++.",
    "@property\ndef name(self): return user@host",
    "Order 1234 4111 1111 1111 1111 and order 4111 1111 1111 1111 9234.",
    "4111 1111 1111 1112 is no card, and 1234 5678 9012 3456 neither.",
    "https://example.com:8080/path?x=1#y and sk-learn, gw_ and ghp_short",
    "1. First\n2. Second\n10-20-30 40.50 (12) 345",
    "版本 1.2.3 于 2024 年发布",
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_it_is_found_exactly(scanner: Scanner, text: str, expected: list[tuple[str, str]]) -> None:
    assert found(scanner, text) == expected
    around = f"Ünd: {'x ' * 400}{text} {'y ' * 400}"
    assert found(scanner, around) == expected


@pytest.mark.parametrize("text", CLEAN)
def test_it_is_nothing(scanner: Scanner, text: str) -> None:
    assert found(scanner, text) == []


NATIONAL_IDS = {
    "UK_NINO": "nino AB 12 34 56 C",
    "UK_NHS": "nhs number 943 476 5919",
    "ES_NIF": "dni 12345678Z",
    "IT_FISCAL_CODE": "codice RSSMRA85M01H501Q",
    "PL_PESEL": "pesel 44051401359",
    "IN_PAN": "pan ABCPE1234F",
    "SG_NRIC_FIN": "fin S1234567D",
    "FI_PERSONAL_IDENTITY_CODE": "hetu 131052-308T",
}


@pytest.mark.parametrize(("kind", "text"), NATIONAL_IDS.items())
def test_national_ids_are_found_where_they_are_listed(scanner: Scanner, kind: str, text: str) -> None:
    assert kind in NATIONAL
    assert [name for name, _ in found(scanner, text, frozenset({kind}))] == [kind]
    assert kind not in [name for name, _ in found(scanner, text)]


places = st.tuples(st.integers(0, 60), st.integers(1, 12), st.sampled_from([0.4, 0.75, 1.0]), st.booleans())


@given(placed=st.lists(places, max_size=30))
def test_of_what_overlaps_the_first_by_rank_is_kept(placed: list[tuple[int, int, float, bool]]) -> None:
    findings = [
        Finding(Guard.SECRETS if is_secret else Guard.PII, "A", start, start + length, score, "test")
        for start, length, score, is_secret in placed
    ]
    expected: list[Finding] = []
    for each in sorted(
        findings, key=lambda f: (f.guard != Guard.SECRETS, -f.score, f.start - f.end, f.start)
    ):
        if all(each.end <= other.start or each.start >= other.end for other in expected):
            expected.append(each)
    assert without_overlaps(findings) == sorted(expected, key=lambda f: f.start)


@given(text=st.text(max_size=300))
def test_any_text_can_be_looked_through(text: str) -> None:
    for each in SHARED.scan(text):
        assert 0 <= each.start < each.end <= len(text)
        assert text[each.start : each.end]


SHARED = Scanner(Wanted(ALL_TYPES))


@given(before=st.text("ab .,ü1@", max_size=20), after=st.text("ab .,ü1@", max_size=20))
def test_places_are_those_of_characters(before: str, after: str) -> None:
    value = "😀 DE89370400440532013000 ü"
    text = f"{before} {value} {after}"
    ibans = [each for each in SHARED.scan(text) if each.type == "IBAN_CODE"]
    assert [text[each.start : each.end] for each in ibans] == ["DE89370400440532013000"]


class TestCustom:
    """Recognisers of administrators."""

    @pytest.mark.parametrize(
        ("custom", "text", "expected"),
        [
            (Custom("badge", "BADGE", "B-[0-9]{4,6}"), "B-1234567 and B-1234", ["B-123456", "B-1234"]),
            (Custom("badge", "BADGE", "straße \\w+"), "in der Straße Nord", []),
            (Custom("badge", "BADGE", "straße \\w+", ignores_case=True), "Straße Nörd", ["Straße Nörd"]),
            (Custom("badge", "BADGE", "[0-9]{6}", words=("Badge",)), "badge no. 123456", ["123456"]),
            (Custom("badge", "BADGE", "[0-9]{6}", words=("badge",)), "order 123456", []),
            (Custom("card", "CARD", "[0-9]{8}", checksum="luhn"), "12345674 12345678", ["12345674"]),
        ],
    )
    def test_finds(self, custom: Custom, text: str, expected: list[str]) -> None:
        assert [text[each.start : each.end] for each in custom.find(text)] == expected
        scanner = Scanner(Wanted(frozenset({custom.type}), (custom,)))
        assert [text[each.start : each.end] for each in scanner.scan(text)] == expected

    @pytest.mark.parametrize(
        "pattern", ["a*", "(a", "(?=a)b", "(?<!a)b", r"(a)\1", "[", "(?:", "a{1,100000}"]
    )
    def test_cannot_be_used(self, pattern: str) -> None:
        with pytest.raises(ExpressionError):
            Custom("x", "X", pattern).check()

    def test_no_text_makes_one_slow(self) -> None:
        custom = Custom("slow", "SLOW", "(a+)+b|(a|a)*c|(x+x+)+y")
        started = time.perf_counter()
        assert custom.find("a" * 20_000 + "x" * 20_000) == []
        assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("luhn", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("mod_97", "GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 33"),
        ("mod_11", "0000-0002-1825-0097", "0000-0002-1825-0098"),
        ("mod_11", "0000-0002-1694-233X", "0000-0002-1694-2331"),
    ],
)
def test_checksums(name: str, right: str, wrong: str) -> None:
    assert CHECKSUMS[name](right)
    assert not CHECKSUMS[name](wrong)
    assert not CHECKSUMS[name]("")


@pytest.mark.slow  # it compares times
def test_what_a_usual_prompt_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """700 characters with an address and digits in them, each time a new text."""
    scanner = Scanner(Wanted(USUAL_TYPES))
    prose = (
        "The quarterly report shows growth of 12.5 % over 2024, with 1,234 new customers in 17 regions. " * 8
    )
    prompts = {
        "with an address": f"Write to anna@example.com about order 123456. {prose}"[:700],
        "with nothing": "The quick brown fox jumps over the lazy dog. " * 20,
    }
    with capsys.disabled():
        for name, prompt in prompts.items():
            spent = min(timeit.repeat(lambda: scanner.look(prompt), number=200, repeat=5)) / 200  # noqa: B023
            print(f"\n700 characters {name}: {spent * 1e6:.0f} us")
            assert spent < 200e-6


@pytest.mark.parametrize("letters", [64, 805, 5_000, 14_000])
def test_a_web_token_is_found_whole(scanner: Scanner, letters: int) -> None:
    token = f"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{'c3ViIjoi' * (letters // 8)}.{'aB3-_d' * 57}"
    assert found(scanner, f"see {token} end") == [("API_KEY", token)]
    assert found(scanner, f"token: {token}, and more") == [("API_KEY", token)]


@pytest.mark.parametrize("lines", [1, 30, 190, 400])
@pytest.mark.parametrize(
    ("headers", "between"),
    [
        ("", "\n"),
        ("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123\n\n", "\n"),
        ("", "\n        "),
        ("", "\\n"),
    ],
)
def test_a_private_key_is_found_whole(scanner: Scanner, lines: int, headers: str, between: str) -> None:
    body = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC/abc+0123456789ABCDEFGHIJKLMNOPQ"] * lines
    key = between.join(
        ["-----BEGIN PRIVATE KEY-----", *([headers] if headers else []), *body, "-----END PRIVATE KEY-----"]
    )
    text = f"here: {key} and so on"
    (finding,) = [each for each in scanner.look(text) if each.type == "PRIVATE_KEY"]
    assert text[finding.start : finding.end] == key
    cut = text[: len(text) // 2]
    (finding,) = [each for each in scanner.look(cut) if each.type == "PRIVATE_KEY"]
    assert "0123456789" not in cut[finding.end :]


def test_nothing_milder_hides_what_is_blocked_or_redacted(scanner: Scanner) -> None:
    text = "password: alice@example.com"
    its = scanner.look(text)
    observe, block = Rule(Act.OBSERVE, frozenset({"PASSWORD"})), Rule(Act.BLOCK, frozenset({"EMAIL_ADDRESS"}))
    wanted = wanted_of(its, Rules({"secrets": observe, "pii": block}))
    assert {each.type for each in wanted} == {"PASSWORD", "EMAIL_ADDRESS"}


@pytest.mark.parametrize(
    ("keywords", "text", "expected"),
    [
        (("atlas", "atlas gold"), "my atlas golden", ["atlas"]),
        (("project atlas",), "the Project  \n Atlas", ["Project  \n Atlas"]),
        (("c++",), "C++ and c+++", ["C++", "c++"]),
        (("atlas",), "atlases", []),
    ],
)
def test_keywords_are_whole_words(keywords: tuple[str, ...], text: str, expected: list[str]) -> None:
    custom = Custom("k", "K", guard="content", keywords=keywords)
    assert [text[each.start : each.end] for each in custom.find(text)] == expected


def test_any_digit_can_be_checked() -> None:
    assert Custom("c", "C", r"C-\S{4,12}", checksum="luhn").find("C-12³45") == []
