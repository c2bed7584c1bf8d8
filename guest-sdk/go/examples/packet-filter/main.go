// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.
package main

import (
	"fmt"

	"weir"
)

type packetFilter struct {
	rules []rule
	allow bool
}

func (f *packetFilter) Configure(_ *weir.Setup, config *Config) error {
	f.allow = true
	if config.Default != nil {
		allow, err := allows(*config.Default)
		if err != nil {
			return fmt.Errorf("default: %w", err)
		}
		f.allow = allow
	}
	if len(config.Rules) > rulesMax {
		return fmt.Errorf("rules: %d are too many, %d at most", len(config.Rules), rulesMax)
	}
	for i := range config.Rules {
		read, err := config.Rules[i].read()
		if err != nil {
			return fmt.Errorf("rules[%d].%w", i, err)
		}
		f.rules = append(f.rules, read)
	}
	return nil
}

func (f *packetFilter) Process(burst *weir.Burst) {
	for i := range burst.Len() {
		packet := burst.Packet(i)
		headers, err := weir.Parse(packet.Data())
		if err == weir.ErrMalformed || err == nil && !f.allows(&headers) {
			packet.SetVerdict(weir.Drop(1))
		}
	}
}

func (f *packetFilter) allows(headers *weir.Headers) bool {
	for i := range f.rules {
		if f.rules[i].matches(headers) {
			return f.rules[i].allow
		}
	}
	return f.allow
}

func init() { weir.Export[Config](&packetFilter{}) }

func main() {}
