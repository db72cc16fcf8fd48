"""`/metrics` of real workers: right over several of them and over `kill -9`, bounded, and not for everybody."""

import re
import signal
import timeit
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from billing.rule_models import Budget, Limit
from gateway_site.home import BASE_DIR
from gateway_site.version import VERSION
from routing.metric_names import ADMISSION_OUTCOMES, METRICS
from routing.metrics import Metrics
from routing.trace import Trace
from tests.factories import Caller, make_caller, unique
from tests.metrics import fetch_metrics, scrape
from tests.processes import Processes, Product, Simulator, wait_for

OUTCOMES = [str(outcome) for outcome in ADMISSION_OUTCOMES]


def call(product: Product, caller: Caller, model: str = "", **fields: object) -> httpx.Response:
    body = {"model": model or caller.model, "messages": [{"role": "user", "content": "Say hello."}], **fields}
    headers = {"Authorization": f"Bearer {caller.secret}"}
    return httpx.post(f"{product.base_url}/chat/completions", headers=headers, json=body)


@pytest.fixture
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


def test_a_request_is_counted_with_its_tokens_its_cost_and_its_times(
    product: Product, caller: Caller
) -> None:
    assert call(product, caller).status_code == 200
    assert call(product, caller, stream=True).status_code == 200
    now = scrape(product)
    mine = {"team": caller.team.slug, "model": caller.model}
    assert now.each("gateway_requests_total", **mine) == {
        tuple(
            sorted({**mine, "operation": "chat", "status": "completed", "code": "2xx", "reason": ""}.items())
        ): 2
    }
    assert now.sum("gateway_tokens_total", kind="plain_input", **mine) == 6
    assert now.sum("gateway_tokens_total", kind="output", **mine) == 32
    assert now.sum("gateway_cost_usd_total", **mine) == pytest.approx(2 * 10_050e-9, rel=1e-12)
    for name in ("gateway_request_duration_seconds", "gateway_time_to_first_byte_seconds"):
        assert now.sum(f"{name}_count", model=caller.model, streamed="true") == 1
        assert now.sum(f"{name}_count", model=caller.model, streamed="false") == 1
        assert now.sum(f"{name}_bucket", model=caller.model, le="+Inf") == 2
        assert 0 < now.sum(f"{name}_sum", model=caller.model) < 10
    assert now.sum("gateway_overhead_seconds_count", operation="chat") >= 2


