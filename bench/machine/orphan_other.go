//go:build !linux

package machine

import "syscall"

// endsWithUs is for Linux only; elsewhere a broken-off benchmark leaves its children.
func endsWithUs() *syscall.SysProcAttr { return nil }
