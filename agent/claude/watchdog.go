package claude

import "time"

// watchdog is a timer that runs while the model is waited for. The CLI's own, of
// five minutes, cannot be set, and tries again behind it.
type watchdog struct {
	timeout  time.Duration // 0: it never expires
	timer    *time.Timer
	deadline time.Time
}

func newWatchdog(timeout time.Duration) watchdog {
	w := watchdog{timeout: timeout}
	if timeout > 0 {
		w.timer = time.NewTimer(timeout)
		w.deadline = time.Now().Add(timeout)
	}
	return w
}

func (w *watchdog) expired() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

// reset begins the time anew.
func (w *watchdog) reset() {
	if w.timer != nil {
		w.timer.Reset(w.timeout)
		w.deadline = time.Now().Add(w.timeout)
	}
}

// extend gives more time to what is left of it.
func (w *watchdog) extend(more time.Duration) {
	if w.timer != nil {
		w.deadline = w.deadline.Add(more)
		w.timer.Reset(time.Until(w.deadline))
	}
}

func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
