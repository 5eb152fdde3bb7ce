package scripted_test

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent/scripted"
)

var update = flag.Bool("update", false, "write what the server answers into testdata as expected")

// TestGolden plays each folder of testdata/answers: the server of script.yaml
// gets request.json and must answer answer.txt, byte for byte but for ids.
func TestGolden(t *testing.T) {
	scripts, err := filepath.Glob("testdata/answers/*/script.yaml")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range scripts {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			script, err := scripted.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			_, url := start(t, script, scripted.Options{})
			got := exchange(t, url, filepath.Join(dir, "request.json"))
			golden := filepath.Join(dir, "answer.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

var id = regexp.MustCompile(`(msg|toolu|req)_01[0-9a-f]{18}`)

// exchange posts the file and writes down the answer: status, the headers that
// count, body, and how the connection broke where it did.
func exchange(t *testing.T, url, requestFile string) string {
	t.Helper()
	request, err := os.Open(requestFile)
	if err != nil {
		t.Fatal(err)
	}
	defer request.Close()
	response, err := http.Post(url+"/v1/messages", "application/json", request)
	if err != nil {
		return broken(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)

	var out strings.Builder
	fmt.Fprintln(&out, response.Status)
	for _, name := range []string{"Content-Type", "Retry-After", "Anthropic-Ratelimit-Unified-Status"} {
		if value := response.Header.Get(name); value != "" {
			fmt.Fprintf(&out, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintf(&out, "\n%s\n%s", id.ReplaceAll(body, []byte("${1}_ID")), broken(err))
	return out.String()
}

func broken(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("[%v]\n", err)
}
