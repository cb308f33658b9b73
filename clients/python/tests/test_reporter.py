"""How an outcome gets to the server, and what happens when it does not."""

import logging
import time
import unittest
from typing import Any

from fake_server import HANG_UP, Answer, FakeServer, Respond, claimed, in_turn, problem
from miniasynq import outcome
from miniasynq.leases import Lease
from miniasynq.reporter import Reporter
from miniasynq.running import RunningJob
from miniasynq.transport import Transport


class Reports(unittest.TestCase):
    def setUp(self) -> None:
        logging.getLogger("miniasynq").setLevel(logging.CRITICAL)

    def deliver(self, respond: Respond, report: outcome.Report, lasts: float = 10) -> list[Any]:
        """Return path and body of the calls that it took."""
        server = FakeServer(respond)
        self.addCleanup(server.close)
        transport = Transport(server.address, None)
        self.addCleanup(transport.close)
        self.lease = Lease(RunningJob(claimed(7), time.monotonic(), lambda: None), time.monotonic() + lasts)
        Reporter(transport).deliver(self.lease, report, timeout=2)
        return [(r.path, r.body) for r in server.requests]

    def test_states_the_fence(self) -> None:
        calls = self.deliver(in_turn(Answer(200, {})), outcome.completed(5))
        self.assertEqual(calls, [("/jobs/j7/complete", {"fence": 7, "result": 5})])

    def test_says_the_same_again(self) -> None:
        respond = in_turn(problem(500, "internal"), HANG_UP, problem(503, "unavailable"), Answer(200, {}))
        calls = self.deliver(respond, outcome.completed(5))
        self.assertEqual(calls, [("/jobs/j7/complete", {"fence": 7, "result": 5})] * 4)

    def test_forgets_what_is_lost(self) -> None:
        for answer in (problem(409, "lease_lost"), problem(404, "not_found")):
            self.assertEqual(len(self.deliver(in_turn(answer), outcome.completed(5))), 1)

    def test_reports_a_failure_instead_of_what_is_refused(self) -> None:
        for status in (400, 413, 422):
            calls = self.deliver(in_turn(problem(status, "refused"), Answer(200, {})), outcome.completed(5))
            self.assertEqual([path for path, _ in calls], ["/jobs/j7/complete", "/jobs/j7/fail"])
            self.assertEqual(calls[1][1]["error"]["type"], "ReportRefused")

    def test_does_not_go_on_for_ever_with_refusals(self) -> None:
        self.assertEqual(len(self.deliver(in_turn(problem(400, "refused")), outcome.completed(5))), 2)

    def test_reports_a_failure_instead_of_what_is_not_json(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        for result in ({1}, float("nan"), endless, object()):
            calls = self.deliver(in_turn(Answer(200, {})), outcome.completed(result))
            self.assertEqual([path for path, _ in calls], ["/jobs/j7/fail"])
            self.assertIn("not JSON", calls[0][1]["error"]["message"])

    def test_ends_with_the_lease(self) -> None:
        begun = time.monotonic()
        calls = self.deliver(in_turn(problem(503, "unavailable")), outcome.completed(5), lasts=0.3)
        self.assertGreater(len(calls), 1)
        self.assertLess(time.monotonic() - begun, 2)

    def test_ends_when_the_lease_is_lost(self) -> None:
        def lose(_: Any) -> Answer:
            self.lease.over.set()
            return problem(503, "unavailable")

        self.assertEqual(len(self.deliver(lose, outcome.completed(5))), 1)


if __name__ == "__main__":
    unittest.main()
