"""The worker against a server that is played by the test."""

import logging
import queue
import threading
import unittest
from typing import Any, Callable, Optional

from fake_server import DEADLINE, HANG_UP, Answer, FakeServer, Request, claimed, problem
from miniasynq import Cancelled, NotAllowed, RunningJob, Worker
from miniasynq.leases import Lease


class Playing(unittest.TestCase):
    """A server that parks claims until the test gives it something to hand out."""

    def setUp(self) -> None:
        logging.getLogger("miniasynq").setLevel(logging.CRITICAL)
        self.claims: "queue.SimpleQueue[Answer]" = queue.SimpleQueue()
        self.beat: Callable[[list[dict[str, Any]]], Answer] = self.confirm
        self.commands: list[dict[str, Any]] = []
        self.remaining = "30s"
        self.lease, self.every = "30s", "20ms"
        self.registrations = 0
        self.refusal: Optional[Answer] = None
        self.server = FakeServer(self.respond)
        self.addCleanup(self.server.close)
        self.addCleanup(self.hand_out)  # lets a parked call go
        self.worker = Worker(self.server.address, name="w", slots=2, grace=DEADLINE)
        self.causes: "queue.SimpleQueue[Optional[str]]" = queue.SimpleQueue()
        self.release = threading.Event()

        @self.worker.handler("k")
        def handle(job: RunningJob) -> str:
            return "done"

        @self.worker.handler("park")
        def park(job: RunningJob) -> None:
            job.cancelled.wait(DEADLINE)
            self.causes.put(job.cancelled.cause)
            job.check()

        @self.worker.handler("deaf")
        def deaf(job: RunningJob) -> None:
            job.progress(50, "half")
            self.release.wait(DEADLINE)

    def respond(self, request: Request) -> Answer:
        if request.path == "/workers":
            if self.refusal is not None:
                return self.refusal
            self.registrations += 1
            return Answer(201, {"id": f"w{self.registrations}", "lease": self.lease, "heartbeat_every": self.every})
        if request.path.endswith("/claim"):
            return self.claims.get()
        if request.path.endswith("/heartbeat"):
            return self.beat(request.body["leases"])
        return Answer(204) if request.method == "DELETE" else Answer(200, {})

    def confirm(self, leases: list[dict[str, Any]]) -> Answer:
        lines = [{"job_id": x["job_id"], "fence": x["fence"], "remaining": self.remaining} for x in leases]
        return Answer(200, {"leases": lines, "commands": self.commands})

    def hand_out(self, *jobs: dict[str, Any], commands: Any = ()) -> None:
        self.claims.put(Answer(200, {"jobs": jobs, "commands": commands}))

    def start(self) -> None:
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.thread.start()
        self.server.wait_for_call("POST", "/claim")

    def end(self) -> None:
        self.thread.join(DEADLINE)
        self.assertFalse(self.thread.is_alive())
        self.server.wait_for_call("DELETE", f"/workers/w{self.registrations}")

    def paths(self) -> list[str]:
        return [r.path for r in self.server.requests]


