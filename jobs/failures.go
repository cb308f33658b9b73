package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// MaxFailureWindow bounds how far back Failures looks.
const MaxFailureWindow = 7 * 24 * time.Hour

// FailureGroup is the jobs of one kind that are dead or wait for a retry because of the same fault. A job counts once, when
// its latest attempt failed.
type FailureGroup struct {
	Fingerprint string // "": the jobs say no error
	Kind        string
	Queues      []string // at most 10, sorted
	Count       int      // within the window
	Hour, Day   int      // of the last hour, the last 24 hours: as far as the window goes
	Dead        int      // of Count; the others are retrying
	First, Last time.Time
	Sample      FailureSample // the latest
}

// FailureSample is one job of a group and its error: at most 1 KiB of the message, no stack.
type FailureSample struct {
	JobID   uuid.UUID
	Type    string
	Message string
}

// Failures groups jobs whose latest attempt failed within the window, largest group first, at most limit groups. Of the
// filter's statuses dead and retrying count; none means both. more says that there are more groups. ErrTooBroad when it
// takes more than 3 s.
//
// The dead are found by their partitions: those of the window are read, and no others (the bound is a subquery, known
// before the scan begins). The retrying are found by jobs_due.
func Failures(ctx context.Context, db DB, f Filter, window time.Duration, limit int) (groups []FailureGroup, more bool, err error) {
	q := newListQuery(f)
	q.where("at > (SELECT begins FROM span)")
	q.args = append(q.args, window, limit+1)
	sql := `
WITH span AS MATERIALIZED (
    SELECT now, now - ` + fmt.Sprintf("$%d", len(q.args)-1) + `::interval AS begins FROM clock_timestamp() AS now
), failed AS (
    SELECT * FROM (
        SELECT id, queue, kind, status, priority, tags, locked_by, last_worker, attempt, created_at, run_at, finished_at,
               metadata, error, finished_at AS at
          FROM mini_asynq.jobs_finished
         WHERE status = 'dead' AND finished_at > (SELECT begins FROM span)
         UNION ALL
        SELECT id, queue, kind, status, priority, tags, locked_by, last_worker, attempt, created_at, run_at, NULL,
               metadata, error, coalesce(last_started_at + last_run_ms * interval '1 ms', updated_at)
          FROM mini_asynq.jobs WHERE status = 'retrying') found` + q.clause() + `
)
SELECT coalesce(error->>'fingerprint', '') AS fingerprint, kind,
       (array_agg(DISTINCT queue::text ORDER BY queue::text))[1:10],
       count(*), count(*) FILTER (WHERE at > (SELECT now FROM span) - interval '1 h'),
       count(*) FILTER (WHERE at > (SELECT now FROM span) - interval '24 h'),
       count(*) FILTER (WHERE status = 'dead'), min(at), max(at),
       (array_agg(id ORDER BY at DESC, id DESC))[1],
       (array_agg(coalesce(error->>'type', '') ORDER BY at DESC, id DESC))[1],
       (array_agg(coalesce(left(error->>'message', 1024), '') ORDER BY at DESC, id DESC))[1]
  FROM failed
 GROUP BY 1, 2
 ORDER BY count(*) DESC, max(at) DESC, 1, 2
 LIMIT ` + fmt.Sprintf("$%d", len(q.args))
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := db.Query(ctx, sql, q.args...)
	if err == nil {
		groups, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g FailureGroup, err error) {
			err = row.Scan(&g.Fingerprint, &g.Kind, &g.Queues, &g.Count, &g.Hour, &g.Day, &g.Dead, &g.First, &g.Last,
				&g.Sample.JobID, &g.Sample.Type, &g.Sample.Message)
			return g, err
		})
	}
	if err != nil {
		return nil, false, listError("group failures", err)
	}
	if len(groups) > limit {
		return groups[:limit], true, nil
	}
	return groups, false, nil
}
