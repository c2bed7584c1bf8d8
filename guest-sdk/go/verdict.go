package weir

// A Verdict says what becomes of a packet.
type Verdict uint32

const (
	// Next passes the packet to the next function, or lets it leave by the chain's output.
	Next Verdict = 0
	// Reply lets it leave by the port it came in by.
	Reply Verdict = 2
	// ToKernel gives it to the kernel's stack.
	ToKernel Verdict = 4
)

// Drop frees the packet; the reason, 0 to 16777215, is counted. Those from 63 on are counted as 63, together.
func Drop(reason uint32) Verdict { return Verdict(1 | reason<<8) }

// Forward lets the packet leave by this port (see Setup.Port).
func Forward(port uint16) Verdict { return Verdict(3 | uint32(port)<<8) }

// Jump continues with this function, a place in Setup.Functions behind the function's own.
func Jump(function int) Verdict { return Verdict(5 | uint32(function)<<8) }

// Clone is Next, and a copy of the packet as it is now leaves by this port.
func Clone(port uint16) Verdict { return Verdict(7 | uint32(port)<<8) }

// Move has the packet and its flow go on elsewhere: 0 is the kernel's stack, n the n-th of the function's targets in the
// chain.
func Move(target uint32) Verdict { return Verdict(8 | target<<8) }

// Final makes Next, Drop, Reply, Forward and ToKernel hold for all further packets of the flow in this direction.
func (v Verdict) Final() Verdict { return v | 0x80 }
