//go:build !wasm

package weir

import (
	"fmt"
	"os"
	"time"
)

// Outside of Wasm, for unit tests of a function's own parts: logs go to standard error, counters nowhere.

func hostLog(level Level, message string) {
	names := [...]string{"trace", "debug", "info", "warn", "error"}
	fmt.Fprintf(os.Stderr, "%s: %s\n", names[level], message)
}

func hostNow() uint64 { return uint64(time.Now().UnixNano()) }

func hostCounterAdd(string, uint64) {}

func hostGaugeSet(string, float64) {}

func hostSetTimer(uint64) {}

func hostSendCopy([]byte, Verdict) error { return nil }
