"""Spans, pauses, problems: what needs no server."""

import json
import unittest
from datetime import timedelta

from miniasynq import errors
from miniasynq.backoff import Backoff
from miniasynq.errors import problem_of
from miniasynq.spans import seconds_of, span


class Spans(unittest.TestCase):
    def test_reads_what_the_server_writes(self) -> None:
        for text, seconds in {
            "30s": 30, "29.9s": 29.9, "250ms": 0.25, "1h30m": 5400, "7d": 604800, "0s": 0,
            "1m0.5s": 60.5, "10µs": 1e-5,
        }.items():  # fmt: skip
            self.assertAlmostEqual(seconds_of(text), seconds, msg=text)

    def test_refuses_what_is_none(self) -> None:
        for text in ("", "30", "s", "1x", "1s ", "-1s"):
            with self.assertRaises(ValueError, msg=text):
                seconds_of(text)

    def test_writes_milliseconds(self) -> None:
        self.assertEqual(span(1.5), "1500ms")
        self.assertEqual(span(timedelta(minutes=1)), "60000ms")
        with self.assertRaises((ValueError, OverflowError)):
            span(float("inf"))


class Pauses(unittest.TestCase):
    def test_double_up_to_the_cap(self) -> None:
        backoff = Backoff(1, 4)
        for whole in (1, 2, 4, 4):
            pause = backoff.pause()
            self.assertTrue(whole / 2 <= pause <= whole, pause)
        backoff.reset()
        self.assertLessEqual(backoff.pause(), 1)

    def test_respect_retry_after_up_to_the_cap(self) -> None:
        def asks(seconds: float) -> errors.Problem:
            return errors.TooManyRequests(429, "rate_limited", "", retry_after=seconds)

        self.assertEqual(Backoff(0.1, 5).pause(asks(3)), 3)
        self.assertEqual(Backoff(0.1, 5).pause(asks(60)), 5)


class Problems(unittest.TestCase):
    def test_have_a_class_each(self) -> None:
        for status, code, kind in (
            (409, "lease_lost", errors.LeaseLost),
            (409, "result_unavailable", errors.ResultUnavailable),
            (409, "invalid_transition", errors.Problem),
            (404, "not_found", errors.NotFound),
            (400, "malformed_request", errors.ValidationFailed),
            (413, "payload_too_large", errors.ValidationFailed),
            (422, "validation_failed", errors.ValidationFailed),
            (422, "idempotency_reused", errors.IdempotencyKeyReused),
            (401, "unauthorized", errors.NotAllowed),
            (429, "queue_full", errors.TooManyRequests),
            (503, "draining", errors.Unavailable),
            (500, "internal", errors.Problem),
        ):
            made = problem_of(status, {}, json.dumps({"code": code, "detail": "why"}).encode())
            self.assertIs(type(made), kind, code)
            self.assertEqual((made.status, made.code, made.detail), (status, code, "why"))

    def test_say_what_the_server_said(self) -> None:
        fault = {"pointer": "/queue", "code": "invalid_name", "detail": "not a name"}
        body = {"code": "validation_failed", "detail": "one fault", "errors": [fault], "request_id": "r", "limit": 5}
        made = problem_of(422, {"Retry-After": "2"}, json.dumps(body).encode())
        self.assertEqual(made.errors, [fault])
        self.assertEqual((made.request_id, made.retry_after, made.members["limit"]), ("r", 2.0, 5))
        self.assertIn("/queue: not a name", str(made))

    def test_of_a_proxy_are_judged_by_their_status(self) -> None:
        made = problem_of(502, {"Retry-After": "Wed, 21 Oct 2030 07:28:00 GMT"}, b"<html>")
        self.assertIsInstance(made, errors.Unavailable)
        self.assertEqual((made.code, made.retry_after), ("http_502", None))


if __name__ == "__main__":
    unittest.main()
