package scripted_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"claude-runner/agent/scripted"
)

func Example() {
	server := scripted.New(scripted.MustParse(`
rules:
  - match: {message: '/my name is (\w+)/'}
    answer:
      - text: "Hello {{.Match 1}}."
    usage: {input_tokens: 12, output_tokens: 4}`), scripted.Options{})
	defer server.Close()
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}

	body := `{"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi, my name is Ada"}]}`
	response, err := http.Post(url+"/v1/messages", "application/json", strings.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	fmt.Println(strings.Contains(string(answer), "Hello Ada."), err)
	fmt.Println(server.Served().InputTokens, server.Problems())
	// Output:
	// true <nil>
	// 12 []
}
