package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// run is the program as a function.
func run(ctx context.Context, args []string, out *os.File) error {
	o, err := readOptions(args)
	if err != nil {
		return err
	}
	s, err := newSession(o, out)
	if err != nil {
		return err
	}
	return errors.Join(s.run(ctx), s.close())
}
