// Package weir is for functions of Weir in Go: for packets, for requests and responses (messages), and for connections.
//
// A function implements [Function] and is handed to [Export] in an init function. It sees packets through a window: a
// part of its own memory that the host shares, so no packet is copied. README.md shows a whole one. One for messages or connections
// implements [Configurer] and what it wants to be called for, and is handed to [ExportMessage] or [ExportConnection].
//
// What a function gets from the host is valid until the call returns: keep copies.
package weir
