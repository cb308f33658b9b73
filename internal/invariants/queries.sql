-- Each query begins with its name: letter and number of the invariant, and when it holds.
--   always   in any snapshot, under load and faults
--   twice    red only if the same row shows twice, one second apart
--   rest     when load has stopped, faults have healed and queues are drained
-- check_events stands in front of every query as a common table expression.

-- check_events
check_events AS (
    SELECT t.epoch, t.first_seq, t.first_seq - 1 + row_number() OVER (PARTITION BY t.epoch, t.first_seq ORDER BY o.id, o.place) AS seq, o.*
      FROM (SELECT *, coalesce(lag(snap) OVER (PARTITION BY epoch ORDER BY first_seq), base_snap) AS prev
              FROM mini_asynq.ticks JOIN mini_asynq.epochs USING (epoch)) t
      JOIN mini_asynq.events o
        ON o.xid >= pg_snapshot_xmin(prev) AND o.xid < pg_snapshot_xmax(snap)
       AND pg_visible_in_snapshot(o.xid, snap) AND NOT pg_visible_in_snapshot(o.xid, prev)
)

-- S1 rest: nothing waits without a reason
SELECT id::text FROM mini_asynq.jobs
 WHERE status IN ('pending', 'running')
    OR status IN ('scheduled', 'retrying') AND run_at < clock_timestamp() - interval '1 min'

-- S4 always: a job has one home, once, with a status that belongs there
SELECT id::text FROM mini_asynq.jobs INTERSECT SELECT id::text FROM mini_asynq.jobs_finished
 UNION SELECT id::text FROM mini_asynq.jobs_finished GROUP BY id HAVING count(*) > 1
 UNION SELECT id::text FROM mini_asynq.all_jobs j
        WHERE (status IN ('completed', 'cancelled', 'dead')) <> EXISTS (SELECT FROM mini_asynq.jobs_finished f WHERE f.id = j.id)

-- S5 always: running, and only running, has a lease
SELECT id::text FROM mini_asynq.jobs
 WHERE num_nulls(locked_by, locked_at, lease_expires_at) <> CASE status WHEN 'running' THEN 0 ELSE 3 END

-- S6 always: no fence is handed out twice, and it grows
SELECT job_id::text FROM mini_asynq.job_attempts GROUP BY job_id, fence HAVING count(*) > 1
 UNION SELECT id::text FROM mini_asynq.jobs j JOIN mini_asynq.job_attempts a ON a.job_id = j.id
        WHERE a.fence > j.fence OR (j.status = 'running' AND a.fence = j.fence)

-- S10 always: completed is never left; a completed job has one completed attempt
SELECT job_id::text FROM mini_asynq.events
 WHERE from_status <> to_status AND (from_status = 'completed' OR from_status = 'cancelled' AND to_status <> 'blocked')
 UNION SELECT id::text FROM mini_asynq.jobs_finished f
        WHERE status = 'completed'
          AND 1 <> (SELECT count(*) FROM mini_asynq.job_attempts a WHERE a.job_id = f.id AND a.status = 'completed')

-- S11 always: each step is in the transition table
SELECT id::text FROM mini_asynq.events o
 WHERE job_id IS NOT NULL AND to_status IS DISTINCT FROM from_status
   AND NOT EXISTS (SELECT FROM mini_asynq.legal_steps l
                    WHERE l.from_status IS NOT DISTINCT FROM o.from_status AND l.to_status IS NOT DISTINCT FROM o.to_status)

-- S12 always: attempts are bounded, and numbered without a gap
SELECT id::text FROM mini_asynq.all_jobs WHERE attempt > attempt_limit
 UNION SELECT job_id::text FROM mini_asynq.job_attempts GROUP BY job_id
        HAVING count(*) <> max(attempt_number) OR count(*) <> count(DISTINCT attempt_number)

-- E1 always: a tick starts where the one before ended, and is never empty
SELECT first_seq::text FROM (SELECT *, lag(first_seq + n) OVER (PARTITION BY epoch ORDER BY first_seq) AS want FROM mini_asynq.ticks) t
 WHERE n < 1 OR first_seq <> want

-- E2 always: a tick resolves to its count of events
SELECT t.first_seq::text FROM mini_asynq.ticks t LEFT JOIN check_events e USING (epoch, first_seq)
 GROUP BY t.epoch, t.first_seq, t.n HAVING count(e.seq) <> t.n

-- E3 always: each event that the last tick sees is in exactly one tick
SELECT o.id::text FROM mini_asynq.events o LEFT JOIN check_events e USING (id, place)
 WHERE pg_visible_in_snapshot(o.xid, (SELECT snap FROM mini_asynq.ticks ORDER BY epoch DESC, first_seq DESC LIMIT 1))
   AND NOT pg_visible_in_snapshot(o.xid, (SELECT base_snap FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1))
 GROUP BY o.id, o.place HAVING count(e.id) <> 1

-- E5 always: per job, each step starts where the last one ended, and the last one is the job's status
SELECT job_id::text FROM (SELECT *, lag(to_status) OVER (PARTITION BY job_id ORDER BY id, place) AS p FROM mini_asynq.events
                           WHERE job_id IS NOT NULL) o
 WHERE from_status IS DISTINCT FROM p
 UNION SELECT j.id::text FROM mini_asynq.all_jobs j
       LEFT JOIN (SELECT DISTINCT ON (job_id) job_id, to_status FROM mini_asynq.events
                   ORDER BY job_id, id DESC, place DESC) o ON o.job_id = j.id
        WHERE o.to_status IS DISTINCT FROM j.status

-- E6 always: in the order of the stream a job's versions are 1, 2, 3
SELECT job_id::text FROM (SELECT *, lag(job_version, 1, 0::bigint) OVER (PARTITION BY job_id ORDER BY epoch, seq) AS p
                            FROM check_events WHERE job_id IS NOT NULL) e
 WHERE job_version <> p + 1

-- E9 always: what was written stays as it is
SELECT relname::text FROM pg_stat_user_tables
 WHERE schemaname = 'mini_asynq' AND relname ~ '^(outbox|ticks)' AND n_tup_upd > 0

-- L2 twice: no lease is long over, and nothing is long due
SELECT id::text FROM mini_asynq.jobs WHERE status = 'running' AND lease_expires_at < clock_timestamp() - interval '2 s'
 UNION SELECT id::text FROM mini_asynq.jobs
        WHERE status IN ('scheduled', 'retrying') AND run_at < clock_timestamp() - interval '1 s'

-- R4 always: the queue of notifications is nearly empty
SELECT pg_notification_queue_usage()::text WHERE pg_notification_queue_usage() > 0.01

-- R7 twice: none of our connections idles in a transaction or waits for an advisory lock
SELECT pid::text FROM pg_stat_activity
 WHERE application_name LIKE 'mini-asynq%' AND datname = current_database()
   AND (wait_event = 'advisory' OR state LIKE 'idle in transaction%' AND state_change < clock_timestamp() - interval '1 s')

-- R10 always: the default partitions are empty
SELECT 'outbox_default' WHERE EXISTS (SELECT FROM mini_asynq.outbox_default)
 UNION ALL SELECT 'jobs_done_default' WHERE EXISTS (SELECT FROM mini_asynq.jobs_done_default)
 UNION ALL SELECT 'jobs_dead_default' WHERE EXISTS (SELECT FROM mini_asynq.jobs_dead_default)
