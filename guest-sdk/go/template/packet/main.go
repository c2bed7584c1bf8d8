// Drops TCP and UDP packets to blocked ports.
package main

import (
	"fmt"

	"weir"
)

// Config is `[function.config]` of the chain.
type Config struct {
	// Destination ports.
	Blocked []int `json:"blocked"`
}

type portBlock struct {
	blocked map[uint16]bool
	count   *weir.Counter
}

func (f *portBlock) Configure(_ *weir.Setup, config *Config) error {
	if config.Blocked == nil {
		return fmt.Errorf("blocked: a list of ports is needed")
	}
	f.blocked = make(map[uint16]bool)
	f.count = weir.NewCounter("blocked")
	for _, port := range config.Blocked {
		if port < 1 || port > 65535 {
			return fmt.Errorf("blocked: %d is no port; allowed are 1 to 65535", port)
		}
		f.blocked[uint16(port)] = true
	}
	return nil
}

func (f *portBlock) Process(burst *weir.Burst) {
	for i := range burst.Len() {
		packet := burst.Packet(i)
		// What is neither TCP nor UDP goes on: all verdicts are Next before.
		headers, err := weir.Parse(packet.Data())
		if err == weir.ErrMalformed {
			// A port could be hidden in what cannot be read, such as a tiny first fragment (RFC 1858).
			packet.SetVerdict(weir.Drop(2))
		} else if err == nil && headers.HasPorts && f.blocked[headers.DstPort] {
			packet.SetVerdict(weir.Drop(1))
			f.count.Add(1)
		}
	}
}

func init() { weir.Export[Config](&portBlock{}) }

func main() {}
