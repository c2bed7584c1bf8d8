// Refuses requests for private paths, and marks those that pass.
package main

import (
	"bytes"
	"fmt"
	"strings"

	"weir"
)

// Config is `[function.config]` of the chain.
type Config struct {
	// Beginnings of paths that are refused.
	Private []string `json:"private"`
}

type pathGuard struct {
	private [][]byte
	refused *weir.Counter
}

func (g *pathGuard) Configure(_ *weir.Setup, config *Config) error {
	if config.Private == nil {
		return fmt.Errorf("private: a list of paths is needed")
	}
	g.refused = weir.NewCounter("refused")
	for _, path := range config.Private {
		if !strings.HasPrefix(path, "/") {
			return fmt.Errorf("private: %q is no path: it must begin with /", path)
		}
		g.private = append(g.private, []byte(path))
	}
	return nil
}

// Whether servers may read a path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`.
func isUnclear(path []byte) bool {
	return bytes.ContainsAny(path, `%\;`) || bytes.Contains(path, []byte("//")) || bytes.Contains(path, []byte("/."))
}

// It is called for the heads of requests because it has this method.
func (g *pathGuard) RequestHead(exchange weir.Exchange, head *weir.Head) weir.Outcome {
	path, _, _ := bytes.Cut(head.Path(), []byte("?"))
	private := isUnclear(path)
	for _, one := range g.private {
		private = private || bytes.HasPrefix(path, one)
	}
	if private {
		g.refused.Add(1)
		kind := weir.Field{Name: "content-type", Value: "text/plain; charset=utf-8"}
		return exchange.Answer(403, []weir.Field{kind}, []byte("This is private.\n"))
	}
	if !head.Set("x-guard", "passed") {
		return exchange.Answer(431, nil, []byte("The request's head is too large.\n"))
	}
	return weir.Continue
}

func init() { weir.ExportMessage[Config](&pathGuard{}) }

func main() {}
