//go:build wasm && !message && !connection

package weir

import "unsafe"

// What a function for packets exports. Those for messages and for connections are built with the tags `message` and `connection`.

//go:wasmexport weir:net/packet@0.1.0#configure
func exportConfigure(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept uint32, seed uint64,
	ports, portsLength, functions, functionsLength, position, config, configLength uint32) unsafe.Pointer {
	return fail(begin(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept, seed,
		ports, portsLength, functions, functionsLength, position, config, configLength))
}

//go:wasmexport weir:net/packet@0.1.0#process
func exportProcess(count uint32) {
	burst.count = int(count)
	process()
	afterBurst(burst.Now())
}

func process() {
	defer logPanic()
	exported.process(&burst)
}

//go:wasmexport weir:net/packet@0.1.0#tick
func exportTick(now uint64) { tick(now) }
