package doctor

import (
	"context"
	"fmt"
	"time"
)

func jobChecks() []check {
	return []check{
		{"jobs.nodes", "a server is connected", needsSchema,
			"Start one: `mini-asynq serve`.", nodesConnected},
		{"jobs.unserved", "somebody works for every queue with jobs", needsSchema,
			"Start a server or worker for the queue (MINIASYNQ_WORKER_QUEUES, or the queues of the worker).", unserved},
		{"jobs.kinds", "somebody handles every kind that waits", needsSchema,
			"Start a worker that has a handler for the kind, or cancel the jobs.", unhandled},
		{"jobs.paused", "no queue is paused with jobs in it", needsSchema,
			"Resume it when its reason is over: `mini-asynq queues resume NAME`, or POST /api/v1/admin/queues/NAME/resume.", paused},
		{"jobs.lag", "jobs do not wait for long", needsSchema,
			"Add slots (WORKER_POOL_SIZE), servers or workers, or find what makes the handlers slow.", jobLag},
		{"jobs.leases", "leases that ran out are taken back", needsSchema,
			"Run a server: it does so within two seconds. If one runs, look at its log for the component dispatcher.", leases},
		{"jobs.due", "what is due becomes pending", needsSchema,
			"Run a server: it does so at once. If one runs, look at its log for the component dispatcher.", due},
		{"jobs.fence", "claims are possible after a crash of PostgreSQL", needsSchema,
			"A server mends it with its next claim; its role needs EXECUTE on mini_asynq.mend_fence().", fence},
		{"jobs.dead", "dead jobs do not pile up", needsSchema,
			"Look at their errors (GET /api/v1/failures, or the dead jobs of the dashboard), mend the cause, then retry them.", dead},
		{"jobs.poison", "no job kills its worker", needsSchema,
			"Run one such job under a debugger or with more memory; it is dead and disturbs nobody until it is retried.", poison},
		{"jobs.workers", "remote workers that are online are heard of", needsSchema,
			"Look whether the program still runs; `DELETE /api/v1/workers/ID` forgets it and gives its jobs back.", workersHeard},
	}
}

func nodesConnected(ctx context.Context, e *exam) (verdict, error) {
	n, err := e.nodes(ctx)
	if err != nil {
		return verdict{}, err
	}
	if n == 0 {
		return skip("none is: nothing is claimed, published or retired meanwhile"), nil
	}
	return well("%d", n), nil
}

// waiting is a group of pending jobs that are old.
type waiting struct {
	Queue, Kind string
	Jobs        int64
	Age         float64 // seconds, of the oldest
	First       string  // the id of the next one
	Paused      bool
	KindStarts  bool // jobs of this queue and kind run, or began lately
	QueueStarts bool // jobs of this queue do
	Remote      bool // a remote worker that lives serves queue and kind
}

// waitNoticed is how old a pending job must be to be asked after: a free slot takes it within milliseconds.
const waitNoticed = 15 * time.Second

