package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// historySQL reads the events of one job in the present epoch, with their positions. There is no index by job: it would be
// paid for with each event, and few histories are ever asked for. Instead the job's row names the transaction of its latest
// event, and each event that of the one before; so the way goes back step by step, by the index outbox_xid. It ends at the
// first event, or where retention or a new epoch took the rest away. Of a transaction with a million events only the ids
// are compared.
//
// The tick of an event is the first one whose snapshot sees its transaction (visibility is monotone); ticks_at leads there,
// because no tick is older than the events it holds, and the search without it covers a clock that was set back. The
// position is the first one of the tick plus the rank in it.
const historySQL = `
WITH RECURSIVE way AS (
    SELECT event_xid AS xid FROM (SELECT event_xid FROM mini_asynq.jobs WHERE id = $1
                                   UNION ALL
                                  SELECT event_xid FROM mini_asynq.jobs_finished WHERE id = $1) j
     UNION ALL
    SELECT earliest.prev_xid
      FROM way
     CROSS JOIN LATERAL (
           SELECT e.prev_xid, e.job_version
             FROM mini_asynq.outbox o CROSS JOIN LATERAL ` + unnestEvents + `
            WHERE o.xid = way.xid AND $1 = ANY (o.job_ids) AND e.job_id = $1
            ORDER BY e.job_version LIMIT 1) earliest
     WHERE earliest.prev_xid IS NOT NULL AND earliest.job_version > $2::bigint + 1
), mine AS MATERIALIZED (
    SELECT o.id, o.xid, o.at, e.*
      FROM way
      JOIN mini_asynq.outbox o ON o.xid = way.xid AND $1 = ANY (o.job_ids)
     CROSS JOIN LATERAL ` + unnestEvents + `
     WHERE e.job_id = $1 AND e.job_version > $2::bigint
     ORDER BY e.job_version LIMIT $3
), epoch AS MATERIALIZED (
    SELECT max(epoch) AS epoch FROM mini_asynq.epochs
), placed AS (
    SELECT m.id AS row_id, m.place, t.*
      FROM mine m
      CROSS JOIN LATERAL (
           SELECT coalesce(
               (SELECT first_seq FROM mini_asynq.ticks
                 WHERE at >= m.at AND epoch = (SELECT epoch FROM epoch) AND pg_visible_in_snapshot(m.xid, snap)
                 ORDER BY at LIMIT 1),
               (SELECT first_seq FROM mini_asynq.ticks
                 WHERE epoch = (SELECT epoch FROM epoch) AND pg_visible_in_snapshot(m.xid, snap)
                 ORDER BY first_seq LIMIT 1)) AS first_seq) f
      JOIN mini_asynq.ticks t ON t.epoch = (SELECT epoch FROM epoch) AND t.first_seq = f.first_seq
)
SELECT p.first_seq
     + (SELECT coalesce(sum(x.n), 0) FROM mini_asynq.outbox x
         WHERE x.xid >= pg_snapshot_xmax(p.prev_snap) AND x.xid < pg_snapshot_xmax(p.snap)
           AND pg_visible_in_snapshot(x.xid, p.snap) AND x.id < e.id)
     + (SELECT coalesce(sum(x.n), 0) FROM pg_snapshot_xip(p.prev_snap) AS late JOIN mini_asynq.outbox x ON x.xid = late
         WHERE pg_visible_in_snapshot(late, p.snap) AND x.id < e.id)
     + e.place - 1,
       ` + eventColumns + `
  FROM mine e JOIN placed p ON p.row_id = e.id AND p.place = e.place
 ORDER BY e.job_version`

// History returns the events of one job with a job_version above after, oldest first, at most limit. truncated says
// that older ones are gone by retention or belong to an earlier epoch. Events that no tick has published yet are left
// out: they have no position.
func History(ctx context.Context, db jobs.DB, job uuid.UUID, after int64, limit int) (events []*Event, truncated bool, err error) {
	epoch, ok, err := readEpoch(ctx, db)
	if err != nil || !ok {
		return nil, false, err
	}
	events, err = readHistory(ctx, db, builtin, epoch, job, after, limit)
	if errors.Is(err, errUnknownCode) {
		var codes codebook
		if codes, err = readCodes(ctx, db); err == nil {
			events, err = readHistory(ctx, db, codes, epoch, job, after, limit)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the history of a job: %w", err)
	}
	return events, len(events) > 0 && events[0].JobVersion > after+1, nil
}

func readHistory(ctx context.Context, db jobs.DB, codes codebook, epoch Epoch, job uuid.UUID, after int64, limit int) (
	events []*Event, err error,
) {
	rows, err := db.Query(ctx, historySQL, pgx.QueryResultFormats{pgx.BinaryFormatCode}, job, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	dec := decoder{codes: codes}
	for rows.Next() {
		e, seq, err := dec.event(rows.RawValues())
		if err != nil {
			return nil, err
		}
		e.Position = Position{epoch.Number, seq}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return events, nil
}
