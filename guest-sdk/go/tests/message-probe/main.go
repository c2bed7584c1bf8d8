// Does what a request's path says, for guest-sdk/tests/messages.toml.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir"
)

// Config is `[function.config]`.
type Config struct {
	Refuse bool `json:"refuse"`
}

type probe struct {
	paths map[weir.Exchange]string
	heads map[weir.Exchange]weir.Head
	ended *weir.Counter
}

func (p *probe) Configure(_ *weir.Setup, config *Config) error {
	if config.Refuse {
		return errors.New("configured to refuse")
	}
	p.paths = make(map[weir.Exchange]string)
	p.heads = make(map[weir.Exchange]weir.Head)
	p.ended = weir.NewCounter("ended")
	return nil
}

func field(head *weir.Head, name string) string {
	if value, ok := head.Field(name); ok {
		return string(value)
	}
	return "none"
}

func (p *probe) RequestHead(exchange weir.Exchange, head *weir.Head) weir.Outcome {
	path, _, _ := strings.Cut(string(head.Path()), "?")
	p.paths[exchange] = path
	switch path {
	case "/look":
		head.Add("X-Look", fmt.Sprintf("%s %s %s %d %d %s %s %s", head.Method(), head.Path(), head.Authority(), head.Version(),
			head.BodyLength(), field(head, "X-Test"), field(head, "x-tesT-"), head.Client().Addr()))
	case "/change":
		head.Add("x-ONCE", "0")
		if !head.Set("X-Once", "1") || !head.Remove("X-GONE") || head.Remove("x-gone") || !head.Add("X-More", "2") {
			return weir.Reset
		}
		head.SetPath("/changed?c")
		names := []string{"x-names"}
		for name := range head.Fields {
			if bytes.HasPrefix(name, []byte("x-")) {
				names = append(names, string(name))
			}
		}
		slices.Sort(names)
		head.Set("x-names", strings.Join(names, " "))
	case "/full":
		for head.Add("x-long", strings.Repeat("long", 100)) {
		}
		if head.Set("x-long", strings.Repeat("l", 1<<16)) || head.SetPath(strings.Repeat("/", 1<<16)) {
			return weir.Reset
		}
		return exchange.Answer(431, nil, nil)
	case "/answer":
		return exchange.Answer(418, []weir.Field{{Name: "x-a", Value: "ä"}, {Name: "content-type", Value: "text/plain"}}, []byte("täpot\n"))
	case "/route":
		head.Set("x-routed", fmt.Sprint(exchange.Route(0) == nil, exchange.Route(9) == nil))
		head.Set("x-healthy", fmt.Sprint(weir.Healthy(0) && weir.Active(9) == 0))
	case "/clock":
		past := time.Unix(1_600_000_000, 0)
		head.Set("x-clock", fmt.Sprint(time.Unix(0, int64(weir.Wall())).After(past), weir.Random() != weir.Random()))
	case "/finished":
		head.Set("x-finished", "yes")
		return weir.Finished
	case "/add":
		return wait(exchange.StoreAdd([]byte("sum"), 2, time.Minute))
	case "/store":
		if exchange.StoreSet([]byte("key"), []byte("kept"), 0) != nil {
			return weir.Reset
		}
		return wait(exchange.StoreGet([]byte("key")))
	case "/none":
		return wait(exchange.StoreGet([]byte("nothing")))
	case "/life":
		if exchange.StoreSet([]byte("short"), []byte("kept"), 400*time.Microsecond) != nil {
			return weir.Reset
		}
		return wait(exchange.Sleep(50 * time.Millisecond))
	case "/bytes":
		weir.Logf(weir.Info, "bytes %s", "\xff")
		if exchange.Answer(200, []weir.Field{{Name: "x-a", Value: "\xff"}}, nil) != weir.Reset {
			return weir.Continue
		}
		return exchange.Answer(200, nil, []byte("refused"))
	case "/sleep":
		return wait(exchange.Sleep(time.Millisecond))
	case "/mark":
		p.heads[exchange] = *head
		return wait(exchange.StoreGet([]byte("nothing")))
	}
	return weir.Continue
}

func wait(_ weir.Token, err error) weir.Outcome {
	if err != nil {
		return weir.Reset
	}
	return weir.Wait
}

func (p *probe) Resume(exchange weir.Exchange, resumed *weir.Resumed) weir.Outcome {
	text := ""
	switch p.paths[exchange] {
	case "/mark":
		head := p.heads[exchange]
		head.Set("x-mark", fmt.Sprint(resumed.Err == weir.ErrNoSuchKey))
		return weir.Continue
	case "/add":
		text = fmt.Sprintf("sum %d", resumed.Number())
	case "/store":
		text = fmt.Sprintf("value %s", resumed.Body)
	case "/none":
		if resumed.Err == weir.ErrNoSuchKey {
			text = "no such key"
		}
	case "/life":
		if resumed.Err == nil && len(resumed.Body) == 0 {
			return wait(exchange.StoreGet([]byte("short")))
		}
		if resumed.Err == weir.ErrNoSuchKey {
			text = "no such key"
		}
	default:
		return weir.Continue
	}
	return exchange.Answer(200, nil, []byte(text))
}

func (p *probe) piece(exchange weir.Exchange, piece *weir.Piece) weir.Outcome {
	data := piece.Data()
	switch p.paths[exchange] {
	case "/upper":
		copy(data, bytes.ToUpper(data))
		piece.Changed()
	case "/longer":
		if len(data) > 0 && !piece.Set(slices.Concat(data, []byte(", "), data)) || piece.Resize(piece.Room()+1) {
			return weir.Reset
		}
	case "/dropped":
		piece.Drop()
	case "/hold":
		if !piece.Last() {
			return weir.HoldPiece
		}
	}
	return weir.Continue
}

func (p *probe) RequestBody(exchange weir.Exchange, piece *weir.Piece) weir.Outcome {
	return p.piece(exchange, piece)
}

func (p *probe) ResponseBody(exchange weir.Exchange, piece *weir.Piece) weir.Outcome {
	return p.piece(exchange, piece)
}

func (p *probe) ResponseHead(exchange weir.Exchange, head *weir.Head) weir.Outcome {
	switch p.paths[exchange] {
	case "/response":
		head.Set("x-server", fmt.Sprintf("%d %s %d", head.Status(), field(head, "X-Server"), head.Upstream()))
		head.Remove("Server")
		head.SetStatus(299)
	case "/finished":
		head.SetStatus(500)
	}
	return weir.Continue
}

func (p *probe) Ended(exchange weir.Exchange, end weir.End) {
	delete(p.paths, exchange)
	if end.How == weir.Delivered && end.Upstream == 0 || end.How == weir.FunctionAnswered && end.Upstream == -1 {
		p.ended.Add(1)
	}
}

func init() { weir.ExportMessage[Config](&probe{}) }

func main() {}