// waitingSQL walks jobs_claim from queue to queue and takes the oldest two thousand of each. Who serves what is no row
// anywhere: nodes tell nobody. It shows by what runs (jobs_lease) and by what began lately (the newest rows by outbox_xid).
const waitingSQL = `
WITH RECURSIVE q AS (
    (SELECT queue::text FROM mini_asynq.jobs WHERE status = 'pending' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT j.queue::text FROM mini_asynq.jobs j WHERE j.status = 'pending' AND j.queue > q.queue ORDER BY j.queue LIMIT 1)
      FROM q WHERE q.queue IS NOT NULL
), late AS MATERIALIZED (
    SELECT w.queue, w.kind, count(*) AS n, min(w.run_at) AS since, (array_agg(w.id ORDER BY w.priority, w.run_at, w.id))[1] AS first
      FROM (SELECT queue FROM q WHERE queue IS NOT NULL LIMIT 1000) q
     CROSS JOIN LATERAL (
         SELECT j.queue::text, j.kind::text, j.run_at, j.priority, j.id FROM mini_asynq.jobs j
          WHERE j.status = 'pending' AND j.queue = q.queue
          ORDER BY j.priority, j.run_at, j.id LIMIT 2000) w
     WHERE w.run_at < clock_timestamp() - make_interval(secs => $1)
     GROUP BY w.queue, w.kind
), started AS MATERIALIZED (
    SELECT queue::text, kind::text FROM mini_asynq.jobs WHERE status = 'running'
    UNION
    SELECT e.queue, e.kind
      FROM (SELECT at, events FROM mini_asynq.outbox ORDER BY xid DESC, id DESC LIMIT 2000) o, unnest(o.events) AS e
     WHERE e.code = 13 AND o.at > clock_timestamp() - interval '1 min'
)
SELECT l.queue, l.kind, l.n, extract(epoch FROM clock_timestamp() - l.since)::float8, l.first::text,
       coalesce((SELECT p.paused AND coalesce(p.paused_until > clock_timestamp(), true) FROM mini_asynq.queues p WHERE p.name = l.queue), false),
       EXISTS (SELECT FROM started s WHERE s.queue = l.queue AND s.kind = l.kind),
       EXISTS (SELECT FROM started s WHERE s.queue = l.queue),
       EXISTS (SELECT FROM mini_asynq.workers w
                WHERE w.state = 'online' AND w.asked IS NULL AND w.last_seen_at > clock_timestamp() - interval '1 min'
                  AND (jsonb_exists(w.queues, l.queue) OR jsonb_exists(w.queues, '*'))
                  AND (w.kinds IS NULL OR l.kind = ANY (w.kinds)))
  FROM late l ORDER BY l.since LIMIT 1000`

// waiting looks twice, once for all checks: what moved in between is being served.
func (e *exam) waiting(ctx context.Context) ([]waiting, error) {
	if e.waits != nil {
		return *e.waits, nil
	}
	list, err := rows[waiting](ctx, e, waitingSQL, waitNoticed.Seconds())
	if err != nil {
		return nil, err
	}
	if len(list) > 0 && e.pause(ctx) == nil {
		before := make(map[[2]string]string, len(list))
		for _, w := range list {
			before[[2]string{w.Queue, w.Kind}] = w.First
		}
		if list, err = rows[waiting](ctx, e, waitingSQL, waitNoticed.Seconds()); err != nil {
			return nil, err
		}
		for i, w := range list {
			if first, seen := before[[2]string{w.Queue, w.Kind}]; !seen || first != w.First {
				list[i].KindStarts, list[i].QueueStarts = true, true
			}
		}
	}
	e.waits = &list
	return list, nil
}

func (w waiting) String() string {
	return fmt.Sprintf("queue %s, kind %s (%d jobs, the oldest for %s)", w.Queue, w.Kind, w.Jobs, span(seconds(w.Age)))
}

// unservedWrong is how long nobody may serve a queue while servers run: one may be starting.
const unservedWrong = 5 * time.Minute

func unserved(ctx context.Context, e *exam) (verdict, error) {
	list, err := e.waiting(ctx)
	if err != nil {
		return verdict{}, err
	}
	nodes, err := e.nodes(ctx)
	if err != nil {
		return verdict{}, err
	}
	var texts, ours []string
	var oldest time.Duration
	for _, w := range list {
		if w.Paused || w.QueueStarts || w.Remote {
			continue
		}
		texts = append(texts, w.String())
		oldest = max(oldest, seconds(w.Age))
		if !e.serves(w.Queue) {
			ours = append(ours, w.Queue)
		}
	}
	switch {
	case len(texts) == 0:
		return well("none waits for more than %s without work going on", span(waitNoticed)), nil
	case nodes == 0:
		return fail("nobody works for %s, and no server is connected", some(texts)).do("Start one: `mini-asynq serve`."), nil
	}
	v := warn("nothing starts in %s", some(texts))
	if oldest >= unservedWrong {
		v.status = Fail
	}
	if len(ours) > 0 {
		return v.do(fmt.Sprintf("MINIASYNQ_WORKER_QUEUES of this configuration leaves out %s: add it, or *.", some(ours))), nil
	}
	return v.do("Either every slot is taken by other queues, or no server or worker has the queue in its list, or none has a handler for the kind.",
		"Look at `GET /api/v1/queues/NAME` and at MINIASYNQ_WORKER_QUEUES of each server."), nil
}

