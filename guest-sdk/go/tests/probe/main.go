// Does what its config says, for tests/tests/language_probes.rs.
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"weir"
	_ "weir/snapshot"
)

// Config is `[function.config]`.
type Config struct {
	Mode string `json:"mode"`
}

type probe struct {
	mode    string
	seen    int
	packets *weir.Counter
}

func (p *probe) Configure(setup *weir.Setup, config *Config) error {
	p.mode = config.Mode
	p.packets = weir.NewCounter("packets")
	fmt.Println("printed", "by", p.mode)
	weir.Logf(weir.Warn, "ports %s, function %s", strings.Join(setup.Ports, " "), setup.Functions[setup.Position])
	switch p.mode {
	case "name":
		weir.NewGauge("no-name")
	case "refuse":
		return errors.New("configured to refuse")
	case "wasi":
		return wasi()
	}
	return nil
}

// What a program expects of its system, and what of it there is.
func wasi() error {
	if time.Now().Before(time.Time{}) || time.Since(time.Now()) < 0 {
		return errors.New("the clock goes backwards")
	}
	random := make([]byte, 24)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "random %x\n", random)
	if _, err := os.ReadFile("/etc/passwd"); err == nil {
		return errors.New("there are files")
	}
	if _, err := os.Create("file"); err == nil {
		return errors.New("files can be made")
	}
	if len(os.Environ()) != 0 || len(os.Args) > 1 {
		return fmt.Errorf("there is an environment: %v, %v", os.Environ(), os.Args)
	}
	fmt.Print("a line that does not end")
	return nil
}

func (p *probe) throws(data []byte) byte { return data[len(data)] }

func (p *probe) Process(burst *weir.Burst) {
	for i := range burst.Len() {
		packet := burst.Packet(i)
		p.seen++
		p.packets.Add(1)
		switch p.mode {
		case "throw":
			p.throws(packet.Data())
		case "tag":
			packet.Prepend(4)
			data := packet.Data()
			copy(data, data[4:16])
			copy(data[12:], []byte{0x81, 0, 0, 7})
		case "strip":
			packet.Strip(14)
		case "write":
			copy(packet.Data(), []byte{2, 2, 2, 2, 2, 2})
			packet.SetVerdict(weir.Drop(uint32(len(packet.Data()))))
		case "garbage":
			// Work for the collector.
			lines := make([]string, 0, 64)
			for n := range 64 {
				lines = append(lines, fmt.Sprint(n, p.seen))
			}
			runtime.KeepAlive(lines)
		default:
			if _, err := weir.Parse(packet.Data()); err == nil {
				packet.SetVerdict(weir.Drop(9))
			}
		}
	}
}

func (p *probe) Save() []byte { return []byte(strconv.Itoa(p.seen)) }

func (p *probe) Restore(saved []byte) error {
	seen, err := strconv.Atoi(string(saved))
	if err != nil {
		return fmt.Errorf("%s is no count", saved)
	}
	p.seen = seen
	return nil
}

func init() { weir.Export[Config](&probe{}) }

func main() {}
