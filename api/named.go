package api

import (
	"context"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Calls on one thing go the same way: its name in the address, which find reads; no query; the body, which read reads; and
// what is to be done, with the deadline of a call. A body that comes slowly takes nothing from it.
func onNamed[N, B any](
	s *Server, c *gin.Context, find func(*gin.Context) (N, error), read func(N) (B, error),
	do func(ctx context.Context, name N, body B) error,
) error {
	name, err := find(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	body, err := read(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	return do(ctx, name, body)
}

// withName is a call on one thing without a body.
func withName[N any](s *Server, c *gin.Context, find func(*gin.Context) (N, error), do func(ctx context.Context, name N) error) error {
	nothing := func(N) (struct{}, error) { return struct{}{}, nil }
	return onNamed(s, c, find, nothing, func(ctx context.Context, name N, _ struct{}) error { return do(ctx, name) })
}

// withBody is one with a body, of which decode makes what do needs.
func withBody[N, B any](
	s *Server, c *gin.Context, find func(*gin.Context) (N, error), decode func(raw []byte, name N) (B, error),
	do func(ctx context.Context, name N, body B) error,
) error {
	read := func(name N) (body B, err error) {
		raw, err := readBody(c, s.jobBodyLimit())
		if err != nil {
			return body, err
		}
		return decode(raw, name)
	}
	return onNamed(s, c, find, read, do)
}

// actOn is an action, whose body may be left out. known names the fields of the body beside reason.
func actOn[N any](
	s *Server, c *gin.Context, find func(*gin.Context) (N, error), do func(context.Context, N, actionBody, jobs.Act) error,
	known ...string,
) error {
	read := func(N) (actionBody, error) { return s.readAction(c, known...) }
	return onNamed(s, c, find, read, func(ctx context.Context, name N, a actionBody) error {
		return do(ctx, name, a, s.actOf(c, a.reason))
	})
}