// serves tells whether a server of this configuration works for a queue.
func (e *exam) serves(queue string) bool {
	_, named := e.config.Queues[queue]
	_, all := e.config.Queues["*"]
	return named || all || len(e.config.Queues) == 0
}

func unhandled(ctx context.Context, e *exam) (verdict, error) {
	list, err := e.waiting(ctx)
	if err != nil {
		return verdict{}, err
	}
	var texts []string
	for _, w := range list {
		if !w.Paused && w.QueueStarts && !w.KindStarts && !w.Remote {
			texts = append(texts, w.String())
		}
	}
	if len(texts) > 0 {
		return warn("other kinds of the queue start and this one does not: %s", some(texts)), nil
	}
	return well("as far as can be told from what starts"), nil
}

// pausedLong is how long a queue may be paused, without an end and without jobs, before it counts as forgotten.
const pausedLong = 7 * 24 * time.Hour

func paused(ctx context.Context, e *exam) (verdict, error) {
	type queue struct {
		Name, Reason string
		Since        float64
		Jobs         int64
		Ends         bool
	}
	list, err := rows[queue](ctx, e, `
		SELECT q.name, coalesce(q.pause_reason, ''), coalesce(extract(epoch FROM clock_timestamp() - q.paused_at), 0)::float8,
		       (SELECT count(*) FROM (SELECT FROM mini_asynq.jobs j WHERE j.status = 'pending' AND j.queue = q.name LIMIT 100000) AS first),
		       q.paused_until IS NOT NULL
		  FROM mini_asynq.queues q
		 WHERE q.paused AND coalesce(q.paused_until > clock_timestamp(), true) ORDER BY q.paused_at NULLS FIRST LIMIT 1000`)
	if err != nil {
		return verdict{}, err
	}
	var texts []string
	for _, q := range list {
		if q.Jobs == 0 && (q.Ends || seconds(q.Since) < pausedLong) {
			continue
		}
		text := fmt.Sprintf("%s for %s with %d jobs", q.Name, span(seconds(q.Since)), q.Jobs)
		if q.Reason != "" {
			text += fmt.Sprintf(" (%s)", comment(q.Reason))
		}
		texts = append(texts, text)
	}
	if len(texts) > 0 {
		return warn("paused: %s", some(texts)), nil
	}
	return well("%d paused, without jobs", len(list)), nil
}

// lagWorth is a wait that is worth a word although the queue is being worked on.
const lagWorth = 10 * time.Minute

func jobLag(ctx context.Context, e *exam) (verdict, error) {
	list, err := e.waiting(ctx)
	if err != nil {
		return verdict{}, err
	}
	var texts []string
	for _, w := range list {
		if !w.Paused && (w.KindStarts || w.Remote) && seconds(w.Age) >= lagWorth {
			texts = append(texts, w.String())
		}
	}
	if len(texts) > 0 {
		return warn("more comes in than is done: %s", some(texts)), nil
	}
	return well("none that is being worked on waits for more than %s", span(lagWorth)), nil
}

// late is how long after its time a deadline may be kept: two seconds, and a little for the network.
const late = 5 * time.Second

func (e *exam) overdue(ctx context.Context, what, sql string) (verdict, error) {
	nodes, err := e.nodes(ctx)
	if err != nil {
		return verdict{}, err
	}
	return e.lasting(ctx, func() (verdict, error) {
		var n int64
		var longest float64
		if err := e.one(ctx, sql, []any{late.Seconds()}, &n, &longest); err != nil {
			return verdict{}, err
		}
		switch {
		case n == 0:
			return well("none is late"), nil
		case nodes == 0:
			return fail("%d %s, the first %s ago, and no server is connected", n, what, span(seconds(longest))).do("Start one: `mini-asynq serve`."), nil
		}
		return fail("%d %s, the first %s ago", n, what, span(seconds(longest))), nil
	})
}

