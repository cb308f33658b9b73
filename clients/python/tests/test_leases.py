"""Leases by the worker's clock. The clock is a number here."""

import unittest

from fake_server import claimed
from miniasynq.leases import Lease, Leases
from miniasynq.running import RunningJob


def lease(fence: int, end: float, timeout: str = "30m") -> Lease:
    return Lease(RunningJob(claimed(fence, timeout=timeout), 0.0, lambda: None), end)


class LeaseTable(unittest.TestCase):
    def setUp(self) -> None:
        self.leases = Leases()
        self.one, self.two = lease(1, 10), lease(2, 20)
        self.leases.add(self.one)
        self.leases.add(self.two)

    def test_what_is_not_confirmed_in_time_is_lost(self) -> None:
        self.leases.look(9.9)
        self.assertFalse(self.one.job.cancelled.is_set())
        self.leases.look(10)
        self.assertEqual(self.one.job.cancelled.cause, "lease lost")
        self.assertTrue(self.one.over.is_set())
        self.assertEqual(self.leases.all(), [self.two])

    def test_a_confirmation_moves_the_end(self) -> None:
        self.leases.extend(1, 40)
        self.leases.look(19)
        self.assertEqual(len(self.leases.all()), 2)
        self.assertEqual(self.leases.first_end(), 20)

    def test_an_earlier_end_is_none(self) -> None:
        self.leases.extend(2, 1)
        self.leases.look(19)
        self.assertEqual(self.leases.all(), [self.two])

    def test_a_job_over_its_time_is_told_and_kept(self) -> None:
        late = lease(3, 100, timeout="5s")
        self.leases.add(late)
        self.assertEqual(self.leases.next_look(), 5)
        self.leases.look(5)
        self.assertEqual(late.job.cancelled.cause, "timeout")
        self.assertFalse(late.over.is_set())
        self.assertIn(late, self.leases.all())
        self.assertEqual(self.leases.next_look(), 10, "its deadline is done with")

    def test_the_first_cause_stays_and_the_loss_counts(self) -> None:
        self.leases.cancel(1, "operator")
        self.leases.lose(1)
        self.assertEqual(self.one.job.cancelled.cause, "operator")
        self.assertTrue(self.one.over.is_set())

    def test_what_is_not_held_is_passed_over(self) -> None:
        self.leases.lose(9)
        self.leases.cancel(9, "operator")
        self.leases.extend(9, 50)
        self.assertEqual(len(self.leases.all()), 2)

    def test_nothing_held_needs_no_look(self) -> None:
        self.leases.drop(self.one)
        self.leases.drop(self.two)
        self.assertIsNone(self.leases.next_look())
        self.assertIsNone(self.leases.first_end())


class Progress(unittest.TestCase):
    def test_is_made_such_that_no_heartbeat_is_refused(self) -> None:
        job = lease(1, 10).job
        for percent in (-1, 101, float("nan")):
            with self.assertRaises(ValueError):
                job.progress(percent)
        job.progress(5, "a\0b" + "ü" * 300 + "\ud800")
        told = job.unsent_progress()
        assert told is not None
        self.assertTrue(told["message"].startswith("abü"))
        self.assertLessEqual(len(told["message"].encode()), 256)

    def test_a_newer_one_is_not_lost(self) -> None:
        job = lease(1, 10).job
        job.progress(5)
        sent = job.unsent_progress()
        job.progress(6)
        job.progress_was_sent(sent)
        self.assertEqual(job.unsent_progress(), {"percent": 6, "message": ""})


if __name__ == "__main__":
    unittest.main()
