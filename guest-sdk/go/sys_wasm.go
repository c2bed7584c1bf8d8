//go:build wasm

package weir

import (
	"errors"
	"unsafe"
)

//go:wasmimport weir:net/host@0.1.0 attach-window
func sysAttachWindow(region unsafe.Pointer, length uint32) uint32

//go:wasmimport weir:net/host@0.1.0 attach-state
func sysAttachState(region unsafe.Pointer, length uint32) uint32

//go:wasmimport weir:net/host@0.1.0 log
func sysLog(level uint32, message unsafe.Pointer, length uint32)

//go:wasmimport weir:net/host@0.1.0 now
func hostNow() uint64

//go:wasmimport weir:net/host@0.1.0 random
func hostRandom() uint64

//go:wasmimport weir:net/host@0.1.0 counter-add
func sysCounterAdd(name unsafe.Pointer, length uint32, delta uint64)

//go:wasmimport weir:net/host@0.1.0 gauge-set
func sysGaugeSet(name unsafe.Pointer, length uint32, value float64)

//go:wasmimport weir:net/host@0.1.0 set-timer
func hostSetTimer(at uint64)

//go:wasmimport weir:net/host@0.1.0 send-copy
func sysSendCopy(packet unsafe.Pointer, length uint32, verdict uint32, result unsafe.Pointer)

func hostWall() uint64 { return burst.Wall() }

func hostLog(level Level, message string) {
	sysLog(uint32(level), unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}

func hostCounterAdd(name string, delta uint64) {
	sysCounterAdd(unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), delta)
}

func hostGaugeSet(name string, value float64) {
	sysGaugeSet(unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), value)
}

var refusals = [...]error{
	errors.New("the function does not own this buffer"),
	errors.New("the packet does not fit a buffer"),
	errors.New("a packet cannot be sent with this verdict"),
	errors.New("no buffer is free, or the function has its share of them"),
}

func hostSendCopy(packet []byte, verdict Verdict) error {
	var result [2]uint8
	sysSendCopy(unsafe.Pointer(unsafe.SliceData(packet)), uint32(len(packet)), uint32(verdict), unsafe.Pointer(&result))
	if result[0] == 0 {
		return nil
	}
	return refusals[result[1]]
}

// Room for what the host hands over: strings and lists are valid until the call returns, so it begins anew with each call.
// It is not taken from Go's heap, because the collector must not run while the host is in the middle of a call.
var (
	room [1<<20 + 16]byte
	used uint32
)

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	base := uint32(uintptr(unsafe.Pointer(&room)))
	at := (base + used + align - 1) &^ (align - 1)
	end := at - base + size
	if end > uint32(len(room)) || end < size {
		// A panic would ask the host for the time, which it must not now.
		trap()
	}
	used = end
	moved := unsafe.Pointer(uintptr(at))
	if oldSize != 0 {
		copy(unsafe.Slice((*byte)(moved), oldSize), unsafe.Slice((*byte)(old), oldSize))
	}
	return moved
}

// An access out of bounds.
func trap() { *(*byte)(unsafe.Pointer(^uintptr(0) >> 32)) = 0 }

func handed(at, length uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(at))), int(length))
}

func handedStrings(at, length uint32) []string {
	list := make([]string, length)
	for i := range list {
		pair := *(*[2]uint32)(unsafe.Pointer(uintptr(at) + uintptr(i)*8))
		list[i] = string(handed(pair[0], pair[1]))
	}
	return list
}

// Memory that the host maps its own over: it is Go's, but Go never looks into it, and never moves it.
func region(bytes uint32) []byte {
	const page = 65536
	memory := make([]byte, bytes+page)
	start := -uintptr(unsafe.Pointer(unsafe.SliceData(memory))) & (page - 1)
	return memory[start : start+uintptr(bytes)]
}

// Keeps regions alive as long as the instance.
var regions [2][]byte

var (
	burst Burst
	// What an export answers with, read by the host after it has returned.
	answer [3]uint32
	kept   []byte
)

func address(bytes []byte) uint32 {
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(bytes))))
}

func fail(err error) unsafe.Pointer {
	answer = [3]uint32{}
	if err != nil {
		kept = []byte(valid(err.Error()))
		answer = [3]uint32{1, address(kept), uint32(len(kept))}
	}
	return unsafe.Pointer(&answer)
}

// What `configure` is given, as the canonical ABI has it.
func begin(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept uint32, seed uint64,
	ports, portsLength, functions, functionsLength, position, config, configLength uint32) error {
	used = 0
	setup := Setup{
		Ports:     handedStrings(ports, portsLength),
		Functions: handedStrings(functions, functionsLength),
		Position:  int(position),
		Seed:      seed,
		StateKept: stateKept != 0,
	}
	text := handed(config, configLength)
	regions[0] = region(windowBytes + windowAlign)
	at := sysAttachWindow(unsafe.Pointer(unsafe.SliceData(regions[0])), windowBytes+windowAlign)
	burst.window = unsafe.Pointer(&regions[0][at])
	burst.bytes, burst.room = windowBytes, roomBytes
	if stateBytes != 0 {
		regions[1] = region(stateBytes + stateAlign)
		at := sysAttachState(unsafe.Pointer(unsafe.SliceData(regions[1])), stateBytes+stateAlign)
		setup.State = regions[1][at : at+stateBytes : at+stateBytes]
	}
	err := configure(&setup, text)
	if dirty {
		flush()
	}
	return err
}

// Saved is what the function saves, for package weir/snapshot: the address of a list.
func Saved() unsafe.Pointer {
	defer logPanic()
	kept = exported.function.(Snapshot).Save()
	answer = [3]uint32{address(kept), uint32(len(kept))}
	return unsafe.Pointer(&answer)
}

// Restored hands over a list that was saved, for package weir/snapshot.
func Restored(at, length uint32) unsafe.Pointer {
	defer logPanic()
	used = 0
	return fail(exported.function.(Snapshot).Restore(handed(at, length)))
}
