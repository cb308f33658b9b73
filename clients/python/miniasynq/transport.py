"""Calls over HTTP: kept-alive connections, JSON, problems as exceptions. Each call is tried once; who calls decides
whether to try again."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any, Mapping, Optional
from urllib.parse import urlsplit

from .errors import NoAnswer, problem_of

_CONNECT_TIMEOUT = 5.0
_PREFIX = "/api/v1"


class Connection:
    """One connection, for one thread. It opens itself when needed; only `abort` may be called by other threads."""

    def __init__(self, scheme: str, host: str, port: Optional[int]) -> None:
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self._http: http.client.HTTPConnection = kind(host, port)
        self._aborted = False

    def request(
        self, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the answer. `timeout` bounds each silence of the server, in seconds.

        Raises NoAnswer.
        """
        while True:
            kept = self._http.sock is not None
            try:
                self._open(timeout)
                self._http.request(method, path, body, dict(headers))
                response = self._http.getresponse()
                return response.status, response.headers, response.read()
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
                # ValueError and AttributeError are what a TLS socket says that another thread shut down.
                self._http.close()
                # The server may close a connection that nobody used for a while: that says nothing about the server.
                gone = isinstance(e, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
                if kept and gone and not self._aborted:
                    continue
                raise NoAnswer(f"{method} {path}: {e or type(e).__name__}") from e

    def _open(self, timeout: float) -> None:
        if self._http.sock is None:
            self._http.timeout = min(timeout, _CONNECT_TIMEOUT)
            self._http.connect()
        if self._aborted:  # looked at after connecting: abort finds either the socket or a caller that looks here
            raise ConnectionAbortedError("the call was given up")
        self._http.sock.settimeout(timeout)

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._http.close()

    def abort(self) -> None:
        """End the request that is under way, which raises NoAnswer, and refuse all later ones."""
        self._aborted = True
        sock = self._http.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed at the other end, which ends the request as well


class Transport:
    """Calls to one server, over one connection for each thread."""

    def __init__(self, server: str, api_key: Optional[str]) -> None:
        address = urlsplit(server)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"not the address of a server: {server!r}")
        self._address = (address.scheme, address.hostname, address.port)
        self._base = address.path.rstrip("/") + _PREFIX
        self._headers = {"Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._own = threading.local()

    def connection(self) -> Connection:
        """Return a new connection, for a call that another thread may abort."""
        return Connection(*self._address)

    def close(self) -> None:
        """Close the calling thread's connection; a later call opens it again."""
        own: Optional[Connection] = getattr(self._own, "connection", None)
        if own is not None:
            own.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout: float,
        key: Optional[str] = None,
        connection: Optional[Connection] = None,
    ) -> tuple[int, Any]:
        """Return status and document of a successful answer; the document is None if there is none.

        `path` comes after /api/v1, `key` goes into the header Idempotency-Key. Raises Problem, which NoAnswer is, and
        TypeError or ValueError for a body that is not JSON.
        """
        headers = dict(self._headers)
        raw = None
        if body is not None:
            raw = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        status, answered, content = (connection or self._thread_connection()).request(
            method, self._base + path, raw, headers, timeout
        )
        if status >= 300:
            raise problem_of(status, answered, content)
        try:
            return status, json.loads(content) if content else None
        except ValueError as e:
            raise NoAnswer(f"{method} {path}: the answer is not JSON") from e

    def _thread_connection(self) -> Connection:
        own: Optional[Connection] = getattr(self._own, "connection", None)
        if own is None:
            own = self._own.connection = self.connection()
        return own
