//go:build !wasm

package weir

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// Outside of Wasm, for unit tests of a function's own parts: logs go to standard error, counters nowhere, and the host agrees to everything.

func hostLog(level Level, message string) {
	names := [...]string{"trace", "debug", "info", "warn", "error"}
	fmt.Fprintf(os.Stderr, "%s: %s\n", names[level], message)
}

func hostNow() uint64 { return uint64(time.Now().UnixNano()) }

func hostWall() uint64 { return uint64(time.Now().UnixNano()) }

func hostRandom() uint64 { return rand.Uint64() }

func hostCounterAdd(string, uint64) {}

func hostGaugeSet(string, float64) {}

func hostSetTimer(uint64) {}

func hostSendCopy([]byte, Verdict) error { return nil }

func hostRoute(uint32, uint32) error { return nil }

func hostHealthy(uint32) bool { return true }

func hostActive(uint32) uint32 { return 0 }

func hostAnswer(uint32, int, []Field, []byte) error { return nil }

func hostStoreGet(uint32, []byte) (Token, error) { return 0, nil }

func hostStoreSet(uint32, []byte, []byte, uint64) error { return nil }

func hostStoreAdd(uint32, []byte, int64, uint64) (Token, error) { return 0, nil }

func hostSleep(uint32, uint64) (Token, error) { return 0, nil }
