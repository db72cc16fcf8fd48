"""The servers' logs: one JSON object a line, with the documented fields and nothing that is secret."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway_site.home import BASE_DIR
from gateway_site.logs import JsonFormatter
from teams.keys import generate_key
from tests.factories import make_caller, wait_for_record
from tests.log_lines import ALWAYS, FIELDS, parse_log, unreadable_logs
from tests.processes import Processes, Product, Simulator, free_ports, wait_for
from tests.test_metrics import call


def test_a_line_of_a_failed_request_has_its_id_its_backend_and_no_secret(
    product: Product, simulator: Simulator
) -> None:
    caller = make_caller(simulator.base_url, product)
    answer = call(
        product,
        caller,
        simulator={"status": 500},
        user="a-person",
        messages=[{"role": "user", "content": "Private."}],
    )
    request_id = answer.headers["x-request-id"]
    wait_for_record(request_id)
    lines = wait_for(
        lambda: [line for line in parse_log(product.log) if line.get("request_id") == request_id], "the line"
    )
    (line,) = lines
    assert (line["level"], line["logger"], line["backend"]) == (
        "warning",
        "routing.views",
        caller.backend.name,
    )
    assert "backend_error" in line["message"]
    for secret in (caller.secret, "Private", "a-person"):
        assert secret not in json.dumps(line)


def test_every_line_of_the_web_process_and_the_shipper_can_be_read(
    processes: Processes, product: Product
) -> None:
    httpx.get(f"{product.url}/nothing")
    httpx.post(
        f"{product.base_url}/chat/completions",
        content=b"{",
        headers={"authorization": f"Bearer {generate_key()}"},
    )
    httpx.get(product.url, headers={"host": "elsewhere.example"})
    assert parse_log(product.log)
    for log in product.log.parent.glob("*.log"):
        if log.name.startswith(("web-", "shipper-")):
            parse_log(log)


def test_a_server_that_cannot_start_says_why_in_the_same_form(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool, (port,) = str(tmp_path / "file" / "spool"), free_ports(1)
    process, log = processes.start(
        "unstartable", "serve", "--port", str(port), environment={"GATEWAY_SPOOL_DIR": spool}
    )
    assert process.wait(20) != 0
    (line,) = [line for line in parse_log(log) if line["message"] == "The gateway cannot start."]
    assert "NotADirectoryError" in line["exception"]


def test_what_the_system_checks_find_is_a_line_too(processes: Processes, tmp_path: Path) -> None:
    for broken, status, expected in (
        (
            {"GATEWAY_METRICS_TOKEN": ""},
            None,
            "System check gateway_site.W002: GATEWAY_METRICS_TOKEN is not set",
        ),
        ({"GATEWAY_SECRET_KEY": "short"}, 1, "System check gateway_site.E004: GATEWAY_SECRET_KEY needs"),
    ):
        environment = {"GATEWAY_SPOOL_DIR": str(tmp_path), **broken}
        shipper, log = processes.start("checked", "ship", environment=environment)
        wait_for(lambda log=log: "System check" in log.read_text(), "the line")  # type: ignore[misc]
        if status is not None:
            assert shipper.wait(20) == status
            assert "must be mended first" in parse_log(log)[-1]["message"]
        shipper.terminate()
        shipper.wait(20)
        assert any(line["message"].startswith(expected) for line in parse_log(log))


def test_a_log_that_could_not_be_collected_is_noticed(tmp_path: Path) -> None:
    good = '{"time": "2026-11-25T00:00:00.000+00:00", "level": "info", "logger": "x", "message": "y"}'
    for bad in (
        "plain",
        "{}",
        good.replace("info", "loud"),
        good.replace('"message"', '"secret": 1, "message"'),
    ):
        (tmp_path / "web-0.log").write_text(f"{good}\n{bad}\n{good}\n")
        assert len(unreadable_logs(tmp_path)) == 1
    (tmp_path / "web-0.log").write_text(f'{good}\n{{"time": "cut off by kill -9')
    assert unreadable_logs(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [("worker", "--pool", "solo", "--without-mingle"), ("beat", "--schedule", "schedule")]
)
def test_celerys_worker_and_beat_write_the_same_form(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    log = tmp_path / "celery.log"
    command = [
        sys.executable,
        "-m",
        "celery",
        "--quiet",
        "-A",
        "gateway_site",
        *arguments,
        "--loglevel",
        "INFO",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(BASE_DIR)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "\n" in log.read_text(), "a line")
    finally:
        process.terminate()
        process.wait(20)
    assert parse_log(log)


@pytest.mark.parametrize("field", sorted(FIELDS - ALWAYS - {"exception"}))
def test_a_record_carries_the_fields_we_name_and_no_others(field: str) -> None:
    record = logging.makeLogRecord({"msg": "A %s.", "args": ("word",), "levelname": "INFO", "name": "x"})
    setattr(record, field, "value")
    record.authorization = "Bearer secret"
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "A word."
    assert set(line) == ALWAYS | {field}


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "p", 1, "Bad.", None, sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: two\nlines" in json.loads(text)["exception"]


def test_the_documented_fields_are_those_that_are_written() -> None:
    page = (BASE_DIR / "docs" / "reference" / "logs.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (yes|) ?\|", page, re.MULTILINE)
    documented = {name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)}
    assert documented == FIELDS
    assert {name for cell, always in rows if always for name in re.findall(r"`(\w+)`", cell)} == ALWAYS
