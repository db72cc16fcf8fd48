"""python manage.py guard_eval: measure guards on labelled texts."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from guards.evaluation import Evaluation, LabelError, read_labelled


class Command(BaseCommand):
    """Prints what is found, missed, and taken for something it is not. Nothing is stored, nobody is called."""

    help = "Measure guards on labelled JSONL files."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """One file for each guard."""
        parser.add_argument("--pii", metavar="FILE", help='{"text", "spans": [{"start", "end", "type"}]}')
        parser.add_argument("--injection", metavar="FILE", help='{"text", "label": 0 or 1, "style"}')
        parser.add_argument("--toxicity", metavar="FILE", help='{"text", "label": 0 or 1}')
        parser.add_argument("--json", action="store_true", help="one line of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure each that is given."""
        if not any(options[name] for name in ("pii", "injection", "toxicity")):
            raise CommandError("Give a file: --pii, --injection or --toxicity.")
        try:
            told = _measure(options)
        except LabelError as error:
            raise CommandError(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"A label is not as it should be: {error!r}") from None
        self.stdout.write(json.dumps(told) if options["json"] else "\n".join(_lines(told)))


def _measure(options: dict[str, Any]) -> dict[str, Any]:
    pii = read_labelled(Path(options["pii"]), "spans") if options["pii"] else []
    evaluation = Evaluation(span["type"] for row in pii for span in row["spans"])
    told: dict[str, Any] = {}
    if pii:
        told["pii"] = evaluation.measure_pii(pii)
    if options["injection"]:
        told["injection"] = evaluation.measure_injection(read_labelled(Path(options["injection"]), "label"))
    if options["toxicity"]:
        told["toxicity"] = evaluation.measure_toxicity(read_labelled(Path(options["toxicity"]), "label"))
    return told | {"ms_per_text": evaluation.ms_per_text}


def _lines(told: dict[str, Any]) -> list[str]:
    lines = []
    if pii := told.get("pii"):
        lines.append(f"{'Personal data and secrets':32} precision  recall     n")
        for kind, rates in pii["types"].items():
            lines.append(
                f"  {kind:30} {_told(rates['precision']):>9} {_told(rates['recall']):>7} {rates['n']:>5}"
            )
        lines.append(f"  texts without any, flagged: {_told(pii['clean_flagged'])}")
    for name in ("injection", "toxicity"):
        if name in told:
            lines.append(
                f"{name.capitalize()}: true {_told(told[name]['tpr'])}, false {_told(told[name]['fpr'])}"
            )
            for style, rates in told[name].get("by_style", {}).items():
                lines.append(f"  {style:30} {_told(rates['flagged']):>9} {rates['n']:>13}")
    return [*lines, f"{told['ms_per_text']} ms a text, by all guards"]


def _told(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
