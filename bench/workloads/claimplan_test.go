package workloads

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// logged is a log with the plan of one claim, as auto_explain writes it.
func logged(plan ...string) string {
	return strings.Join(append([]string{
		"2026-01-02 03:04:05.678 UTC [9] LOG:  duration: 0.123 ms  plan:",
		"\tQuery Text: ",
		"\tUPDATE mini_asynq.jobs",
		"\t   SET status = 'running'",
		"\t WHERE ctid = ANY (ARRAY(SELECT ctid FROM mini_asynq.jobs LIMIT 1 FOR UPDATE SKIP LOCKED))",
	}, append(plan, "2026-01-02 03:04:05.679 UTC [9] LOG:  something else", "\tSeq Scan on another", "")...), "\n")
}

var goodPlan = []string{
	"\tUpdate on jobs  (cost=9.5..30.2 rows=10 width=100)",
	"\t  ->  Index Scan using jobs_claim on jobs jobs_1  (cost=0.1..8.2 rows=1 width=6)",
	"\t  ->  Tid Scan on jobs  (cost=0.0..20.1 rows=10 width=100)",
}

func TestClaimMayReadItsIndexOnly(t *testing.T) {
	t.Parallel()
	claims, err := checkPlans(logged(goodPlan...) + logged(goodPlan...))
	require.NoError(t, err)
	require.Equal(t, 2, claims)
}

func TestPlansThatDependOnEstimatesAreRefused(t *testing.T) {
	t.Parallel()
	for want, plan := range map[string][]string{
		"has a Seq Scan":                     append(goodPlan[:3:3], "\t  ->  Seq Scan on queues  (cost=0.0..1.0 rows=1 width=1)"),
		"has a Hash Join":                    append(goodPlan[:3:3], "\t  ->  Hash Join  (cost=0.0..1.0 rows=1 width=1)"),
		"has a Bitmap":                       append(goodPlan[:3:3], "\t  ->  Bitmap Heap Scan on jobs jobs_1"),
		"does not read the index jobs_claim": {goodPlan[0], goodPlan[2]},
		"has no node Update on jobs":         goodPlan[1:],
	} {
		_, err := checkPlans(logged(plan...))
		var fault *PlanError
		require.ErrorAs(t, err, &fault, want)
		require.Equal(t, want, fault.Found)
	}
}

func TestStatementsAreCountedHoweverTheyAreSent(t *testing.T) {
	t.Parallel()
	require.Equal(t, 2, countStatements(strings.Join([]string{
		"2026-01-02 03:04:05.678 UTC [9] LOG:  statement: SELECT 1",
		"2026-01-02 03:04:05.679 UTC [9] LOG:  execute stmtcache_1: SELECT $1",
		"2026-01-02 03:04:05.679 UTC [9] DETAIL:  parameters: $1 = 'LOG'",
		"2026-01-02 03:04:06.000 UTC [8] LOG:  checkpoint starting: time",
		"",
	}, "\n")))
}
