package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/scripted"
	"claude-runner/api/apitest"
)

// TestCurl holds that plain curl can submit a task, follow it as server-sent
// events, come again behind an event, and wait for its end.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip(err)
	}
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	p := startProgram(t, loadConfig(t, testConfig, variables(t, "local", url)))
	requireAgent(t, p, "local")
	c := p.chat(t, "")

	body := fmt.Sprintf(`{"sessionId": %q, "message": %q}`, c.id, hold(""))
	headers, submitted := runCurl(t, curl, "-i", p.base+"/task", "-H", "Content-Type: application/json", "-H", "Prefer: respond-async", "-d", body)
	if !strings.Contains(headers, " 202 ") || !strings.Contains(headers, "Location: /task/"+submitted.TaskID) {
		t.Fatalf("the submit: %s", headers)
	}
	task := p.base + "/task/" + submitted.TaskID
	c.await("started")
	if _, now := runCurl(t, curl, "-i", task+"?wait=10ms"); now.Status != "running" {
		t.Errorf("before the end: %+v", now)
	}
	live := followWithCurl(t, curl, p.base+"/stream/"+c.id+"?after=0")
	live.until("tool_start")
	ended := make(chan sentTask, 1)
	go func() {
		_, end := runCurl(t, curl, "-i", task+"?wait=30s")
		ended <- end
	}()
	c.letGo()
	if end := <-ended; end.Status != "succeeded" || end.Text != "held" {
		t.Errorf("the end: %+v", end)
	}
	live.until("task_complete")

	again := followWithCurl(t, curl, p.base+"/stream/"+c.id, "-H", "Last-Event-ID: 3")
	again.until("task_complete")
	if got, want := again.seqs, live.seqs[3:]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("behind event 3 come %v, want %v", got, want)
	}
	for i, seq := range live.seqs {
		if seq != fmt.Sprint(i+1) {
			t.Errorf("event %d has the id %s", i+1, seq)
		}
	}
}

// sentTask is what curl shows of a task.
type sentTask struct{ TaskID, Status, Text string }

// runCurl returns the headers and the task that curl prints.
func runCurl(t *testing.T, curl string, args ...string) (headers string, answer sentTask) {
	t.Helper()
	out, err := exec.Command(curl, append([]string{"-sS", "--max-time", "60"}, args...)...).CombinedOutput()
	headers, body, _ := strings.Cut(string(out), "\r\n\r\n")
	if err == nil {
		err = json.Unmarshal([]byte(body), &answer)
	}
	if err != nil {
		t.Errorf("curl: %v\n%s", err, out)
	}
	return headers, answer
}

// curlStream is what curl prints of a stream.
type curlStream struct {
	t    *testing.T
	in   *bufio.Scanner
	seqs []string
	said bytes.Buffer
}

func followWithCurl(t *testing.T, curl, url string, args ...string) *curlStream {
	t.Helper()
	s := &curlStream{t: t}
	cmd := exec.Command(curl, append([]string{"-sSN", "--max-time", "60", "-H", "Accept: text/event-stream", url}, args...)...)
	out, err := cmd.StdoutPipe()
	cmd.Stderr = cmd.Stdout // one pipe, read by this goroutine alone
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("end curl: %v", err)
		}
		_ = cmd.Wait() // it says that it was killed
	})
	s.in = bufio.NewScanner(io.TeeReader(out, &s.said))
	s.in.Buffer(nil, 1<<20)
	if !s.in.Scan() || s.in.Text() != fmt.Sprintf("retry: %d", (2*time.Second).Milliseconds()) {
		t.Errorf("the stream begins with %q", s.in.Text())
	}
	return s
}

// until reads up to the next event of a type.
func (s *curlStream) until(kind string) {
	s.t.Helper()
	for s.in.Scan() {
		if id, ok := strings.CutPrefix(s.in.Text(), "id: "); ok {
			s.seqs = append(s.seqs, id)
		}
		data, ok := strings.CutPrefix(s.in.Text(), "data: ")
		if !ok {
			continue
		}
		apitest.CheckSchema(s.t, "StreamEvent", []byte(data))
		if strings.Contains(data, `"type":"`+kind+`"`) {
			return
		}
	}
	s.t.Fatalf("curl ended before %s:\n%s", kind, s.said.String())
}
