// Command server is the binary mini-asynq: it turns signals into the end of a context and runs the command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mini-asynq/mini-asynq/internal/cli"
)

func main() {
	// Signals after the first change nothing: the stop is bounded, and cutting it short would cost attempts.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	os.Exit(cli.Run(ctx, os.Args[1:]))
}