def test_refusals_and_failures_are_counted_by_reason(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    assert call(product, caller, simulator={"status": 500}).status_code == 502
    assert call(product, caller, model="").status_code == 200
    before = scrape(product).sum("gateway_requests_total", reason="key_missing")
    assert httpx.get(f"{product.base_url}/models").status_code == 401
    now = scrape(product)
    assert now.sum("gateway_requests_total", reason="key_missing", team="_none", code="4xx") == before + 1
    failed = {"status": "failed", "code": "5xx", "reason": "backend_error"}
    assert now.sum("gateway_requests_total", model=caller.model, **failed) == 1
    assert now.sum("gateway_backend_errors_total", backend=caller.backend.name, reason="backend_error") == 1


def test_a_list_of_models_is_counted_although_it_is_no_ledger_entry(product: Product, caller: Caller) -> None:
    headers = {"Authorization": f"Bearer {caller.secret}"}
    assert httpx.get(f"{product.base_url}/models", headers=headers).status_code == 200
    now = scrape(product)
    assert (
        now.sum("gateway_requests_total", operation="models", team=caller.team.slug, status="completed") == 1
    )


def test_names_that_callers_invent_fold_into_one(product: Product, caller: Caller) -> None:
    invented = [unique("invented") for _ in range(5)]
    before = len(scrape(product).samples)
    for model in invented:
        assert call(product, caller, model=model).status_code == 404
    assert call(product, caller, user=invented[0]).status_code == 200
    text = fetch_metrics(product).text
    assert not any(model in text for model in invented)
    now = scrape(product)
    assert (
        now.sum("gateway_requests_total", team=caller.team.slug, model="_other", reason="model_unknown") == 5
    )
    assert len(now.samples) - before < 70  # of one new team and model, not of five


def test_streams_are_open_while_they_run(product: Product, caller: Caller) -> None:
    url, headers = f"{product.base_url}/chat/completions", {"Authorization": f"Bearer {caller.secret}"}
    body = {
        "model": caller.model,
        "stream": True,
        "messages": [{"role": "user", "content": "Say hello."}],
        "simulator": {"between_chunks_s": 0.2, "text": "alpha beta gamma delta epsilon zeta"},
    }
    with httpx.stream("POST", url, headers=headers, json=body) as stream:
        pieces = stream.iter_raw()
        assert b"chunk" in next(pieces)
        now = scrape(product)
        assert now.sum("gateway_open_streams") >= 1
        assert now.sum("gateway_requests_in_flight") >= 1
        assert b"[DONE]" in b"".join(pieces)
    wait_for(lambda: scrape(product).sum("gateway_open_streams") == 0, "the stream to be closed")


@pytest.mark.slow
def test_any_worker_gives_the_sum_and_a_killed_one_takes_nothing_back(
    processes: Processes, simulator: Simulator, tmp_path: Path
) -> None:
    spool: dict[str, Any] = {"GATEWAY_SPOOL_DIR": str(tmp_path / "spool")}
    first = processes.start_product(**spool)
    second = processes.start_product(with_shipper=False, **spool)
    caller = make_caller(simulator.base_url, first)
    second.wait_for_configuration()
    mine = {"team": caller.team.slug, "status": "completed"}
    for product, times in ((first, 3), (second, 2)):
        for _ in range(times):
            assert call(product, caller).status_code == 200
    for product in (first, second):
        now = scrape(product)
        assert now.sum("gateway_requests_total", **mine) == 5
        assert now.sum("gateway_request_duration_seconds_count", model=caller.model) == 5
        assert {dict(labels)["worker"] for labels in now.each("gateway_open_streams")} == {"0", "1"}
        assert len(now.each("process_resident_memory_bytes")) == 2

    first.web.send_signal(signal.SIGKILL)
    first.web.wait()
    now = scrape(second)
    assert now.sum("gateway_requests_total", **mine) == 5
    assert {dict(labels)["worker"] for labels in now.each("gateway_open_streams")} == {"1"}
    assert {dict(labels)["worker"] for labels in now.each("process_cpu_seconds_total")} == {"1"}

    heir = processes.start_product(with_shipper=False, **spool)
    heir.wait_for_configuration()
    assert call(heir, caller).status_code == 200
    for product in (second, heir):
        assert scrape(product).sum("gateway_requests_total", **mine) == 6
    assert len(list((tmp_path / "spool" / "metrics").iterdir())) == 2


def test_the_token_opens_metrics_and_nothing_else_does(product: Product, caller: Caller) -> None:
    answer = fetch_metrics(product)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    for wrong in ("", "Bearer", "Bearer wrong", "Basic Og==", f"Bearer {caller.secret}", "Bearer \xe9"):
        refused = httpx.get(f"{product.url}/metrics", headers={b"authorization": wrong.encode("latin-1")})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "gateway_" not in refused.text
    assert httpx.post(f"{product.url}/metrics").status_code == 405
    assert fetch_metrics(product).text.count("# TYPE") > len(METRICS)
    head = httpx.head(f"{product.url}/metrics", headers=answer.request.headers)
    assert (head.status_code, head.content) == (200, b"")


def test_without_a_token_there_are_no_metrics(processes: Processes, tmp_path: Path) -> None:
    product = processes.start_product(
        with_shipper=False, GATEWAY_METRICS_TOKEN="", GATEWAY_SPOOL_DIR=str(tmp_path)
    )
    for header in ("", "Bearer", "Bearer x"):
        assert httpx.get(f"{product.url}/metrics", headers={"authorization": header}).status_code == 404


def test_openmetrics_is_given_to_who_asks_for_it(product: Product) -> None:
    answer = fetch_metrics(product, accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_the_host_the_shipper_and_the_build_are_among_them(product: Product, caller: Caller) -> None:
    call(product, caller)
    wait_for(lambda: scrape(product).sum("gateway_shipped_records_total") > 0, "the shipper's word")
    now = scrape(product)
    assert now.sum("gateway_build_info", version=VERSION) == 1
    assert now.sum("gateway_shipper_up") == 1
    assert now.sum("gateway_spool_bytes") >= 64 * 1024**2
    assert now.sum("gateway_spool_max_bytes") == settings.GATEWAY_SPOOL_MAX_BYTES
    assert now.sum("gateway_configuration_version") >= 1
    assert now.sum("gateway_degraded", code="database_away") == 0
    assert now.sum("gateway_key_cache_misses_total") >= 1
    assert now.sum("gateway_event_loop_lag_seconds_count") >= 1


def test_the_version_is_the_projects() -> None:
    project = (BASE_DIR / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE).group(1) == VERSION  # type: ignore[union-attr]


@pytest.mark.slow
def test_calls_under_rules_are_counted_by_what_became_of_them(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    before = scrape(product)

    def risen(name: str, **labels: str) -> float:
        return scrape(product).sum(name, **labels) - before.sum(name, **labels)

    assert call(product, caller).status_code == 200
    assert risen("gateway_admissions_total") == 0, "no rule applies"
    Budget.objects.create(team=caller.team, unit="tokens", period="month", amount=10**6)
    Limit.objects.create(api_key=caller.key, kind="rpm", amount=2)
    product.wait_for_configuration()
    assert [call(product, caller).status_code for _ in range(3)] == [200, 200, 429]
    Budget.objects.filter(team=caller.team).update(amount=1)
    product.wait_for_configuration()
    assert call(product, caller).headers["x-gateway-reason"] == "budget_spent"
    counted = {outcome: risen("gateway_admissions_total", outcome=outcome) for outcome in OUTCOMES}
    assert counted == dict.fromkeys(OUTCOMES, 0) | {"admitted": 2, "rate": 1, "hard": 1}
    assert risen("gateway_counters_call_seconds_count") >= 4
    now = scrape(product)
    assert now.sum("gateway_counters_connected") == 1
    wait_for(lambda: scrape(product).sum("gateway_counters_unbooked_ends") == 0, "ends to be booked")
    wait_for(lambda: scrape(product).sum("gateway_counters_closed_departments") == 0, "open counters")
    wait_for(lambda: scrape(product).each("gateway_keeper_last_turn_timestamp_seconds"), "the keeper's word")
    now = scrape(product)
    assert now.sum("gateway_store_memory_bytes") > 0
    for name in (
        "gateway_keeper_waiting_spools",
        "gateway_counters_copies_bytes",
        "gateway_keeper_ended_holds_total",
    ):
        assert now.each(name), name


def test_counting_an_admission_costs_less_than_three_microseconds(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)

    def count() -> None:
        metrics.count_admission("admitted")
        metrics.observe_store_call(0.000_3)
        metrics.observe_store_call(0.000_2)

    assert min(timeit.repeat(count, number=2000, repeat=5)) / 2000 < 3e-6


def test_counting_a_request_costs_less_than_ten_microseconds(tmp_path: Path) -> None:
    metrics, entry = Metrics(tmp_path), Trace("chat").to_entry()
    entry.attempts, entry.backend, entry.model, entry.first_byte_ms, entry.overhead_us = 1, "b", "m", 3, 250
    models = {"m": 1}
    seconds = min(timeit.repeat(lambda: metrics.count(entry, models), number=2000, repeat=5)) / 2000
    assert seconds < 10e-6
