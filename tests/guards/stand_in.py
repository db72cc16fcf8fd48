"""A stand-in for external guards: it speaks each service's form, and flags what holds the word "attack"."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREDENTIAL = "lakera-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
WORD = "attack"


@dataclass
class StandIn:
    """What it was asked; how it answers: after `hangs_s`, with `status` instead of 200, or with `garbage`."""

    port: int
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    hangs_s: float = 0.0
    status: int = 200
    garbage: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def texts(self) -> list[str]:
        """All that it was asked about."""
        return [text for path, _, body in self.seen for text in texts_of(path, body)]


def texts_of(path: str, body: Any) -> list[str]:
    """Of one question."""
    if path == "/v2/guard":
        return [each["content"] for each in body["messages"]]
    if path.startswith("/contentsafety/"):
        return [body.get("userPrompt") or body["text"]]
    if path.startswith("/guards/"):
        return [str(body["llmOutput"])]
    return list(body["input"] if path.endswith("/moderations") else body["texts"])


def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
    """As the services' descriptions give it."""
    flags = [WORD in text for text in texts_of(path, body)]
    is_azure = path.startswith("/contentsafety/")
    sent = headers.get("ocp-apim-subscription-key" if is_azure else "authorization")
    if sent != (CREDENTIAL if is_azure else f"Bearer {CREDENTIAL}"):
        return 401, {"error": {"message": "no such key"}}
    match path.partition("?")[0]:
        case "/v2/guard":
            breakdown = [
                {"project_id": "p", "policy_id": "q", "detector_id": "d", "detector_type": "prompt_attack",
                 "detected": flags[0], "message_id": 0},
                {"project_id": "p", "policy_id": "q", "detector_id": "e", "detector_type": "moderated_content/hate",
                 "detected": False, "message_id": 0},
            ]  # fmt: skip
            told = {"payload": None, "flagged": flags[0], "metadata": {"request_uuid": "u"}}
            return 200, told | ({"breakdown": breakdown} if body.get("breakdown") else {})
        case "/contentsafety/text:shieldPrompt":
            return 200, {"userPromptAnalysis": {"attackDetected": flags[0]}, "documentsAnalysis": []}
        case "/contentsafety/text:analyze":
            names = ("Hate", "SelfHarm", "Sexual", "Violence")
            analysis = [{"category": name, "severity": 0} for name in names[:-1]]
            violence = {"category": names[-1], "severity": 4 if flags[0] else 0}
            return 200, {"blocklistsMatch": [], "categoriesAnalysis": [*analysis, violence]}
        case "/guards/my-guard/validate":
            failed = [
                {"validatorName": "DetectJailbreak", "validatorStatus": "fail", "failureReason": "because"}
            ]
            return 200, {
                "callId": "1", "rawLlmOutput": body["llmOutput"], "validatedOutput": body["llmOutput"],
                "validationPassed": not flags[0], "validationSummaries": failed if flags[0] else [],
            }  # fmt: skip
        case "/v1/moderations":
            results = [
                {"flagged": flag, "categories": {"violence": flag, "hate": False},
                 "category_scores": {"violence": 0.91 if flag else 0.02, "hate": 0.01}}
                for flag in flags
            ]  # fmt: skip
            return 200, {"id": "modr-1", "model": body["model"], "results": results}
        case "/classify":
            return 200, {"results": [{"flagged": flag, "score": 0.7, "label": "bad"} for flag in flags]}
    return 404, {}


@contextmanager
def standing_in(port: int) -> Iterator[StandIn]:
    """One that listens on `port` of the loopback."""
    stand_in = StandIn(port)

    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: a connection that rested would be one to the stand-in of an earlier test.
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(self.rfile.read(int(headers["content-length"])))
            stand_in.seen.append((self.path, headers, body))
            time.sleep(stand_in.hangs_s)
            status, told = answer(self.path, headers, body)
            status = status if stand_in.status == 200 else stand_in.status
            data = json.dumps(told).encode() if stand_in.garbage is None else stand_in.garbage
            self.send_response(status)
            for name, value in (stand_in.headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
