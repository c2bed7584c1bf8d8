package weir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
)

// A Function handles packets. C is what its table [function.config] of the chain is decoded into, by encoding/json; keys that
// C has not are refused.
type Function[C any] interface {
	// Configure prepares the function. The error is shown to whoever deploys the chain, which stays as it was.
	Configure(setup *Setup, config *C) error
	// Process handles a burst. All verdicts are Next before.
	Process(burst *Burst)
}

// A Ticker is a Function that SetTimer was called for.
type Ticker interface {
	// Tick is called once, at or soon after the time of SetTimer.
	Tick(now uint64)
}

// A Snapshot is a Function that hands private state to its successor. It imports weir/snapshot for that, and has state = "save"
// in function.toml.
type Snapshot interface {
	// Save is the state, in whatever form Restore of this and later versions reads; at most 1 MiB.
	Save() []byte
	// Restore takes over what the previous instance saved, after Configure. On an error the swap is refused.
	Restore(saved []byte) error
}

// Setup is what a function is told when it is configured.
type Setup struct {
	// Ports are the names of the ports; a port's number is its place.
	Ports []string
	// Functions are the names of the chain's functions, in order.
	Functions []string
	// Position is this function's place in Functions.
	Position int
	// Seed is a random number for hash seeds, the same for every instance of this function while the host runs.
	Seed uint64
	// State is the state region: memory that outlives the instance; nil without state = "region".
	State []byte
	// StateKept is true when State holds what an earlier instance left there. It can only be read then until Configure
	// returns.
	StateKept bool
}

// Port is the number of the port of this name.
func (s *Setup) Port(name string) (uint16, error) {
	for number, port := range s.Ports {
		if port == name {
			return uint16(number), nil
		}
	}
	return 0, fmt.Errorf("there is no port %q; there are %s", name, strings.Join(s.Ports, ", "))
}

// What Export was given, without its type.
var exported struct {
	configure func(*Setup, []byte) error
	process   func(*Burst)
	handlers  handlers
	function  any
}

// Export makes this the module's function. Call it once, in an init function.
func Export[C any](function Function[C]) {
	exported.process = function.Process
	exportAs(function, function.Configure)
}

func exportAs[C any](function any, configure func(*Setup, *C) error) {
	exported.function = function
	exported.configure = func(setup *Setup, text []byte) error {
		config := new(C)
		if err := decode(text, config); err != nil {
			return err
		}
		return configure(setup, config)
	}
}

func decode(text []byte, config any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(config)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Errorf("%s: it is a %s that does not fit %s", wrong.Field, wrong.Value, wrong.Type)
	case errors.Is(err, io.EOF):
		return errors.New("it is empty, expected is a table")
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func configure(setup *Setup, text []byte) error {
	defer logPanic()
	if exported.configure == nil {
		return errors.New("the module exports no function: call weir.Export, ExportMessage or ExportConnection in an init function")
	}
	return exported.configure(setup, text)
}

// Logs a panic with its stack, line by line, before it ends the instance.
func logPanic() {
	if cause := recover(); cause != nil {
		logLines(Error, fmt.Sprintf("panic: %v\n%s", cause, debug.Stack()))
		panic(cause)
	}
}

func logLines(level Level, text string) {
	for line := range strings.Lines(text) {
		Log(level, strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "))
	}
}
