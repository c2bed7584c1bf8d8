//go:build wasm

package weir

import (
	"runtime"
	"unsafe"
)

//go:wasmimport weir:net/exchange@0.1.0 route
func sysRoute(exchange, upstream uint32, result unsafe.Pointer)

//go:wasmimport weir:net/exchange@0.1.0 healthy
func sysHealthy(upstream uint32) uint32

//go:wasmimport weir:net/exchange@0.1.0 active
func hostActive(upstream uint32) uint32

//go:wasmimport weir:net/exchange@0.1.0 answer-copy
func sysAnswerCopy(exchange, status uint32, fields unsafe.Pointer, count uint32, body unsafe.Pointer, length uint32, result unsafe.Pointer)

//go:wasmimport weir:net/exchange@0.1.0 store-get
func sysStoreGet(exchange uint32, key unsafe.Pointer, length uint32, result unsafe.Pointer)

//go:wasmimport weir:net/exchange@0.1.0 store-set
func sysStoreSet(exchange uint32, key unsafe.Pointer, length uint32, value unsafe.Pointer, bytes uint32, milliseconds uint64,
	result unsafe.Pointer)

//go:wasmimport weir:net/exchange@0.1.0 store-add
func sysStoreAdd(exchange uint32, key unsafe.Pointer, length uint32, delta int64, milliseconds uint64, result unsafe.Pointer)

//go:wasmimport weir:net/exchange@0.1.0 sleep
func sysSleep(exchange uint32, nanoseconds uint64, result unsafe.Pointer)

func bytesOf(bytes []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(bytes)), uint32(len(bytes))
}

func refused(result *[2]uint8) error {
	if result[0] == 0 {
		return nil
	}
	return refusals[result[1]]
}

// A result with a token, or a refusal in its first byte.
func token(result *[2]uint32) (Token, error) {
	if result[0]&0xff == 0 {
		return Token(result[1]), nil
	}
	return 0, refusals[result[1]&0xff]
}

func hostRoute(exchange, upstream uint32) error {
	var result [2]uint8
	sysRoute(exchange, upstream, unsafe.Pointer(&result))
	return refused(&result)
}

func hostHealthy(upstream uint32) bool { return sysHealthy(upstream) != 0 }

func hostAnswer(exchange uint32, status int, fields []Field, body []byte) error {
	// Copies of the texts, on the heap: addresses in a list do not follow a stack that is moved.
	length := 0
	for _, field := range fields {
		length += len(field.Name) + len(field.Value)
	}
	texts := make([]byte, 0, length)
	list := make([][4]uint32, len(fields))
	base := address(texts[:length])
	for i, field := range fields {
		list[i] = [4]uint32{base + uint32(len(texts)), uint32(len(field.Name)),
			base + uint32(len(texts)+len(field.Name)), uint32(len(field.Value))}
		texts = append(append(texts, field.Name...), field.Value...)
	}
	var result [2]uint8
	at, bytes := bytesOf(body)
	sysAnswerCopy(exchange, uint32(status), unsafe.Pointer(unsafe.SliceData(list)), uint32(len(list)), at, bytes, unsafe.Pointer(&result))
	runtime.KeepAlive(texts)
	return refused(&result)
}

func hostStoreGet(exchange uint32, key []byte) (Token, error) {
	var result [2]uint32
	at, length := bytesOf(key)
	sysStoreGet(exchange, at, length, unsafe.Pointer(&result))
	return token(&result)
}

func hostStoreSet(exchange uint32, key, value []byte, milliseconds uint64) error {
	var result [2]uint8
	at, length := bytesOf(key)
	from, bytes := bytesOf(value)
	sysStoreSet(exchange, at, length, from, bytes, milliseconds, unsafe.Pointer(&result))
	return refused(&result)
}

func hostStoreAdd(exchange uint32, key []byte, delta int64, milliseconds uint64) (Token, error) {
	var result [2]uint32
	at, length := bytesOf(key)
	sysStoreAdd(exchange, at, length, delta, milliseconds, unsafe.Pointer(&result))
	return token(&result)
}

func hostSleep(exchange uint32, nanoseconds uint64) (Token, error) {
	var result [2]uint32
	sysSleep(exchange, nanoseconds, unsafe.Pointer(&result))
	return token(&result)
}
