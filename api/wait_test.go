package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// parked runs a call that waits, and returns when it is parked.
func (d *door) parked(n int, call func() *answer) <-chan *answer {
	d.t.Helper()
	out := make(chan *answer, 1)
	go func() { out <- call() }() // ends with its answer; the test reads it
	require.Eventually(d.t, func() bool { return d.server.Parked() == n }, 10*time.Second, time.Millisecond)
	return out
}

// F19.2.
func TestWaitEndsWithTheJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"w"}`)
	waiting := d.parked(1, func() *answer { return d.get("/jobs/" + id + "?wait=60s") })
	job := d.claim("w")
	d.finish(jobs.Complete(&job.Job, json.RawMessage(`7`)))
	a := <-waiting
	require.Equal(t, "completed", a.is(http.StatusOK).text("status"))
	require.Equal(t, json.Number("7"), a.object()["result"])
	// Ended before: at once.
	require.Equal(t, "completed", d.get("/jobs/"+id+"?wait=60s").text("status"))
	require.Equal(t, "7", string(d.get("/jobs/"+id+"/result?wait=60s").is(http.StatusOK).raw))
	require.Zero(t, d.server.Parked())
}

func TestWaitSeesOtherEndsToo(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for name, end := range map[string]func(id string){
		"dead":      func(string) { d.finish(jobs.FailFinally(&d.claim("dead").Job, fails("x"))) },
		"cancelled": func(id string) { d.post("/admin/jobs/"+id+"/cancel", "", asAdmin).is(http.StatusOK) },
	} {
		id := d.enqueue(`{"queue":"` + name + `"}`)
		waiting := d.parked(1, func() *answer { return d.get("/jobs/" + id + "?wait=60s") })
		end(id)
		require.Equal(t, name, (<-waiting).is(http.StatusOK).text("status"))
	}
	// Deleted while somebody waits for a change of it.
	id := d.dead("deleted")
	waiting := d.parked(1, func() *answer { return d.get("/jobs/" + id + "?wait=60s&until=changed") })
	d.send(http.MethodDelete, "/api/v1/admin/jobs/"+id, "", asAdmin).is(http.StatusNoContent)
	(<-waiting).problem(http.StatusNotFound, "not-found")
}

func TestWaitUntilStartedAndChanged(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"u"}`)
	started := d.parked(1, func() *answer { return d.get("/jobs/" + id + "?wait=60s&until=started") })
	changed := d.parked(2, func() *answer { return d.get("/jobs/"+id+"?wait=60s&until=changed", header("If-None-Match", `"v1"`)) })
	d.claim("u")
	require.Equal(t, "running", (<-started).text("status"))
	require.Equal(t, "running", (<-changed).is(http.StatusOK).text("status"))
	// The caller is behind already: at once.
	d.get("/jobs/"+id+"?wait=60s&until=changed", header("If-None-Match", `"v1"`)).is(http.StatusOK)
	// Nothing happens: as it is, or "not modified" to who knows it.
	d.get("/jobs/"+id+"?wait=50ms&until=changed", header("If-None-Match", `"v2"`)).is(http.StatusNotModified)
	require.Equal(t, "running", d.get("/jobs/"+id+"?wait=50ms").is(http.StatusOK).text("status"))
}

func TestLeavingEndsTheWaitAndCancelsNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{}`)
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { // ends when the caller has left
		r := must(http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/api/v1/jobs/"+id+"?wait=60s", http.NoBody))
		response, err := d.client.Do(r)
		if err == nil {
			_ = response.Body.Close()
		}
		ended <- err
	}()
	require.Eventually(t, func() bool { return d.server.Parked() == 1 }, 10*time.Second, time.Millisecond)
	leave()
	require.Error(t, <-ended)
	require.Eventually(t, func() bool { return d.server.Parked() == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, "pending", d.get("/jobs/"+id).text("status"))
}

// F19.1, in small: the waits cost one read at their beginning and one at their end, whatever happens meanwhile.
func TestWaitersShareOneReader(t *testing.T) {
	t.Parallel()
	d := setup(t)
	const n = 200
	ids := make([]string, n)
	for i := range ids {
		ids[i] = d.enqueue(`{"queue":"many"}`)
	}
	answers := make([]*answer, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i] = d.get("/jobs/" + ids[i] + "?wait=60s") })
	}
	require.Eventually(t, func() bool { return d.server.Parked() == n }, 30*time.Second, time.Millisecond)
	for i := range 300 { // what does not concern them
		d.enqueue(`{"queue":"noise` + strconv.Itoa(i%3) + `"}`)
	}
	require.Equal(t, n, d.server.Parked())
	_, table := d.stream.Reads()
	require.Zero(t, table, "nobody read events from the table")
	for range n {
		d.finish(jobs.Complete(&d.claim("many").Job, nil))
	}
	all.Wait()
	for _, a := range answers {
		require.Equal(t, "completed", a.is(http.StatusOK).text("status"))
	}
}

func TestAsOfCoversTheAnswer(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := uid(d.dead("as-of"))
	var changing sync.WaitGroup
	changing.Go(func() { // the job changes all the time; ends after its last change
		for range 60 {
			_, err := jobs.RetryJob(t.Context(), d.pool, id, 0, jobs.Act{})
			if err != nil {
				t.Error(err)
				return
			}
			d.finish(jobs.FailFinally(&d.claim("as-of").Job, fails("x")))
		}
	})
	type read struct {
		asOf    string
		version int64
	}
	var reads []read
	for range 60 {
		list := d.get("/jobs?queue=as-of").is(http.StatusOK)
		version := must(list.data()[0].(map[string]any)["version"].(json.Number).Int64())
		reads = append(reads, read{list.text("as_of"), version})
	}
	changing.Wait()
	// Every event at or before as_of is in the answer.
	for _, r := range reads {
		asOf := must(d.stream.Resolve(t.Context(), r.asOf))
		for _, e := range must(d.stream.Read(t.Context(), d.stream.Floor(), 1000)) {
			if e.JobID == id && !asOf.Before(e.Position) {
				require.LessOrEqual(t, e.JobVersion, r.version)
			}
		}
	}
}
