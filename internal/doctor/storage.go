package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func storageChecks() []check {
	return []check{
		{"storage.ahead", "partitions are made ahead of time", needsSchema,
			"Run a server: it makes them each hour. If one runs, look at its log for housekeeping.", ahead},
		{"storage.default", "the default partitions are empty", needsSchema,
			"Move the rows with the SQL below, while no server runs.", defaults},
		{"storage.retention", "old partitions are retired", needsSchema,
			"Run a server: it retires them each hour. If one runs, look at its log for housekeeping, and for old transactions.", retention},
		{"storage.sequences", "sequences are far from their end, and ahead of what they gave out", needsSchema,
			"Set the sequence beyond what is in use: SELECT setval(..).", sequences},
		{"storage.disk", "the disk has room", needsDatabase,
			"Free space, or let the volume grow: without room PostgreSQL stops.", disk},
		{"storage.archive", "the archive takes the log", needsDatabase,
			"Mend archive_command: until then the log piles up and fills the disk.", archive},
	}
}

// Partitions are made seven days ahead.
const (
	aheadNoticed = "3 days"
	aheadWrong   = "12 hours"
)

func ahead(ctx context.Context, e *exam) (verdict, error) {
	gone, err := names(ctx, e, `SELECT name FROM unnest(ARRAY['outbox', 'jobs_done', 'jobs_dead']) AS name
	                             WHERE name NOT IN (SELECT parent FROM mini_asynq.partitioned)`)
	if err != nil {
		return verdict{}, err
	}
	if len(gone) > 0 {
		return fail("mini_asynq.partitioned lacks %s: no partition is made or retired there", some(gone)).do(
			"Insert the row as migrations/00004_partitions.sql has it."), nil
	}
	const sql = `SELECT parent || ' from ' || (begins AT TIME ZONE 'UTC')::date FROM mini_asynq.missing_partitions($1::text::interval)`
	const fix = `SELECT mini_asynq.create_partition(parent, begins) FROM mini_asynq.missing_partitions('7 days');`
	missing, err := names(ctx, e, sql, aheadWrong)
	if err != nil {
		return verdict{}, err
	}
	if len(missing) > 0 {
		return fail("missing: %s. Rows of that time go to a default partition, where nothing retires them", some(missing)).by(fix), nil
	}
	if missing, err = names(ctx, e, sql, aheadNoticed); err != nil {
		return verdict{}, err
	}
	if len(missing) > 0 {
		return warn("missing: %s", some(missing)).by(fix), nil
	}
	return well("for %s at least", aheadNoticed), nil
}

// defaultTables: where rows end for which no partition was there, the table they belong to, and the column of their time.
var defaultTables = []struct{ name, parent, time string }{
	{"outbox_default", "outbox", "at"},
	{"jobs_done_default", "jobs_done", "finished_at"},
	{"jobs_dead_default", "jobs_dead", "finished_at"},
}

// moveSQL moves rows where they belong. It deletes from and inserts into the partition and its direct parent, on which no
// trigger is, so it makes no events.
const moveSQL = `BEGIN;
CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM mini_asynq.%[1]s;
DELETE FROM mini_asynq.%[1]s;
SELECT mini_asynq.create_partition('%[2]s', begins)
  FROM (SELECT DISTINCT date_bin(p.span, k.%[3]s, '2024-01-01 00:00:00+00') AS begins
          FROM kept k, mini_asynq.partitioned p WHERE p.parent = '%[2]s') AS days;
INSERT INTO mini_asynq.%[2]s SELECT * FROM kept;
COMMIT;`

func defaults(ctx context.Context, e *exam) (verdict, error) {
	var full, fixes []string
	for _, t := range defaultTables {
		var found bool
		if err := e.one(ctx, `SELECT EXISTS (SELECT FROM `+quoted(t.name)+`)`, nil, &found); err != nil {
			return verdict{}, err
		}
		if found {
			full = append(full, t.name)
			fixes = append(fixes, fmt.Sprintf(moveSQL, t.name, t.parent, t.time))
		}
	}
	if len(full) > 0 {
		return fail("rows in %s: nothing retires them, and the partition of their day cannot be made", some(full)).by(fixes...), nil
	}
	return well("they are"), nil
}

// Retirement is due with the partition's end and the time to keep; the server looks each hour.
const (
	retireNoticed = 6 * time.Hour
	retireWrong   = 3 * 24 * time.Hour
)

func retention(ctx context.Context, e *exam) (verdict, error) {
	type partition struct {
		Name string
		Late float64
	}
	list, err := rows[partition](ctx, e, `
		SELECT partition, extract(epoch FROM clock_timestamp() - ends - k.keep)::float8
		  FROM mini_asynq.partitions() p
		  JOIN (VALUES ('done', make_interval(secs => $1)), ('dead', make_interval(secs => $2)), ('events', make_interval(secs => $3))) AS k(class, keep)
		       USING (class)
		 WHERE clock_timestamp() - ends > k.keep ORDER BY 2 DESC`,
		e.config.KeepDone.Seconds(), e.config.KeepDead.Seconds(), e.config.KeepEvents.Seconds())
	if err != nil {
		return verdict{}, err
	}
	if len(list) == 0 || seconds(list[0].Late) < retireNoticed {
		return well("none is overdue"), nil
	}
	texts, fixes := make([]string, len(list)), []string(nil)
	for i, p := range list {
		texts[i] = fmt.Sprintf("%s (%s overdue)", p.Name, span(seconds(p.Late)))
		if len(p.Name) > 6 && p.Name[:6] != "outbox" { // of the outbox the server knows which snapshot must have seen it
			fixes = append(fixes, fmt.Sprintf("SELECT mini_asynq.empty_partition(%[1]s); SELECT mini_asynq.drop_partition(%[1]s); -- deletes its jobs", literal(p.Name)))
		}
	}
	v := warn("%s: old data is kept, and the disk fills", some(texts))
	if seconds(list[0].Late) >= retireWrong {
		v.status = Fail
	}
	return v.by(fixes...), nil
}

