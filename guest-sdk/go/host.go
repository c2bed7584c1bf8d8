package weir

import (
	"fmt"
	"strings"
)

// A Level says how much a log line matters.
type Level uint8

const (
	// Trace is for single packets.
	Trace Level = iota
	// Debug is for who develops the function.
	Debug
	// Info is for what happens seldom and is as it should be.
	Info
	// Warn is for what may be wrong.
	Warn
	// Error is for what is wrong.
	Error
)

// Log writes a line to the function's log; bytes that are no UTF-8, as those of a client need not be, are shown as `?`. What is printed to
// standard output and error gets there, too.
func Log(level Level, message string) { hostLog(level, valid(message)) }

// Logf is Log with fmt.Sprintf.
func Logf(level Level, format string, arguments ...any) {
	Log(level, fmt.Sprintf(format, arguments...))
}

// The host takes UTF-8 only: another string is a trap.
func valid(text string) string { return strings.ToValidUTF8(text, "?") }

// Now is the time in nanoseconds, monotonic, by a call of the host. In a replay it is the capture's own. Burst.Now is free.
func Now() uint64 { return hostNow() }

// Wall is the time of the burst or event at hand in nanoseconds since 1970, or 0 if that is not known. It costs no call.
func Wall() uint64 { return hostWall() }

// Random is the next of a sequence of random numbers, by a call of the host: for hash seeds, sampling and back-off, not for keys. It begins alike in every
// instance of the function, and is fixed in `weir replay`.
func Random() uint64 { return hostRandom() }

// SetTimer asks for one call of Tick at or soon after this time (of Now). A later call replaces an earlier one; 0 cancels.
func SetTimer(at uint64) {
	timers.own = at
	arm()
}

// SendCopy copies these bytes into a new packet and sends it: for rare packets such as ICMP errors.
func SendCopy(packet []byte, verdict Verdict) error { return hostSendCopy(packet, verdict) }

// A Counter is shown in /metrics and in reports.
type Counter struct {
	name  string
	added uint64
}

// A Gauge is shown in /metrics and in reports.
type Gauge struct {
	name  string
	value float64
	set   bool
}

var (
	counters []*Counter
	gauges   []*Gauge
	dirty    bool
)

// NewCounter is a counter of this name: 1 to 64 of a-z0-9_. A function may have 64 counters and gauges. Make it in Configure: another name,
// and one too many, panic.
func NewCounter(name string) *Counter {
	for _, counter := range counters {
		if counter.name == name {
			return counter
		}
	}
	checkName(name)
	counter := &Counter{name: name}
	counters = append(counters, counter)
	return counter
}

// NewGauge is a gauge; names as for NewCounter.
func NewGauge(name string) *Gauge {
	for _, gauge := range gauges {
		if gauge.name == name {
			return gauge
		}
	}
	checkName(name)
	gauge := &Gauge{name: name}
	gauges = append(gauges, gauge)
	return gauge
}

// The host takes no other: that would be a fault when it is told, after the first packets.
func checkName(name string) {
	if len(name) == 0 || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		panic(fmt.Sprintf("weir: a counter or gauge cannot be named %q: allowed are 1 to 64 of a-z0-9_", name))
	}
	if len(counters)+len(gauges) == 64 {
		panic(fmt.Sprintf("weir: there are 64 counters and gauges without %q: no more are allowed", name))
	}
}

// Add costs no call: the host is told ten times a second.
func (c *Counter) Add(delta uint64) {
	c.added += delta
	dirty = true
}

// Set costs no call: the host is told ten times a second.
func (g *Gauge) Set(value float64) {
	g.value, g.set = value, true
	dirty = true
}

// Nanoseconds after which the host is told what was counted.
const flushEvery = 100_000_000

// The timer that the function and its counters share.
var timers struct{ own, flush, armed uint64 }

func flush() {
	for _, counter := range counters {
		if counter.added != 0 {
			hostCounterAdd(counter.name, counter.added)
			counter.added = 0
		}
	}
	for _, gauge := range gauges {
		if gauge.set {
			hostGaugeSet(gauge.name, gauge.value)
			gauge.set = false
		}
	}
	dirty, timers.flush = false, 0
}

// Called behind each burst.
func afterBurst(now uint64) {
	if !dirty {
		return
	}
	switch {
	case timers.flush == 0:
		timers.flush = now + flushEvery
	case now >= timers.flush:
		flush()
	default:
		return
	}
	arm()
}

func arm() {
	at := timers.own
	if at == 0 || timers.flush != 0 && timers.flush < at {
		at = timers.flush
	}
	if at != timers.armed {
		timers.armed = at
		hostSetTimer(at)
	}
}

func tick(now uint64) {
	defer logPanic()
	timers.armed = 0
	due := timers.own != 0 && timers.own <= now
	if due {
		timers.own = 0
		if ticker, ok := exported.function.(Ticker); ok {
			ticker.Tick(now)
		}
	}
	flush()
	arm()
}
