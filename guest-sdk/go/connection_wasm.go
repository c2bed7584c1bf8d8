//go:build wasm && connection

package weir

import "unsafe"

//go:wasmexport weir:net/connection@0.1.0#configure
func exportConnectionConfigure(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept uint32, seed uint64,
	ports, portsLength, functions, functionsLength, position, config, configLength uint32) unsafe.Pointer {
	return configured(begin(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept, seed,
		ports, portsLength, functions, functionsLength, position, config, configLength))
}

//go:wasmexport weir:net/connection@0.1.0#opened
func exportOpened(exchange, at uint32) uint64 {
	return onHead(exported.handlers.opened, exchange, at)
}

//go:wasmexport weir:net/connection@0.1.0#data
func exportData(exchange, fromUpstream, offset, length, last uint32) uint64 {
	defer logPanic()
	piece := pieceAt(offset, length, last)
	outcome := exported.handlers.data(Exchange(exchange), fromUpstream != 0, piece)
	afterBurst(burst.Now())
	return ofPiece(outcome, piece)
}

//go:wasmexport weir:net/connection@0.1.0#resume
func exportConnectionResume(exchange, token, status, _, body, length uint32) uint64 {
	return onResume(exchange, token, status, body, length)
}

//go:wasmexport weir:net/connection@0.1.0#ended
func exportConnectionEnded(exchange, how, upstream uint32, nanoseconds uint64) {
	onEnded(exchange, how, upstream, nanoseconds)
}

//go:wasmexport weir:net/connection@0.1.0#tick
func exportConnectionTick(now uint64) { tick(now) }
