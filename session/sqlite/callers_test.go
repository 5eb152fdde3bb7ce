package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/session"
	"claude-runner/session/sqlite"
)

func aKey(t testing.TB, name string) session.APIKey {
	t.Helper()
	k, _, err := session.NewAPIKey(session.APIKey{
		Name: name, Scopes: []session.Scope{session.ScopeSubmit, session.ScopeRead}, Agents: []string{"a", "b"},
		Rate: 60, Concurrency: 4, BudgetUSD: 5, CreatedAt: day, ExpiresAt: day.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAPIKeys(t *testing.T) {
	s := newStore(t)
	web, ops := aKey(t, "web"), aKey(t, "ops")
	for _, k := range []session.APIKey{web, ops} {
		if err := s.CreateAPIKey(t.Context(), k, session.AuditEntry{At: day, Action: "keys.create", Target: k.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateAPIKey(t.Context(), aKey(t, "web"), session.AuditEntry{Action: "keys.create"}); !errors.Is(err, session.ErrNameTaken) {
		t.Errorf("a name that is taken: %v", err)
	}
	got, err := s.APIKeys(t.Context())
	if diff := cmp.Diff([]session.APIKey{ops, web}, got); diff != "" || err != nil {
		t.Errorf("keys (-wrote +read): %v\n%s", err, diff)
	}
	if got, err := s.APIKey(t.Context(), web.ID); err != nil || !bytes.Equal(got.Hash, web.Hash) {
		t.Errorf("one key: %+v, %v", got, err)
	}
	if _, err := s.APIKey(t.Context(), "none"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("no key: %v", err)
	}
	for i, at := range []time.Time{day.Add(time.Minute), day} { // the second came late
		must(t, s, session.Change{Use: &session.KeyUse{ID: web.ID, At: at}})
		if got, err := s.APIKey(t.Context(), web.ID); err != nil || !got.LastUsedAt.Equal(day.Add(time.Minute)) {
			t.Errorf("use %d: %+v, %v", i, got, err)
		}
	}

	audit := session.AuditEntry{At: day, Action: "keys.revoke"}
	for i, name := range []string{"web", web.ID} { // a second time it changes nothing
		got, err := s.RevokeAPIKey(t.Context(), name, day.Add(time.Duration(i)*time.Hour), audit)
		if err != nil || got.ID != web.ID || !got.RevokedAt.Equal(day) {
			t.Errorf("revoke %s: %+v, %v", name, got, err)
		}
	}
	if _, err := s.RevokeAPIKey(t.Context(), "web", day, audit); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("revoke a name that no key has any more: %v", err)
	}
	if err := s.CreateAPIKey(t.Context(), aKey(t, "web"), session.AuditEntry{Action: "keys.create"}); err != nil {
		t.Errorf("the name of a revoked key: %v", err)
	}
	var actions []string
	entries, err := s.Audit(t.Context(), session.AuditQuery{})
	for _, e := range entries {
		actions = append(actions, e.Action+" "+e.Target)
	}
	want := []string{"keys.create " + web.ID, "keys.create " + ops.ID, "keys.revoke " + web.ID, "keys.create "}
	if diff := cmp.Diff(want, actions); diff != "" || err != nil {
		t.Errorf("audit: %v\n%s", err, diff)
	}
}

// TestOwners holds that what an owner sees is chosen by the database, with an
// index, and that what was spent outlives its session.
func TestOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	for _, owner := range []string{"alice", "bob", ""} {
		task, sess := aTask("t-"+owner, "s-"+owner), aSession("s-"+owner)
		task.Owner, sess.Owner = owner, owner
		must(t, s, session.Change{Create: &session.Creation{Session: sess, Task: task}})
		task.State, task.EndedAt, task.Result.CostUSD = session.TaskSucceeded, day, 0.25
		must(t, s, session.Change{End: &session.Ending{Task: task}})
	}
	for owner, n := range map[string]int{"alice": 1, "nobody": 0, "": 3} {
		sessions, _, err := s.Sessions(t.Context(), session.Page{Owner: owner})
		if err != nil || len(sessions) != n {
			t.Errorf("%q: %d sessions, %v", owner, len(sessions), err)
		}
		tasks, _, err := s.Tasks(t.Context(), session.TaskFilter{Owner: owner})
		if err != nil || len(tasks) != n {
			t.Errorf("%q: %d tasks, %v", owner, len(tasks), err)
		}
		sums, err := s.Usage(t.Context(), session.UsageQuery{GroupBy: session.BySession, Owner: owner})
		if err != nil || len(sums) != n {
			t.Errorf("%q: %d sums, %v", owner, len(sums), err)
		}
		if n == 1 && (sessions[0].Owner != owner || tasks[0].Owner != owner) {
			t.Errorf("%q: %+v %+v", owner, sessions, tasks)
		}
	}
	if err := s.DeleteSession(t.Context(), "s-alice"); err != nil {
		t.Fatal(err)
	}
	for since, want := range map[time.Time]float64{day: 0.25, day.Add(1): 0} {
		if got, err := s.SpentSince(t.Context(), "alice", since); err != nil || got != want {
			t.Errorf("since %v: %v, %v", since, got, err)
		}
	}

	db := raw(t, path)
	for query, index := range map[string]string{
		"SELECT * FROM sessions WHERE owner = 'a' AND owner <> '' ORDER BY updated_at DESC, id": "sessions_by_owner",
		"SELECT * FROM tasks WHERE owner = 'a' AND owner <> '' ORDER BY number DESC":            "tasks_by_owner",
		"SELECT sum(cost_usd) FROM usage WHERE owner = 'a' AND owner <> '' AND ended_at >= 1":   "usage_by_owner",
		"SELECT * FROM audit WHERE seq > 1 AND session_id = 'a' ORDER BY seq LIMIT 100":         "audit_by_session",
	} {
		var id, parent, unused int
		var detail string
		if err := db.QueryRow("EXPLAIN QUERY PLAN "+query).Scan(&id, &parent, &unused, &detail); err != nil || !strings.Contains(detail, index) {
			t.Errorf("%s: %s, %v", query, detail, err)
		}
	}
}

// raw opens the file as anybody could.
func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestAuditIsAppendOnly holds that nothing changes an entry, a session's end
// neither.
func TestAuditIsAppendOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	create(t, s, "t1", "s1")
	entry := session.AuditEntry{
		At: day, RequestID: "r", KeyID: "k", KeyName: "web", Remote: "10.0.0.1", Action: "delete",
		Session: "s1", Task: "t1", Agent: "support", Target: "x", Status: 404, Code: session.CodeNoSession,
	}
	must(t, s, session.Change{Audit: &entry})
	if err := s.DeleteSession(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	for _, statement := range []string{"UPDATE audit SET action = 'nothing'", "DELETE FROM audit", "REPLACE INTO audit SELECT * FROM audit", "DELETE FROM audit WHERE seq = 1"} {
		if _, err := db.Exec(statement); err == nil {
			t.Errorf("%s: it does", statement)
		}
	}
	entry.Seq = 1
	got, err := s.Audit(t.Context(), session.AuditQuery{Session: "s1", Key: "web"})
	if diff := cmp.Diff([]session.AuditEntry{entry}, got); diff != "" || err != nil {
		t.Errorf("audit (-wrote +read): %v\n%s", err, diff)
	}
}

// TestSecret holds that a secret is made once.
func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	first, err := open(t, path).Secret(t.Context(), "stream")
	if err != nil || len(first) != 32 {
		t.Fatalf("%x, %v", first, err)
	}
	s := open(t, path)
	second, err := s.Secret(t.Context(), "stream")
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("%x became %x, %v", first, second, err)
	}
	other, err := s.Secret(t.Context(), "other")
	if err != nil || bytes.Equal(first, other) {
		t.Errorf("another's: %x, %v", other, err)
	}
}

// TestKeysBesideAServer holds that a second process writes keys while the first
// one is at work.
func TestKeysBesideAServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	server := open(t, path)
	create(t, server, "t1", "s1")
	k := aKey(t, "web")
	beside, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(beside.CreateAPIKey(t.Context(), k, session.AuditEntry{Action: "keys.create"}), beside.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := server.APIKey(t.Context(), k.ID); err != nil || got.Name != "web" {
		t.Errorf("%+v, %v", got, err)
	}
	create(t, server, "t2", "s1")
}
