//go:build wasm && message

package weir

import "unsafe"

//go:wasmexport weir:net/message@0.1.0#configure
func exportMessageConfigure(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept uint32, seed uint64,
	ports, portsLength, functions, functionsLength, position, config, configLength uint32) unsafe.Pointer {
	return configured(begin(windowBytes, windowAlign, roomBytes, stateBytes, stateAlign, stateKept, seed,
		ports, portsLength, functions, functionsLength, position, config, configLength))
}

//go:wasmexport weir:net/message@0.1.0#request-head
func exportRequestHead(exchange, at uint32) uint64 {
	return onHead(exported.handlers.requestHead, exchange, at)
}

//go:wasmexport weir:net/message@0.1.0#request-body
func exportRequestBody(exchange, offset, length, last uint32) uint64 {
	return onPiece(exported.handlers.requestBody, exchange, offset, length, last)
}

//go:wasmexport weir:net/message@0.1.0#response-head
func exportResponseHead(exchange, at uint32) uint64 {
	return onHead(exported.handlers.responseHead, exchange, at)
}

//go:wasmexport weir:net/message@0.1.0#response-body
func exportResponseBody(exchange, offset, length, last uint32) uint64 {
	return onPiece(exported.handlers.responseBody, exchange, offset, length, last)
}

//go:wasmexport weir:net/message@0.1.0#resume
func exportMessageResume(exchange, token, status, _, body, length uint32) uint64 {
	return onResume(exchange, token, status, body, length)
}

//go:wasmexport weir:net/message@0.1.0#ended
func exportMessageEnded(exchange, how, upstream uint32, nanoseconds uint64) {
	onEnded(exchange, how, upstream, nanoseconds)
}

//go:wasmexport weir:net/message@0.1.0#tick
func exportMessageTick(now uint64) { tick(now) }
