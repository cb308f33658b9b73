"""A server on loopback that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping, Optional

DEADLINE = 5.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # after /api/v1
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


HANG_UP = Answer(0)
"""Close the connection instead of answering."""

Respond = Callable[[Request], Answer]


def problem(status: int, code: str, **more: Any) -> Answer:
    return Answer(status, {"status": status, "code": code, "detail": f"it is {code}", **more})


class FakeServer:
    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.connections = 0
        self._changed = threading.Condition()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        # How quickly shutdown is noticed; the default makes each test half a second longer.
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def wait_for(self, wanted: Callable[[list[Request]], Any]) -> Any:
        """Return what wanted finds in the requests, once that is something."""
        found: Any = None

        def look() -> bool:
            nonlocal found
            found = wanted(self.requests)
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, DEADLINE):
                raise AssertionError(f"not asked within {DEADLINE} s; asked: {self.requests}")
        return found

    def wait_for_call(self, method: str, ending: str, number: int = 1) -> Request:
        """Return the call of that number whose path ends so."""

        def nth(requests: list[Request]) -> Optional[Request]:
            calls = [r for r in requests if r.method == method and r.path.endswith(ending)]
            return calls[number - 1] if len(calls) >= number else None

        call: Request = self.wait_for(nth)
        return call

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with fake._changed:
                    fake.connections += 1

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(
                    self.command, self.path[len("/api/v1") :], json.loads(raw) if raw else None, self.headers
                )
                with fake._changed:
                    fake.requests.append(request)
                    fake._changed.notify_all()
                answer = fake.respond(request)
                if answer.status == 0:
                    self.close_connection = True
                    return
                content = b"" if answer.body is None else json.dumps(answer.body).encode()
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # a claim that was given up

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def in_turn(*answers: Answer) -> Respond:
    """Give one answer after the other; the last one for ever."""
    left = list(answers)

    def respond(_: Request) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    return respond


def job(status: str = "pending", **more: Any) -> dict[str, Any]:
    return {
        "id": "j1",
        "queue": "default",
        "kind": "k",
        "status": status,
        "priority": "normal",
        "attempt": 0,
        "attempts_left": 4,
        "max_retries": 3,
        "snoozes": 0,
        "finished_at": "2030-01-02T03:04:05.678901Z" if status in ("completed", "dead", "cancelled") else None,
        **more,
    }


def claimed(fence: int = 7, lease: str = "30s", timeout: str = "30m", **more: Any) -> dict[str, Any]:
    return {
        "id": f"j{fence}",
        "queue": "default",
        "kind": "k",
        "payload": {},
        "attempt": 1,
        "attempts_left": 3,
        "snoozes": 0,
        "timeout": timeout,
        "fence": fence,
        "lease_remaining": lease,
        **more,
    }