// By jobs_lease.
func leases(ctx context.Context, e *exam) (verdict, error) {
	return e.overdue(ctx, "jobs run under a lease that is over", `
		SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(lease_expires_at)), 0)::float8
		  FROM (SELECT lease_expires_at FROM mini_asynq.jobs
		         WHERE status = 'running' AND lease_expires_at < clock_timestamp() - make_interval(secs => $1)
		         ORDER BY lease_expires_at LIMIT 100000) AS first`)
}

// By jobs_due.
func due(ctx context.Context, e *exam) (verdict, error) {
	return e.overdue(ctx, "jobs were due and still wait for their time", `
		SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(run_at)), 0)::float8
		  FROM (SELECT run_at FROM mini_asynq.jobs
		         WHERE status IN ('scheduled', 'retrying') AND run_at < clock_timestamp() - make_interval(secs => $1)
		         ORDER BY run_at LIMIT 100000) AS first`)
}

func fence(ctx context.Context, e *exam) (verdict, error) {
	var whole bool
	if err := e.one(ctx, `SELECT EXISTS (SELECT FROM mini_asynq.fence_is_whole)`, nil, &whole); err != nil {
		return verdict{}, err
	}
	if !whole {
		return warn("PostgreSQL recovered from a crash, and nobody has claimed since: the next claim mends the fence first").by(
			"SELECT mini_asynq.mend_fence();"), nil
	}
	return well("they are"), nil
}

// deadNoticed is how many jobs may die in an hour before it is worth a word.
const deadNoticed = 10

func dead(ctx context.Context, e *exam) (verdict, error) {
	type group struct {
		Queue, Kind, Error string
		Jobs               int64
	}
	list, err := rows[group](ctx, e, `
		SELECT queue::text, kind::text, coalesce(error->>'type', reason, '?'), count(*)
		  FROM (SELECT queue, kind, error, reason FROM mini_asynq.jobs_finished
		         WHERE status = 'dead' AND finished_at > clock_timestamp() - interval '1 hour' LIMIT 100000) AS lately
		 GROUP BY 1, 2, 3 ORDER BY 4 DESC`)
	if err != nil {
		return verdict{}, err
	}
	total := int64(0)
	texts := make([]string, len(list))
	for i, g := range list {
		total += g.Jobs
		texts[i] = fmt.Sprintf("%d of kind %s in queue %s (%s)", g.Jobs, g.Kind, g.Queue, comment(g.Error))
	}
	if total >= deadNoticed {
		return warn("%d died in the last hour: %s", total, some(texts)), nil
	}
	return well("%d died in the last hour", total), nil
}

func poison(ctx context.Context, e *exam) (verdict, error) {
	list, err := names(ctx, e, `
		SELECT format('%s (%s)', kind, id)
		  FROM mini_asynq.jobs_finished
		 WHERE status = 'dead' AND finished_at > clock_timestamp() - interval '1 day' AND reason = 'poison'
		 ORDER BY finished_at DESC LIMIT 100`)
	if err != nil {
		return verdict{}, err
	}
	if len(list) > 0 {
		return warn("%d jobs lost every attempt with the death of their worker, in the last day: %s", len(list), some(list)), nil
	}
	return well("none in the last day"), nil
}

// workerSilence is three times the silence after which a node says that a worker is offline.
const workerSilence = 90 * time.Second

func workersHeard(ctx context.Context, e *exam) (verdict, error) {
	list, err := names(ctx, e, `
		SELECT format('%s (silent for %s s)', name, extract(epoch FROM clock_timestamp() - last_seen_at)::int)
		  FROM mini_asynq.workers
		 WHERE state <> 'offline' AND last_seen_at < clock_timestamp() - make_interval(secs => $1)
		 ORDER BY last_seen_at LIMIT 100`, workerSilence.Seconds())
	if err != nil {
		return verdict{}, err
	}
	if len(list) > 0 {
		return warn("nobody notices that they are gone: %s", some(list)), nil
	}
	return well("they are"), nil
}
