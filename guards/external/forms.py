"""The forms of external guards, as their makers describe them. Each is a row here and a name in ExternalForm."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from guards.external.base import Asked, External, Form, Verdict, bearer, flag, verdict

_AZURE_VERSION = "2024-09-01"
_AZURE_CHARACTERS = 10_000
_AZURE_MOST_SEVERITY = 6


class Lakera:
    """Lakera Guard, `POST /v2/guard`. Setting: the id of the project whose policy holds. It judges the last message."""

    most_texts, most_characters = 1, 50_000

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        role = "assistant" if side == "answer" else "user"
        body: dict[str, Any] = {"messages": [{"role": role, "content": texts[0]}], "breakdown": True}
        if external.setting:
            body["project_id"] = external.setting
        return Asked("/v2/guard", bearer(external), body)

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        if not flag(answer["flagged"]):
            return [[]]
        detected = [each for each in answer.get("breakdown") or () if each.get("detected")]
        return [[verdict(1.0, each.get("detector_type")) for each in detected] or [Verdict(1.0, "flagged")]]


class AzurePromptShields:
    """Azure AI Content Safety, Prompt Shields: attacks in what a user says or a document holds."""

    most_texts, most_characters = 1, _AZURE_CHARACTERS

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        return _ask_azure(external, "text:shieldPrompt", {"userPrompt": texts[0], "documents": []})

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        found = flag(answer["userPromptAnalysis"]["attackDetected"])
        return [[Verdict(1.0, "attackDetected")] if found else []]


class AzureCategories:
    """Azure AI Content Safety, categories of harm: the severity, 0 to 6, is the score, 0 to 1."""

    most_texts, most_characters = 1, _AZURE_CHARACTERS

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        body = {"text": texts[0], "outputType": "FourSeverityLevels"}
        return _ask_azure(external, "text:analyze", body)

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        severities = [(each["category"], each["severity"]) for each in answer["categoriesAnalysis"]]
        return [[verdict(severity / _AZURE_MOST_SEVERITY, name) for name, severity in severities if severity]]


class GuardrailsServer:
    """A Guardrails AI server, `POST /guards/{name}/validate`. Setting: the guard's name."""

    most_texts, most_characters = 1, 50_000

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        path = f"/guards/{quote(external.setting, safe='')}/validate"
        return Asked(path, bearer(external), {"llmOutput": texts[0]})

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        passed = answer["validationPassed"] if "validationPassed" in answer else answer["validation_passed"]
        if flag(passed):
            return [[]]
        summaries = answer.get("validationSummaries") or answer.get("validation_summaries") or ()
        names = [each.get("validatorName") or each.get("validator_name") for each in summaries]
        return [[verdict(1.0, name) for name in names] or [Verdict(1.0, "flagged")]]


class OpenAIModeration:
    """A provider's moderation, `POST /moderations`. Setting: the model."""

    most_texts, most_characters = 32, 50_000

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        model = external.setting or "omni-moderation-latest"
        return Asked("/moderations", bearer(external), {"model": model, "input": list(texts)})

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        return [self._read_one(each) for each in _each(answer["results"], texts)]

    @staticmethod
    def _read_one(result: Mapping[str, Any]) -> list[Verdict]:
        if not flag(result["flagged"]):
            return []
        scores = result["category_scores"]
        found = [verdict(scores[name], name) for name, is_found in result["categories"].items() if is_found]
        return found or [Verdict(1.0, "flagged")]


class HttpClassifier:
    """Any classifier of the form in docs/reference/external-guards.md: `{"texts", "side"}` to its very address."""

    most_texts, most_characters = 32, 50_000

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """See base.Form."""
        return Asked("", bearer(external), {"texts": list(texts), "side": side})

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """See base.Form."""
        results = _each(answer["results"], texts)
        return [
            [verdict(each.get("score", 1.0), each.get("label"))] if flag(each["flagged"]) else []
            for each in results
        ]


def _ask_azure(external: External, operation: str, body: Any) -> Asked:
    headers = {} if external.credential is None else {"Ocp-Apim-Subscription-Key": external.credential}
    return Asked(f"/contentsafety/{operation}?api-version={_AZURE_VERSION}", headers, body)


def _each(results: Any, texts: Sequence[str]) -> list[Any]:
    if not isinstance(results, list) or len(results) != len(texts):
        raise ValueError("as many results as texts were expected")
    return results


FORMS: Mapping[str, Form] = {
    "lakera": Lakera(),
    "azure_shield": AzurePromptShields(),
    "azure_categories": AzureCategories(),
    "guardrails": GuardrailsServer(),
    "moderation": OpenAIModeration(),
    "http": HttpClassifier(),
}
