"""The providers' APIs by the names that backends choose them by: a new one is a row here, and in models.Provider."""

from collections.abc import Mapping

from routing.models import Provider
from routing.providers.anthropic import Anthropic
from routing.providers.api import Api
from routing.providers.azure import Azure
from routing.providers.openai import OpenAI

API: Mapping[str, Api] = {
    Provider.OPENAI.value: OpenAI(),
    Provider.AZURE.value: Azure(),
    Provider.ANTHROPIC.value: Anthropic(),
}
