"""The how-to's alert and dashboard expressions name only metrics and labels that a worker really gives."""

import re

from gateway_site.home import BASE_DIR
from teams.models import Team
from tests.factories import make_caller, make_limit
from tests.metrics import Scrape, scrape
from tests.processes import Product, Simulator, wait_for
from tests.test_metrics import call

_METRIC = re.compile(r"\b((?:gateway|process)_[a-z_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([a-z_, ]+)\) \((?:rate|increase)\((\w+)")


def labels_of(now: Scrape, name: str) -> set[str]:
    return {label for sample in now.samples if sample.name == name for label in sample.labels}


def _has_waited(product: Product) -> bool:
    return bool(scrape(product).each("gateway_queue_wait_seconds_bucket"))


def test_every_expression_of_the_guide_names_what_exists(product: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, product)
    call(product, caller)
    call(product, caller, simulator={"status": 500})
    Team.objects.filter(pk=caller.team.pk).update(max_queue_s=1)
    make_limit(team=caller.team, amount=1)
    product.wait_for_configuration()
    assert [call(product, caller).status_code for _ in range(2)] == [200, 429]  # room would come too late
    # The team's wish to wait reaches the gateway by another way than the limit.
    wait_for(lambda: call(product, caller) and _has_waited(product), "a call that wanted to wait")
    now = scrape(product)
    expressions = "\n".join(
        line
        for line in (BASE_DIR / "docs" / "how-to" / "monitor.md").read_text().splitlines()
        if "gateway_" in line and "job_name" not in line
    )
    named = _METRIC.findall(expressions)
    assert len(named) > 20
    for name, matchers in named:
        assert labels_of(now, name) or now.each(name), f"{name} does not exist"
        asked = {matcher.partition("=")[0].strip() for matcher in matchers.split(",") if matcher}
        assert asked <= labels_of(now, name), f"{name} has no label {asked}"
    for labels, name in _BY.findall(expressions):
        assert {label.strip() for label in labels.split(",")} <= labels_of(now, name), (name, labels)