class Working(Playing):
    def test_runs_what_it_claims(self) -> None:
        self.start()
        registration = self.server.wait_for_call("POST", "/workers").body
        self.assertEqual((registration["kinds"], registration["slots"]), (["k", "park", "deaf"], 2))
        self.hand_out(claimed(1), claimed(2))
        for id in ("j1", "j2"):
            self.assertEqual(self.server.wait_for_call("POST", f"/jobs/{id}/complete").body["result"], "done")
        self.worker.stop()
        self.end()

    def test_claims_as_many_as_are_idle(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"))
        self.assertEqual(self.server.wait_for_call("POST", "/claim", 1).body["max"], 2)
        self.assertEqual(self.server.wait_for_call("POST", "/claim", 2).body["max"], 1)

        def busy(asked: list[Request]) -> list[int]:
            return [r.body["busy"] for r in asked if r.path.endswith("/heartbeat")]

        self.server.wait_for(lambda asked: 1 in busy(asked))
        self.release.set()
        self.server.wait_for(lambda asked: busy(asked)[-1] == 0)
        self.hand_out()
        self.assertEqual(self.server.wait_for_call("POST", "/claim", 3).body["max"], 2)
        self.worker.stop()
        self.end()

    def test_heartbeats_name_all_leases_and_progress(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"), claimed(2, kind="deaf"))

        def both(requests: list[Request]) -> bool:
            beats = [r.body["leases"] for r in requests if r.path.endswith("/heartbeat")]
            told = {x["fence"] for leases in beats for x in leases if "progress" in x}
            told |= {r.body["fence"] for r in requests if r.path.endswith("/progress")}
            return {1, 2} in [{x["fence"] for x in leases} for leases in beats] and told == {1, 2}

        self.server.wait_for(both)
        self.release.set()
        self.worker.stop()
        self.end()

    def test_registers_again_when_it_is_gone(self) -> None:
        self.start()
        self.claims.put(problem(404, "not_found"))
        self.server.wait_for_call("POST", "/workers/w2/claim")
        self.worker.stop()
        self.end()

    def test_goes_on_after_trouble(self) -> None:
        self.start()
        for answer in (HANG_UP, problem(503, "draining"), Answer(200, {"strange": True})):
            self.claims.put(answer)
        self.hand_out(claimed(1))
        self.server.wait_for_call("POST", "/jobs/j1/complete")
        self.worker.stop()
        self.end()

    def test_a_refused_registration_is_raised(self) -> None:
        self.refusal = problem(401, "unauthorized")
        with self.assertRaises(NotAllowed):
            self.worker.run()

    def test_waits_for_the_server_to_come(self) -> None:
        self.refusal = problem(503, "unavailable")
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.thread.start()
        self.server.wait_for_call("POST", "/workers", 2)
        self.refusal = None
        self.server.wait_for_call("POST", "/claim")
        self.worker.stop()
        self.end()


class Losing(Playing):
    def test_a_lost_lease_stops_the_handler_and_drops_its_outcome(self) -> None:
        self.beat = lambda leases: Answer(200, {"leases": [{**x, "lost": True} for x in leases], "commands": []})
        self.start()
        self.hand_out(claimed(1, kind="park"))
        self.assertEqual(self.causes.get(timeout=DEADLINE), "lease lost")
        self.worker.stop()
        self.end()
        self.assertFalse([p for p in self.paths() if p.startswith("/jobs/j1/")])

    def test_a_lease_that_cannot_be_confirmed_is_lost(self) -> None:
        self.beat = lambda leases: HANG_UP
        self.lease = "300ms"
        self.start()
        self.hand_out(claimed(1, kind="park", lease="300ms"))
        self.assertEqual(self.causes.get(timeout=DEADLINE), "lease lost")
        self.worker.stop()
        self.end()
        self.assertFalse([p for p in self.paths() if p.startswith("/jobs/j1/")])

    def test_a_confirmed_lease_outlasts_its_first_end(self) -> None:
        self.lease = self.remaining = "300ms"
        self.start()
        self.hand_out(claimed(1, kind="deaf", lease="300ms"))
        beats = [self.server.wait_for_call("POST", "/heartbeat", n) for n in range(1, 40)]
        self.assertEqual(beats[-1].body["leases"][0]["fence"], 1)
        self.release.set()
        self.server.wait_for_call("POST", "/jobs/j1/complete")
        self.worker.stop()
        self.end()

    def test_the_timeout_is_reported(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="park", timeout="50ms"))
        self.assertEqual(self.server.wait_for_call("POST", "/jobs/j1/fail").body["error"]["type"], "TimeoutError")
        self.worker.stop()
        self.end()


class Obeying(Playing):
    def test_cancel(self) -> None:
        self.start()
        self.commands = [{"type": "cancel", "job_id": "j1", "fence": 1, "reason": "operator"}, {"type": "dance"}]
        self.hand_out(claimed(1, kind="park"))
        self.assertEqual(self.causes.get(timeout=DEADLINE), "operator")
        self.assertEqual(self.server.wait_for_call("POST", "/jobs/j1/fail").body["error"]["type"], "Cancelled")
        self.worker.stop()
        self.end()

    def test_quiet(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"), commands=[{"type": "quiet"}])
        self.server.wait_for_call("POST", "/heartbeat", 3)
        self.release.set()
        self.server.wait_for_call("POST", "/jobs/j1/complete")
        self.assertTrue(self.thread.is_alive())
        self.worker.stop()
        self.end()
        self.assertEqual(len([p for p in self.paths() if p.endswith("/claim")]), 1)

    def test_drain_lets_handlers_end(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"), commands=[{"type": "drain"}])
        self.server.wait_for_call("POST", "/heartbeat", 3)
        self.release.set()
        self.end()
        reports = [p for p in self.paths() if not p.endswith(("/heartbeat", "/progress"))]
        self.assertEqual(reports[-2:], ["/jobs/j1/complete", "/workers/w1"])


class Stopping(Playing):
    def test_lets_handlers_end(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"))
        self.server.wait_for_call("POST", "/claim", 2)
        self.worker.stop()
        self.release.set()
        self.end()
        self.assertIn("/jobs/j1/complete", self.paths())

    def test_gives_back_what_obeys(self) -> None:
        self.worker.grace = 0
        self.start()
        self.hand_out(claimed(1, kind="park"))
        self.server.wait_for_call("POST", "/claim", 2)
        self.worker.stop()
        self.end()
        self.assertEqual(self.causes.get(timeout=DEADLINE), "worker stops")
        self.assertIn("/jobs/j1/release", self.paths())

    def test_gives_back_what_does_not_end(self) -> None:
        self.start()
        self.hand_out(claimed(1, kind="deaf"))
        self.server.wait_for_call("POST", "/claim", 2)
        self.worker.stop()
        self.worker.stop()  # ends the grace
        self.end()
        outcomes = self.server.wait_for_call("POST", "/outcomes").body["outcomes"]
        self.assertEqual(outcomes, [{"job_id": "j1", "fence": 1, "outcome": "release"}])

    def test_gives_back_what_comes_too_late(self) -> None:
        self.start()
        self.worker._stop_claiming()  # the claim is answered at the same moment
        self.worker._take(Lease(RunningJob(claimed(1), 0, lambda: None), float("inf")))
        self.worker.client.close()
        self.server.wait_for_call("POST", "/jobs/j1/release")
        self.worker.stop()
        self.end()

    def test_before_the_server_was_there(self) -> None:
        self.refusal = problem(503, "unavailable")
        self.worker.stop()
        self.worker.run()
        self.assertFalse(self.worker.registered.is_set())


class Handlers(unittest.TestCase):
    def test_are_needed_and_one_for_each_kind(self) -> None:
        worker = Worker("http://127.0.0.1:9")
        with self.assertRaises(ValueError):
            worker.run()
        worker.handler("k")(print)
        with self.assertRaises(ValueError):
            worker.handler("k")(print)

    def test_see_their_cancellation(self) -> None:
        job = RunningJob(claimed(1), 0, lambda: None)
        job.check()
        job.cancelled.cancel("operator")
        with self.assertRaises(Cancelled):
            job.check()


if __name__ == "__main__":
    unittest.main()
