package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"claude-runner/session"
)

// queueOf is an admission with one place, which is taken, and the order in which
// others were let in.
type queueOf struct {
	*session.Admission
	t     testing.TB
	order chan string
	leave map[string]chan struct{}
}

func (q *queueOf) enter(name, owner string, spare bool) {
	q.t.Helper()
	leave := make(chan struct{})
	q.leave[name] = leave
	before := q.Waiting()
	go func() {
		enter := func() (func(), error) { return q.Enter(context.Background(), owner) }
		if spare {
			enter = func() (func(), error) { return q.EnterSpare(context.Background()) }
		}
		out, err := enter()
		if err != nil {
			q.t.Error(err)
			return
		}
		q.order <- name
		<-leave
		out()
	}()
	eventually(q.t, name+" waits", func() bool { return q.Waiting() == before+1 })
}

func (q *queueOf) next() string {
	name := <-q.order
	close(q.leave[name])
	return name
}

func TestAdmissionIsFair(t *testing.T) {
	q := &queueOf{session.NewAdmission(2), t, make(chan string), map[string]chan struct{}{}}
	first, err := q.Enter(t.Context(), "greedy")
	if err != nil {
		t.Fatal(err)
	}
	second, err := q.Enter(t.Context(), "greedy")
	if err != nil {
		t.Fatal(err)
	}
	turn, err := q.BeginTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q.enter("spare", "", true)
	for _, name := range []string{"g1", "g2", "g3"} {
		q.enter(name, "greedy", false)
	}
	q.enter("m1", "modest", false)
	q.enter("m2", "modest", false)
	first() // greedy has one place, modest none
	var order []string
	for range 5 {
		order = append(order, q.next())
	}
	// Each that leaves makes way for the owner with fewer; the first three show it.
	if want := []string{"m1", "m2", "g1", "g2", "g3"}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
	second()
	eventually(t, "all but the spare one have booted", func() bool { return q.Booting() == 0 })
	if n := q.Waiting(); n != 1 {
		t.Errorf("%d wait, want the spare one, while a task waits for its agent", n)
	}
	turn()
	if got := q.next(); got != "spare" {
		t.Errorf("%s comes last", got)
	}
}

func TestAdmissionOfWhoLeaves(t *testing.T) {
	q := session.NewAdmission(1)
	leave, err := q.Enter(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := q.Enter(ctx, ""); !errors.Is(err, gone) || q.Waiting() != 0 {
		t.Errorf("%v; %d wait", err, q.Waiting())
	}
	leave()
	if leave, err = q.Enter(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	leave()
	if q.Booting() != 0 {
		t.Error("somebody boots still")
	}
}

// Agents that stand ready begin their turns a few at a time, until they have
// asked their models.
func TestTurnsBeginAFewAtATime(t *testing.T) {
	q := session.NewAdmission(1)
	asked, end, err := q.BeginTurnAsking(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.BeginTurn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one begins while the first works: %v", err)
	}
	asked()
	second, err := q.BeginTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end() // of what has long made way
	if _, err := q.BeginTurn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a third one begins while the second works: %v", err)
	}
	second()
	// One that never asks makes way all the same.
	if _, err := q.BeginTurn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := q.BeginTurn(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// While agents wait to begin their turns, those whose turns end make way, and none
// boots for nobody.
func TestAgentsThatWaitForTheirTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := session.NewAdmission(1)
		begin := func(ctx context.Context) (began chan func()) {
			began = make(chan func(), 1)
			go func() {
				end, err := q.BeginTurn(ctx)
				if err != nil {
					end = nil
				}
				began <- end
			}()
			synctest.Wait()
			return began
		}
		end := <-begin(t.Context())
		if q.Crowded() {
			t.Error("it is crowded with one that works")
		}
		ctx, cancel := context.WithCancel(t.Context())
		second, third := begin(t.Context()), begin(ctx)
		if !q.Crowded() {
			t.Error("it is not crowded with two that wait")
		}
		booted := make(chan func(), 1)
		go func() {
			leave, err := q.EnterSpare(t.Context())
			if err != nil {
				t.Error(err)
			}
			booted <- leave
		}()
		end()
		end = <-second
		synctest.Wait()
		if n := q.Booting(); n != 0 || !q.Crowded() {
			t.Errorf("%d boot, crowded %v: want none while one works and one waits", n, q.Crowded())
		}
		cancel()
		if <-third != nil {
			t.Error("the third one begins beside the second")
		}
		synctest.Wait()
		if n := q.Booting(); n != 0 || q.Crowded() {
			t.Errorf("%d boot, crowded %v: want neither while one works", n, q.Crowded())
		}
		end()
		(<-booted)()
	})
}

// Where an agent that stood ready was taken, no other boots in its place at once.
func TestSpareAgentsWaitForABurst(t *testing.T) {
	q := &queueOf{session.NewAdmission(2), t, make(chan string), map[string]chan struct{}{}}
	q.Taken(time.Hour)
	q.enter("spare", "", true)
	leave, err := q.Enter(t.Context(), "somebody")
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if n := q.Waiting(); n != 1 {
		t.Errorf("%d wait, want the spare one", n)
	}
	q.Taken(time.Millisecond)
	if got := q.next(); got != "spare" {
		t.Errorf("%s boots", got)
	}
}

// Agents that are done end as few at a time as others boot, and when no task waits
// for its own.
func TestDoneAgentsWaitForCalm(t *testing.T) {
	q := session.NewAdmission(1)
	ending, ended := make(chan string), make(chan struct{})
	done := func(name string) {
		q.WhenCalm(func() {
			ending <- name
			<-ended
		})
	}
	none := func(while string) {
		t.Helper()
		select {
		case name := <-ending:
			t.Errorf("%s ends %s", name, while)
		case <-time.After(20 * time.Millisecond):
		}
	}
	boots, err := q.Enter(t.Context(), "somebody")
	if err != nil {
		t.Fatal(err)
	}
	done("first")
	done("second")
	none("while a task's agent boots")
	boots()
	if name := <-ending; name != "first" {
		t.Errorf("%s ends first", name)
	}
	none("beside the first")
	if boots, err = q.Enter(t.Context(), "somebody"); err != nil {
		t.Fatal(err)
	}
	ended <- struct{}{}
	none("while another boots")
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, err := q.Enter(ctx, "somebody else")
		waits <- err
	}()
	eventually(t, "one waits", func() bool { return q.Waiting() == 1 })
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	boots()
	if name := <-ending; name != "second" {
		t.Errorf("%s ends second", name)
	}
	ended <- struct{}{}
}
