package backends_test

import (
	"runtime"
	"testing"

	"claude-runner/backends"
)

func TestReadHostMemory(t *testing.T) {
	m, err := backends.ReadHostMemory()
	if runtime.GOOS != "linux" {
		if err == nil {
			t.Errorf("%+v and no error on %s", m, runtime.GOOS)
		}
		return
	}
	if err != nil || m.Available <= 0 || m.Available > m.Total || m.Pressure < 0 || m.Pressure > 100 {
		t.Errorf("%+v, %v", m, err)
	}
	t.Logf("%+v", m)
}

func BenchmarkReadHostMemory(b *testing.B) {
	for b.Loop() {
		if _, err := backends.ReadHostMemory(); err != nil {
			b.Fatal(err)
		}
	}
}
