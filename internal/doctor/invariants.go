package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
)

func itoa(n int) string { return strconv.Itoa(n) }

// The queries are those of the tests. Those about the whole history say nothing once retention has dropped a part of it.
// R4 and R10 have checks of their own here.
var (
	wholeHistory = []string{"E2", "E3", "E5", "E6"}
	ownChecks    = []string{"R4", "R10"}
)

// smallEnough is up to how many rows, by statistics, the queries may read whole tables of a database that works.
const smallEnough = 200_000

const sizeSQL = `
	SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint,
	       -- Of tables that were never analysed: by their pages.
	       coalesce(sum(pg_relation_size(c.oid)) FILTER (WHERE c.reltuples < 0), 0)::bigint / 500,
	       (SELECT count(*) FILTER (WHERE floor_seq > base_seq) = 0 AND count(*) <= 1 FROM mini_asynq.epochs)
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' AND c.relkind = 'r' AND c.relname ~ '^(jobs|outbox|ticks)'`

// invariantsHold runs the queries of the tests in one snapshot, as long as the tables are small; what is too slow is
// named, not hidden.
func invariantsHold(ctx context.Context, e *exam) (verdict, error) {
	var counted, guessed int64
	var whole bool
	if err := e.one(ctx, sizeSQL, nil, &counted, &guessed, &whole); err != nil {
		return verdict{}, err
	}
	if n := counted + guessed; n > smallEnough {
		return skip("the tables have some %d rows: these queries read them whole", n), nil
	}
	var broken, slow []string
	made := 0
	began := time.Now()
	err := e.look(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true)`, itoa(int(e.config.CheckLimit.Milliseconds()/4))); err != nil {
			return err
		}
		for _, q := range invariants.Queries() {
			if q.When != invariants.Always || slices.Contains(ownChecks, q.Name) || !whole && slices.Contains(wholeHistory, q.Name) {
				continue
			}
			if time.Since(began) > e.config.CheckLimit/2 {
				slow = append(slow, q.Name)
				continue
			}
			// In a savepoint: one that is too slow ends itself and not the transaction.
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				found, err := q.Rows(ctx, tx)
				if len(found) > 0 {
					broken = append(broken, fmt.Sprintf("%s, %s: %s", q.Name, q.Says, some(found)))
				}
				return err
			})
			var pg *pgconn.PgError
			switch {
			case errors.As(err, &pg) && pg.Code == "57014": // query_canceled
				slow = append(slow, q.Name)
			case err != nil:
				return fmt.Errorf("%s: %w", q.Name, err)
			default:
				made++
			}
		}
		return nil
	})
	if err != nil {
		return verdict{}, err
	}
	if len(broken) > 0 {
		return fail("%s", strings.Join(broken, "; ")), nil
	}
	detail := fmt.Sprintf("%d looked at", made)
	if len(slow) > 0 {
		detail += ", too slow for now: " + some(slow)
	}
	return well("%s", detail), nil
}
