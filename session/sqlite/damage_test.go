package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// crashed makes the files that a runner leaves which is killed behind its n-th
// task, and returns their folder.
func crashed(t *testing.T, n int) string {
	t.Helper()
	live := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, live)
	for i := range n {
		create(t, s, fmt.Sprintf("t%d", i), "s")
	}
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(live + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "runner.db"+suffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A log that ends in the middle of a write, as a crash leaves it, or in
// rubbish: what was committed is there, and more can be written.
func TestTornLog(t *testing.T) {
	for name, tear := range map[string]func(log []byte) []byte{
		"whole":               func(log []byte) []byte { return log },
		"with rubbish behind": func(log []byte) []byte { return append(log, strings.Repeat("rubbish ", 1000)...) },
		"with a half write":   func(log []byte) []byte { return append(log, log[len(log)-2000:]...) },
		"with a copied frame": func(log []byte) []byte { return append(log, log[32:32+24+4096]...) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(crashed(t, 20), "runner.db")
			log, err := os.ReadFile(path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+"-wal", tear(log), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			create(t, s, "new", "s")
			tasks, _, err := s.Tasks(t.Context(), session.TaskFilter{Limit: 100})
			if err != nil || len(tasks) != 21 || tasks[20].ID != "t0" || tasks[1].ID != "t19" {
				t.Errorf("%d tasks are left of 21: %v", len(tasks), err)
			}
			checkIntegrity(t, path)
		})
	}
}

func checkIntegrity(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var said string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&said); err != nil || said != "ok" {
		t.Errorf("integrity: %s, %v", said, err)
	}
}

// A damaged file is not opened, is left as it is, and the error says what to do.
func TestDamagedFile(t *testing.T) {
	for name, damage := range map[string]func(file []byte) []byte{
		"no database":     func([]byte) []byte { return []byte(strings.Repeat("this is no database ", 1000)) },
		"a broken header": func(file []byte) []byte { return append([]byte(strings.Repeat("x", 100)), file[100:]...) },
		"a broken schema": func(file []byte) []byte { return append(file[:100:100], []byte(strings.Repeat("x", len(file)-100))...) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "runner.db")
			s, err := sqlite.Open(t.Context(), path)
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := damage(file)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err = sqlite.Open(context.Background(), path)
			if err == nil {
				t.Fatal("it was opened", s.Close())
			}
			for _, want := range []string{path, "the file is damaged", "backup"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: no word of %q", err, want)
				}
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != string(bad) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

// A page that is damaged while the file is open, or that nobody read before:
// whoever needs it gets an error, nobody gets rubbish.
func TestDamagedPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	create(t, s, "t", "s")
	var events []session.Record
	for i := range int64(5000) {
		events = append(events, session.Record{SessionID: "s", Seq: i + 1, TaskID: "t", Time: day, Data: []byte(strings.Repeat("x", 200))})
	}
	must(t, s, session.Change{Events: events})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const from = 400 << 10 // behind the tables' roots, among the events
	_, err = f.WriteAt([]byte(strings.Repeat("\xff", 64<<10)), from)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if _, err := s.Task(t.Context(), "t"); err != nil {
		t.Errorf("what is not damaged: %v", err)
	}
	got, err := s.Events(t.Context(), "s", 0, 5000)
	if err == nil {
		t.Errorf("%d events, no error", len(got))
	}
	for _, r := range got {
		if string(r.Data) != strings.Repeat("x", 200) {
			t.Errorf("event %d is %q", r.Seq, r.Data)
		}
	}
}
