"""The first call: plain and streamed, priced in the ledger."""

import httpx

from tests.factories import make_caller, wait_for_record
from tests.processes import Product, Simulator


def test_a_plain_call_is_answered_and_priced(product: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, product)
    response = httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": caller.model, "messages": [{"role": "user", "content": "Say hello."}]},
    )
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.input_tokens, record.output_tokens) == (3, 16)
    assert record.cost_nanousd == 3 * 150 + 16 * 600
