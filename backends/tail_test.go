package backends_test

import (
	"bytes"
	"io"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"claude-runner/backends"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTailKeepsTheLastBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		tail := backends.NewTail(limit)
		var all []byte
		for _, part := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 50)).Draw(t, "writes") {
			if n, err := tail.Write(part); n != len(part) || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", len(part), n, err)
			}
			all = append(all, part...)
			if want := all[max(0, len(all)-limit):]; !bytes.Equal(tail.Bytes(), want) {
				t.Fatalf("kept %q, want %q", tail.Bytes(), want)
			}
		}
	})
}

func TestTailReaderIsOfItsMoment(t *testing.T) {
	tail := backends.NewTail(8)
	_, _ = tail.Write([]byte("before"))
	r := tail.Reader()
	_, _ = tail.Write([]byte("after"))
	if got, _ := io.ReadAll(r); string(got) != "before" {
		t.Errorf("the reader has %q, want what was kept when it was made", got)
	}
}

func TestTailIsSafeForManyWriters(t *testing.T) {
	tail := backends.NewTail(100)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 100 {
				_, _ = tail.Write([]byte("0123456789"))
				_ = tail.Bytes()
			}
		})
	}
	writers.Wait()
	if want := bytes.Repeat([]byte("0123456789"), 10); !bytes.Equal(tail.Bytes(), want) {
		t.Errorf("kept %q, want whole writes", tail.Bytes())
	}
}
