package pgembed_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if act := helperAct(); act != nil {
		act()
		return
	}
	goleak.VerifyTestMain(m)
}
