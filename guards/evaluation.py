"""How well guards do on labelled texts: what they find, what they miss, what they take for something that it is not."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from guards.finding import Finding, Guard, without_overlaps
from guards.policy import KNOWN, PROMPT_INJECTION, TOXIC, USUAL, USUAL_THRESHOLD
from guards.scanner import Scanner, Wanted

_LEAST_OVERLAP = 0.5  # of the longer of both, for a finding to be the labelled one


class LabelError(Exception):
    """A file that cannot be measured with; the message says where and why."""


def read_labelled(path: Path, needed: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file that each have a text and `needed`. Raises LabelError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise LabelError(f"{path}, line {number}: {error}") from None
        if row is None:
            continue
        if not (isinstance(row, dict) and isinstance(row.get("text"), str) and needed in row):
            raise LabelError(f"{path}, line {number}: an object with 'text' and {needed!r} is expected.")
        rows.append(row)
    if not rows:
        raise LabelError(f"{path} is empty.")
    return rows


class Evaluation:
    """With the usual kinds and thresholds, and the kinds besides that the labels name."""

    def __init__(self, labelled: Iterable[str] = ()) -> None:
        """`labelled`: the kinds of personal data and secrets in the labels."""
        known = {*KNOWN[Guard.PII], *KNOWN[Guard.SECRETS]}
        self._types = {*USUAL[Guard.PII], *USUAL[Guard.SECRETS], *(known & set(labelled))}
        wanted = Wanted(frozenset({*self._types, PROMPT_INJECTION, *TOXIC}))
        self._scanner = Scanner(wanted, finds_names=True)
        self._spent_s = 0.0
        self._texts = 0

    @property
    def ms_per_text(self) -> float:
        """Of all texts so far, with every guard."""
        return round(1000 * self._spent_s / self._texts, 3) if self._texts else 0.0

    def measure_pii(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Precision and recall by type; the share of texts without a label in which something is found."""
        right: Counter[str] = Counter()
        found_of: Counter[str] = Counter()
        labelled: Counter[str] = Counter()
        clean, flagged = 0, 0
        for row in rows:
            found = self._values(row["text"])
            spans = row["spans"]
            if not spans:
                clean += 1
                flagged += bool(found)
            labelled.update(span["type"] for span in spans)
            found_of.update(each.type for each in found)
            for kind, hits in _hits(found, spans).items():
                right[kind] += hits
        types = {
            kind: {
                "precision": _share(right[kind], found_of[kind]),
                "recall": _share(right[kind], labelled[kind]),
                "n": labelled[kind],
            }
            for kind in sorted(labelled | found_of)
        }
        return {"types": types, "clean_flagged": _share(flagged, clean)}

    def measure_injection(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """True and false positive rates at the usual threshold, and by style."""
        least = USUAL_THRESHOLD[Guard.INJECTION]
        by_style: dict[str, list[bool]] = defaultdict(list)
        flags: dict[int, list[bool]] = {0: [], 1: []}
        for row in rows:
            is_found = any(
                each.score >= least for each in self._scan(row["text"]) if each.guard == Guard.INJECTION
            )
            flags[int(row["label"])].append(is_found)
            by_style[f"{row.get('style') or 'none'} ({'attack' if row['label'] else 'benign'})"].append(
                is_found
            )
        rates = {
            style: {"flagged": _share(sum(found), len(found)), "n": len(found)}
            for style, found in by_style.items()
        }
        return _rates(flags) | {"by_style": dict(sorted(rates.items()))}

    def measure_toxicity(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """True and false positive rates."""
        flags: dict[int, list[bool]] = {0: [], 1: []}
        for row in rows:
            flags[int(row["label"])].append(
                any(each.guard == Guard.TOXICITY for each in self._scan(row["text"]))
            )
        return _rates(flags)

    def _values(self, text: str) -> list[Finding]:
        return without_overlaps([each for each in self._scan(text) if each.type in self._types])

    def _scan(self, text: str) -> Sequence[Finding]:
        started = time.perf_counter()
        found = self._scanner.scan(text)
        self._spent_s += time.perf_counter() - started
        self._texts += 1
        return found


def _hits(found: Sequence[Finding], spans: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many labels of each type are found; a label is found once."""
    hits: Counter[str] = Counter()
    left = list(found)
    for span in spans:
        for each in left:
            shared = min(each.end, span["end"]) - max(each.start, span["start"])
            longer = max(each.end - each.start, span["end"] - span["start"])
            if each.type == span["type"] and shared >= _LEAST_OVERLAP * longer:
                hits[each.type] += 1
                left.remove(each)
                break
    return hits


def _rates(flags: dict[int, list[bool]]) -> dict[str, Any]:
    return {"tpr": _share(sum(flags[1]), len(flags[1])), "fpr": _share(sum(flags[0]), len(flags[0]))}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None
