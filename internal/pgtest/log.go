package pgtest

import (
	"bytes"
	"sync"
)

// Log collects what a server under test logs, line by line, from any number of goroutines.
type Log struct {
	mu     sync.Mutex // guards buffer
	buffer bytes.Buffer
}

// Write takes in a line; it never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

// String is the log so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}
