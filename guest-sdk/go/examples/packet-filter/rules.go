package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"weir"
)

const rulesMax = 64

// Config is `[function.config]`.
type Config struct {
	Default *string   `json:"default"`
	Rules   []written `json:"rules"`
}

// A rule as it is written.
type written struct {
	Action *string         `json:"action"`
	Proto  json.RawMessage `json:"proto"`
	Src    *string         `json:"src"`
	Dst    *string         `json:"dst"`
	Sport  json.RawMessage `json:"sport"`
	Dport  json.RawMessage `json:"dport"`
}

func (w *written) read() (read rule, err error) {
	if w.Action == nil {
		return read, errors.New("action: it is missing; allowed are allow, deny")
	}
	if read.allow, err = allows(*w.Action); err != nil {
		return read, fmt.Errorf("action: %w", err)
	}
	if read.protocol, err = protocol(w.Proto); err != nil {
		return read, fmt.Errorf("proto: %w", err)
	}
	src, err := prefix(w.Src)
	if err != nil {
		return read, fmt.Errorf("src: %w", err)
	}
	dst, err := prefix(w.Dst)
	if err != nil {
		return read, fmt.Errorf("dst: %w", err)
	}
	read.src, read.dst, read.version = maskOf(src), maskOf(dst), versionOf(src, dst)
	if read.sport, err = portRange(w.Sport); err != nil {
		return read, fmt.Errorf("sport: %w", err)
	}
	if read.dport, err = portRange(w.Dport); err != nil {
		return read, fmt.Errorf("dport: %w", err)
	}
	return read, nil
}

func allows(action string) (bool, error) {
	if action != "allow" && action != "deny" {
		return false, fmt.Errorf("unknown value `%s`; allowed are allow, deny", action)
	}
	return action == "allow", nil
}

func protocol(text json.RawMessage) (int, error) {
	if text == nil {
		return -1, nil
	}
	names := map[string]int{`"tcp"`: weir.TCP, `"udp"`: weir.UDP, `"icmp"`: weir.ICMP, `"icmpv6"`: weir.ICMPv6}
	if number, known := names[string(text)]; known {
		return number, nil
	}
	number, err := strconv.ParseUint(string(text), 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%s is no protocol; allowed are tcp, udp, icmp, icmpv6 and 0 to 255", text)
	}
	return int(number), nil
}

func prefix(text *string) (netip.Prefix, error) {
	if text == nil {
		return netip.Prefix{}, nil
	}
	read, err := netip.ParsePrefix(*text)
	if err != nil {
		var address netip.Addr
		address, err = netip.ParseAddr(*text)
		read = netip.PrefixFrom(address, address.BitLen())
	}
	if err != nil {
		return read, fmt.Errorf("%q is no prefix such as 10.0.0.0/8 or 2001:db8::1", *text)
	}
	return read, nil
}

func portRange(text json.RawMessage) (ports, error) {
	if text == nil {
		return anyPort, nil
	}
	low, high, isRange := strings.Cut(strings.Trim(string(text), `"`), "-")
	if !isRange {
		high = low
	}
	from, err := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if err != nil || err2 != nil || from > to {
		return ports{}, fmt.Errorf("%s is no port such as 80 and no range such as 1000-2000", text)
	}
	return ports{int32(from), int32(to)}, nil
}
