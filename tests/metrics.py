"""Reads `/metrics` as Prometheus does."""

import os
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Product


class Scrape:
    """One answer of `/metrics`."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` with these labels, as PromQL's."""
        return sum(self.each(name, **labels).values())

    def each(self, name: str, **labels: str) -> Mapping[tuple[tuple[str, str], ...], float]:
        """The series of `name` with these labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }


def fetch_metrics(product: Product, **headers: str) -> httpx.Response:
    """The answer to who has the token, unless told otherwise."""
    given = {"authorization": f"Bearer {os.environ['GATEWAY_METRICS_TOKEN']}"} | headers
    return httpx.get(f"{product.url}/metrics", headers=given)


def scrape(product: Product) -> Scrape:
    """What a worker says now."""
    response = fetch_metrics(product)
    assert response.status_code == 200, response.text
    return Scrape(response.text)
