"""`python manage.py explain`: what would become of a request, without calling anyone."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from routing.endpoints.bounds import Bounds
from routing.explain import ENDPOINTS, Asked, Explanation, Way, explain
from routing.snapshot import load_snapshot
from teams.key_holder import KeyHolder, hold_for_key, hold_for_team
from teams.models import ApiKey, Application, Team

_EXAMPLES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hello."}]},
    "completions": {"prompt": "Hello."},
    "embeddings": {"input": "Hello."},
    "messages": {"max_tokens": 1000, "messages": [{"role": "user", "content": "Hello."}]},
    "responses": {"input": "Hello."},
}


class Command(BaseCommand):
    """For a team or a key, and a request or a model: which backends, in which order, and which rules."""

    help = "Explains where a request would go, and what would be held for it. Nothing is called, nothing is held."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Who asks, and what."""
        who = parser.add_mutually_exclusive_group(required=True)
        who.add_argument(
            "--team", metavar="SLUG", help="A team that asks, with a key without rules of its own."
        )
        who.add_argument("--key", metavar="ID", type=int, help="The key that is sent, by its number.")
        parser.add_argument("--application", metavar="SLUG", help="X-App-Name, one of the team's.")
        parser.add_argument("--end-user", default="", metavar="NAME", help="X-User-ID.")
        parser.add_argument(
            "--operation", choices=sorted(ENDPOINTS), default="chat", help="The endpoint (chat)."
        )
        parser.add_argument("--model", metavar="NAME", help="The model, instead of the request's own.")
        parser.add_argument(
            "--request", metavar="FILE", help="The body; - is standard input. Else a greeting."
        )
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the explanation; exit status 1 when the request would be refused."""
        caller = _find_caller(options["team"], options["key"])
        asked = Asked(
            operation=options["operation"],
            body=_read_body(options["request"], options["operation"], options["model"]),
            caller=caller,
            application_id=_find_application(caller, options["application"]),
            end_user=options["end_user"],
        )
        told = explain(load_snapshot(), _bounds(), asked)
        if options["json"]:
            self.stdout.write(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        else:
            self.stdout.write("\n".join(_lines(told)))
        if told.refusal is not None:
            raise CommandError("The request would be refused.")


def _find_caller(team: str | None, key_id: int | None) -> KeyHolder:
    if key_id is not None:
        if (key := ApiKey.objects.select_related("application").filter(pk=key_id).first()) is None:
            raise CommandError(f"There is no key {key_id}.")
        return hold_for_key(key)
    if (found := Team.objects.filter(slug=team).first()) is None:
        raise CommandError(f"There is no team {team!r}.")
    return hold_for_team(found.pk)


def _find_application(caller: KeyHolder, slug: str | None) -> int | None:
    if slug is None:
        return caller.application_id
    application = Application.objects.filter(team_id=caller.team_id, slug=slug).first()
    if application is None:
        raise CommandError(f"The team has no application {slug!r}.")
    return application.pk


def _read_body(file: str | None, operation: str, model: str | None) -> bytes:
    try:
        text = (
            sys.stdin.read()
            if file == "-"
            else Path(file).read_text()
            if file
            else json.dumps(_EXAMPLES[operation])
        )
        body = json.loads(text)
    except (OSError, ValueError) as error:
        raise CommandError(f"The request cannot be read: {error}") from None
    if not isinstance(body, dict):
        raise CommandError("The request must be a JSON object.")
    if model is not None:
        body["model"] = model
    return json.dumps(body).encode()


def _bounds() -> Bounds:
    return Bounds(
        messages=settings.GATEWAY_MAX_MESSAGES,
        tools=settings.GATEWAY_MAX_TOOLS,
        choices=settings.GATEWAY_MAX_CHOICES,
        inputs=settings.GATEWAY_MAX_INPUTS,
        tokens=settings.GATEWAY_MAX_TOKENS,
    )


def _lines(told: Explanation) -> list[str]:
    lines = [f"Model: {told.model or told.asked_model}"]
    if told.model and told.model != told.asked_model:
        lines[0] += f" (asked for as {told.asked_model})"
    if told.content is not None:
        parts = ", ".join(f"{name} {value}" for name, value in told.content.items())
        lines.append(f"Content: {parts}")
    lines.append(f"Required tags: {', '.join(told.required_tags) or 'none'}")
    if told.preferred_regions:
        lines.append(f"Preferred regions: {', '.join(told.preferred_regions)}")
    if told.policy is not None:
        lines.append(f"Guards, by the policy {told.policy}:")
        lines += [f"  {each.act}: {each.count} {each.type} in {each.place}" for each in told.findings] or [
            "  nothing found"
        ]
    lines.append("Limits and budgets:")
    lines += [f"  {rule}" for rule in told.rules] or ["  none"]
    if told.most_usd:
        lines.append(
            f"Reserved at most: {told.input_tokens} + {told.output_tokens} tokens, {told.most_usd} USD"
        )
    lines.append(f"Backends (strategy {told.strategy}):" if told.strategy else "Backends:")
    lines += [_line(way) for way in told.ways] or ["  none"]
    if told.refusal is not None:
        lines.append(f"Refused: {told.refusal}")
    return lines


def _line(way: Way) -> str:
    place = f"{way.group}. " if not way.cause else f"fallback ({way.cause}) {way.model}, {way.group}. "
    form = "translated" if way.translated else "passed"
    dropped = f", without {', '.join(way.dropped)}" if way.dropped else ""
    end = f": no, {way.obstacle}" if way.obstacle else f": {form}{dropped}"
    return f"  {place}{way.backend} ({way.provider}, {way.upstream_model}, weight {way.weight}){end}"