// Sequences: of their range.
const (
	sequenceNoticed = 0.5
	sequenceWrong   = 0.9
)

// usedSQL: what was given out, as far as an index leads there: fences of running jobs by jobs_lease, the newest rows of the
// outbox by outbox_xid.
const usedSQL = `
	SELECT coalesce((SELECT max(fence) FROM mini_asynq.jobs WHERE status = 'running'), 0),
	       coalesce((SELECT last_value FROM mini_asynq.fence), 0),
	       coalesce((SELECT max(id) FROM (SELECT id FROM mini_asynq.outbox ORDER BY xid DESC, id DESC LIMIT 100) AS newest), 0),
	       coalesce(pg_sequence_last_value('mini_asynq.outbox_id'::regclass), 0)`

func sequences(ctx context.Context, e *exam) (verdict, error) {
	type sequence struct {
		Name      string
		Value, Of int64
	}
	list, err := rows[sequence](ctx, e, `
		SELECT sequencename::text, coalesce(last_value, 0), max_value FROM pg_sequences
		 WHERE schemaname = 'mini_asynq' AND sequencename <> 'promise' ORDER BY 1`)
	if err != nil {
		return verdict{}, err
	}
	worst, texts := OK, []string(nil)
	for _, s := range list {
		used := float64(s.Value) / float64(s.Of)
		if used < sequenceNoticed {
			continue
		}
		texts = append(texts, fmt.Sprintf("%s has used %.0f %% of its numbers", s.Name, 100*used))
		if used >= sequenceWrong {
			worst = Fail
		} else if worst == OK {
			worst = Warn
		}
	}
	if worst != OK {
		return verdict{status: worst, detail: some(texts) + ": at the end nothing can be claimed or written"}.do(
			"Nobody reaches that by working: somebody called setval. Set it back above what is in use, while no server runs."), nil
	}
	var fenceUsed, fence, idUsed, id int64
	if err := e.one(ctx, usedSQL, nil, &fenceUsed, &fence, &idUsed, &id); err != nil {
		return verdict{}, err
	}
	var fixes []string
	if fenceUsed > fence {
		texts = append(texts, fmt.Sprintf("fence stands at %d, and a job runs under %d: fences would be given out twice", fence, fenceUsed))
		fixes = append(fixes, fmt.Sprintf("SELECT setval('mini_asynq.fence', %d);", fenceUsed+10_000_000))
	}
	if idUsed > id {
		texts = append(texts, fmt.Sprintf("outbox_id stands at %d, and %d is in use: events would come in the wrong order", id, idUsed))
		fixes = append(fixes, fmt.Sprintf("SELECT setval('mini_asynq.outbox_id', %d);", idUsed+10_000_000))
	}
	if len(texts) > 0 {
		return fail("%s", some(texts)).by(fixes...), nil
	}
	return well("fence at %d, outbox_id at %d", fence, id), nil
}

// Free space on the volume of the data folder, if that is on this machine.
const (
	roomNoticed = 1 << 30
	roomWrong   = 200 << 20
)

func disk(ctx context.Context, e *exam) (verdict, error) {
	if !local(e.conn.Config().Host) {
		return skip("the disk of another machine cannot be seen from here"), nil
	}
	var dir string
	if err := e.one(ctx, `SELECT current_setting('data_directory')`, nil, &dir); err != nil {
		return verdict{}, err
	}
	var volume syscall.Statfs_t
	err := syscall.Statfs(dir, &volume)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return skip("the data folder %s cannot be seen from here", dir), nil
	}
	if err != nil {
		return verdict{}, err
	}
	//nolint:unconvert // the width of the fields differs by system
	free := int64(min(uint64(volume.Bavail), math.MaxInt64/uint64(volume.Bsize)) * uint64(volume.Bsize)) //nolint:gosec // bounded
	switch {
	case free < roomWrong:
		return fail("%d MiB are free where %s lies", free>>20, dir), nil
	case free < roomNoticed:
		return warn("%d MiB are free where %s lies", free>>20, dir), nil
	}
	return well("%d GiB are free", free>>30), nil
}

func archive(ctx context.Context, e *exam) (verdict, error) {
	var mode string
	var failing bool
	var file string
	err := e.one(ctx, `
		SELECT current_setting('archive_mode'), coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false), coalesce(last_failed_wal, '')
		  FROM pg_stat_archiver`, nil, &mode, &failing, &file)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && mode == "off" {
		return well("there is none"), nil
	}
	if err != nil {
		return verdict{}, err
	}
	if failing {
		return warn("archiving fails, the last time for %s", file), nil
	}
	return well("it does"), nil
}
