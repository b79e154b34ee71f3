// What Ollama makes of a Modelfile: its commands, its parameters, and the prompt of a conversation.
//
// Reads {"modelfile": ..., "messages": [...]} on stdin. Used by test_real_servers.py, where MODELFILE_PARSER names
// the program. To build it, copy this file into a checkout of ollama/ollama and compile it with Go 1.26 or later:
//
//	mkdir cmd/modelfile && cp modelfile_parser.go cmd/modelfile/main.go && go build -o modelfile ./cmd/modelfile

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/template"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	var asked struct {
		Modelfile string        `json:"modelfile"`
		Messages  []api.Message `json:"messages"`
	}
	check(json.NewDecoder(os.Stdin).Decode(&asked))
	file, err := parser.ParseFile(strings.NewReader(asked.Modelfile))
	check(err)
	parameters := map[string]any{}
	prompt := ""
	for _, command := range file.Commands {
		switch command.Name {
		case "model", "adapter", "system", "license", "message":
		case "template":
			made, err := template.Parse(command.Args)
			check(err)
			var text bytes.Buffer
			check(made.Execute(&text, template.Values{Messages: asked.Messages}))
			prompt = text.String()
		default:
			known, err := api.FormatParams(map[string][]string{command.Name: {command.Args}})
			check(err)
			for key, value := range known {
				parameters[key] = value
			}
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"commands": file.Commands, "parameters": parameters, "prompt": prompt}))
}
