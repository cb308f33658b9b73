package workloads

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// payloadBytes is the size of the payload of jobs over HTTP.
const payloadBytes = 200

// overHTTP enqueues single jobs at our server over so many keep-alive connections.
func overHTTP(connections int) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		server, err := peers.StartServer(ctx, c.server(false))
		if err != nil {
			return err
		}
		defer func() { _ = server.Close() }() // stopped below, when all went well
		lines := make([]*wire, connections)
		for i := range lines {
			if lines[i], err = dialWire(ctx, server.Addr); err != nil {
				return err
			}
			defer lines[i].close()
		}
		request := enqueueRequest(server.Addr)
		n, err := c.load(ctx, connections, 1, func(_ context.Context, caller int, _ int64) error {
			return lines[caller].call(request)
		})
		if err != nil {
			return err
		}
		return c.checkServer(ctx, server, waiting(n))
	}
}

// server is the configuration of our server in this cell.
func (c *cell) server(works bool) peers.ServerConfig {
	return peers.ServerConfig{Program: c.Server, DSN: c.db.DSN, Scratch: c.Scratch, Works: works}
}

// checkServer holds the account of our server against what it should be.
func (c *cell) checkServer(ctx context.Context, server *peers.Server, want peers.Account) error {
	if err := server.Published(ctx); err != nil {
		return err
	}
	got, err := server.Account(ctx)
	if err != nil {
		return err
	}
	c.account = got.String()
	return got.Check(c.peer, want)
}

// enqueueRequest is the same for every call: what is measured is the server, and the client shares its processors.
func enqueueRequest(host string) []byte {
	payload := `{"data":""}`
	payload = payload[:len(payload)-2] + strings.Repeat("x", payloadBytes-len(payload)) + `"}`
	body := `{"queue":"` + peers.Queue + `","payload":` + payload + `}`
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /api/v1/jobs HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		host, len(body), body)
	return b.Bytes()
}
