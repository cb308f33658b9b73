"""What is reported of how a handler ended."""

import unittest
from datetime import timedelta
from typing import Any, Optional

from miniasynq import Cancelled, CancelJob, NonRetryable, RetryAfter, Snooze, ValidationFailed, outcome
from miniasynq.outcome import Report


class Boom(Exception):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def of(error: BaseException, cause: Optional[str] = None) -> Report:
    try:
        raise error
    except BaseException as e:
        return outcome.raised(e, cause)


class Outcomes(unittest.TestCase):
    def fails(self, report: Report, kind: str, message: str, **retry: Any) -> None:
        self.assertEqual(report.verb, "fail")
        error = report.body["error"]
        self.assertEqual((error["type"], error["message"]), (kind, message))
        self.assertEqual({k: v for k, v in report.body.items() if k != "error"}, retry)

    def test_a_value_completes(self) -> None:
        self.assertEqual(outcome.completed({"a": 1}), Report("complete", {"result": {"a": 1}}))
        self.assertEqual(outcome.completed(0), Report("complete", {"result": 0}))
        self.assertEqual(outcome.completed(None), Report("complete"))

    def test_an_exception_fails(self) -> None:
        report = of(Boom("bad"))
        self.fails(report, "Boom", "bad", retry="default")
        self.assertIn("Boom: bad", report.body["error"]["stack"])
        self.fails(of(SystemExit(1)), "SystemExit", "1", retry="default")

    def test_an_exception_without_a_text_fails_too(self) -> None:
        self.fails(of(Mute()), "Mute", "", retry="default")

    def test_long_texts_are_cut(self) -> None:
        error = of(Boom("x" * 1_000_000)).body["error"]
        self.assertLess(len(error["message"]) + len(error["stack"]), 100_000)

    def test_endings_say_how_to_go_on(self) -> None:
        self.fails(of(NonRetryable("no")), "NonRetryable", "no", retry="never")
        self.fails(of(CancelJob("no")), "CancelJob", "no", retry="cancel")
        self.fails(of(RetryAfter(1.5, "no")), "RetryAfter", "no", retry="after", retry_after="1500ms")
        self.assertEqual(of(Snooze(timedelta(seconds=2))), Report("snooze", {"delay": "2000ms"}))

    def test_endings_carry_another_exception(self) -> None:
        self.fails(of(NonRetryable(Boom("bad"))), "Boom", "bad", retry="never")
        try:
            raise CancelJob("own words") from Boom("bad")
        except CancelJob as e:
            report = outcome.raised(e)
        self.fails(report, "Boom", "own words", retry="cancel")
        self.assertIn("Boom: bad", report.body["error"]["stack"])

    def test_spans_are_checked_where_they_are_given(self) -> None:
        for seconds in (-1, float("nan"), float("inf")):
            with self.assertRaises(ValueError):
                Snooze(seconds)
            with self.assertRaises(ValueError):
                RetryAfter(seconds)

    def test_obeying_depends_on_the_cause(self) -> None:
        self.fails(of(Cancelled("operator"), outcome.OPERATOR), "Cancelled", "operator", retry="default")
        self.assertEqual(of(Cancelled(), outcome.STOPPING), outcome.RELEASE)
        timed_out = of(Cancelled(), outcome.TIMED_OUT)
        self.fails(timed_out, "TimeoutError", "the attempt took longer than its timeout", retry="default")
        self.fails(of(Boom("bad"), outcome.STOPPING), "Boom", "bad", retry="default")

    def test_a_refusal_becomes_a_failure(self) -> None:
        report = outcome.refused(ValidationFailed(413, "payload_too_large", "too large"))
        self.fails(report, "ReportRefused", "payload_too_large (413): too large", retry="default")


if __name__ == "__main__":
    unittest.main()
