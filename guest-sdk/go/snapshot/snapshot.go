//go:build wasm

// Package snapshot exports what carries a function's private state over to its successor. Import it for its effect
//
//	import _ "weir/snapshot"
//
// in a function that implements weir.Snapshot and has state = "save" in its function.toml.
package snapshot

import (
	"unsafe"
	"weir"
)

//go:wasmexport weir:net/snapshot@0.1.0#save
func save() unsafe.Pointer { return weir.Saved() }

//go:wasmexport weir:net/snapshot@0.1.0#restore
func restore(at, length uint32) unsafe.Pointer { return weir.Restored(at, length) }
