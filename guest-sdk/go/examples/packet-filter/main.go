// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.
package main

import (
	"fmt"

	"weir"
)

type packetFilter struct {
	// Rules that may match packets of each version.
	v4, v6 []rule
	allow  bool
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
		if read.version == 0 || read.version == 4 {
			f.v4 = append(f.v4, read)
		}
		if read.version == 0 || read.version == 6 {
			f.v6 = append(f.v6, read)
		}
	}
	return nil
}

func (f *packetFilter) Process(burst *weir.Burst) {
	for i := range burst.Len() {
		each := burst.Packet(i)
		frame := each.Data()
		headers, err := weir.Parse(frame)
		if err == weir.ErrMalformed || err == nil && !f.allows(frame, &headers) {
			each.SetVerdict(weir.Drop(1))
		}
	}
}

func (f *packetFilter) allows(frame []byte, headers *weir.Headers) bool {
	rules := f.v6
	if headers.Src.Is4() {
		rules = f.v4
	}
	packet := packetOf(frame, headers)
	for i := range rules {
		if rules[i].matches(&packet) {
			return rules[i].allow
		}
	}
	return f.allow
}

func init() { weir.Export[Config](&packetFilter{}) }

func main() {}
