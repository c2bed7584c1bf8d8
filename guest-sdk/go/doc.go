// Package weir is for packet functions of Weir in Go.
//
// A function implements [Function] and is handed to [Export] in an init function. It sees packets through a window: a
// part of its own memory that the host shares, so no packet is copied. README.md shows a whole one.
//
// What a function gets from the host is valid until the call returns: keep copies.
package weir
