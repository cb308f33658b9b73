"""The client's calls, and when they are repeated."""

import json
import unittest
from datetime import datetime, timedelta, timezone

from fake_server import HANG_UP, Answer, FakeServer, Respond, in_turn, job, problem
from miniasynq import Client, JobNotFinished, NewJob, NoAnswer, Problem, Unavailable, ValidationFailed


class Calls(unittest.TestCase):
    def serve(self, respond: Respond, retry_for: float = 5.0) -> Client:
        self.server = FakeServer(respond)
        self.addCleanup(self.server.close)
        client = Client(self.server.address, "secret", timeout=2, retry_for=retry_for)
        self.addCleanup(client.close)
        return client

    def test_enqueue_says_what_it_was_given(self) -> None:
        client = self.serve(in_turn(Answer(201, job(run_at="2030-01-02T03:04:05Z", timeout="1m30s"))))
        stored = client.enqueue(
            "k",
            {"a": 1},
            queue="q",
            delay=1.5,
            timeout=timedelta(seconds=9),
            run_at=datetime(2030, 1, 2, 4, tzinfo=timezone(timedelta(hours=1))),
            tags=("t",),
        )
        self.assertEqual((stored.id, stored.timeout), ("j1", 90))
        self.assertEqual(stored.run_at, datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc))
        request = self.server.requests[0]
        self.assertEqual(
            request.body,
            {"kind": "k", "payload": {"a": 1}, "queue": "q", "delay": "1500ms", "timeout": "9000ms",
             "run_at": "2030-01-02T03:00:00Z", "tags": ["t"]},
        )  # fmt: skip
        self.assertEqual(request.headers["Authorization"], "Bearer secret")

    def test_a_repeat_has_the_same_key(self) -> None:
        client = self.serve(in_turn(problem(503, "commit_unknown"), HANG_UP, Answer(201, job())))
        client.enqueue("k")
        keys = {r.headers["Idempotency-Key"] for r in self.server.requests}
        self.assertEqual((len(self.server.requests), len(keys)), (3, 1))
        client.enqueue("k")
        self.assertNotIn(self.server.requests[-1].headers["Idempotency-Key"], keys)

    def test_a_key_of_the_caller_takes_its_place(self) -> None:
        client = self.serve(in_turn(Answer(201, job())))
        client.enqueue("k", idempotency_key="größe 1")
        self.assertEqual(self.server.requests[0].body["idempotency_key"], "größe 1")
        self.assertNotIn("Idempotency-Key", self.server.requests[0].headers)

    def test_what_passes_is_repeated(self) -> None:
        first = Answer(429, json.loads('{"code": "queue_full"}'), {"Retry-After": "0"})
        client = self.serve(
            in_turn(first, problem(409, "idempotency_in_flight"), problem(502, "bad"), Answer(200, job()))
        )
        self.assertEqual(client.get("j1").status, "pending")
        self.assertEqual(len(self.server.requests), 4)

    def test_what_does_not_pass_is_not(self) -> None:
        client = self.serve(in_turn(problem(422, "validation_failed"), problem(500, "internal")))
        with self.assertRaises(ValidationFailed):
            client.enqueue("k")
        with self.assertRaises(Problem):
            client.enqueue("k")
        self.assertEqual(len(self.server.requests), 2)

    def test_repeats_end(self) -> None:
        client = self.serve(in_turn(problem(503, "unavailable")), retry_for=0.3)
        with self.assertRaises(Unavailable):
            client.get("j1")
        self.assertGreater(len(self.server.requests), 1)
        self.server.close()
        client.close()
        with self.assertRaises(NoAnswer):
            client.get("j1")

    def test_a_connection_is_kept_and_replaced(self) -> None:
        # HANG_UP on a kept connection is repeated at once on a new one, and there it counts.
        client = self.serve(in_turn(Answer(200, job()), Answer(200, job()), HANG_UP, Answer(200, job())), retry_for=0)
        client.get("j1")
        client.get("j1")
        self.assertEqual(self.server.connections, 1)
        client.get("j1")
        self.assertEqual((self.server.connections, len(self.server.requests)), (2, 4))

    def test_batches(self) -> None:
        line = {"id": "j1", "queue": "default", "status": "pending", "run_at": None}
        client = self.serve(in_turn(Answer(201, {"data": [line, {**line, "id": "j2", "status": None}]})))
        stored = client.enqueue_many([NewJob("a", 1), NewJob("b", delay=1)])
        self.assertEqual([(e.id, e.status) for e in stored], [("j1", "pending"), ("j2", None)])
        self.assertEqual(
            self.server.requests[0].body,
            {"jobs": [{"kind": "a", "payload": 1}, {"kind": "b", "payload": None, "delay": "1000ms"}]},
        )
        self.assertEqual(client.enqueue_many([]), [])
        with self.assertRaises(ValueError):
            client.enqueue_many([NewJob("a")] * 1001)
        self.assertEqual(len(self.server.requests), 1)

    def test_what_is_not_json_is_not_sent(self) -> None:
        client = self.serve(in_turn(Answer(201, job())))
        for payload in ({1}, float("nan")):
            with self.assertRaises((TypeError, ValueError)):
                client.enqueue("k", payload)
        with self.assertRaises(ValueError):
            client.enqueue("k", run_at=datetime(2030, 1, 1))
        self.assertEqual(self.server.requests, [])

    def test_wait_asks_until_the_end(self) -> None:
        client = self.serve(in_turn(Answer(200, job("running")), Answer(200, job("dead"))))
        self.assertEqual(client.wait("j1", 5).status, "dead")
        self.assertIn("until=finished", self.server.requests[1].path)

    def test_wait_gives_up(self) -> None:
        client = self.serve(in_turn(Answer(200, job("running"))))
        with self.assertRaises(TimeoutError):
            client.wait("j1", 0)

    def test_results(self) -> None:
        client = self.serve(
            in_turn(Answer(202, {"id": "j1", "status": "running"}), Answer(204), Answer(200, {"a": 1}),
                    problem(409, "result_unavailable", job_status="dead"))
        )  # fmt: skip
        with self.assertRaises(JobNotFinished):
            client.result("j1")
        self.assertIsNone(client.result("j1"))
        self.assertEqual(client.result("j1"), {"a": 1})
        with self.assertRaises(Problem) as caught:
            client.result("j1")
        self.assertEqual(caught.exception.members["job_status"], "dead")

    def test_addresses(self) -> None:
        for server in ("localhost:8080", "ftp://localhost"):
            with self.assertRaises(ValueError):
                Client(server)


if __name__ == "__main__":
    unittest.main()
