package webhook

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"claude-runner/session"
)

// delays lie between the attempts: a day in all. They are counted, not timed, so
// that a clock that jumps or a runner that was down takes none away.
var delays = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
	time.Hour, 4 * time.Hour, 8 * time.Hour, 11 * time.Hour,
}

const (
	// jitter is how much of a delay is left to chance, so that what failed
	// together does not come back together.
	jitter = 0.1
	// longestDelay bounds what a receiver may ask for with Retry-After, too.
	longestDelay = 13 * time.Hour
	// maxError bounds what is kept of an error, in bytes.
	maxError = 300
)

// outcome is what came of one attempt.
type outcome struct {
	status     int           // 0 where no answer came
	retryAfter time.Duration // that the receiver asked for; 0: none
	err        error         // nil: delivered
}

// apply returns d as it stands after the attempt.
func (o outcome) apply(d session.Delivery, now time.Time) session.Delivery {
	d.Attempts++
	d.LastStatus, d.LastError = o.status, ""
	if o.err != nil {
		d.LastError = cut(o.err.Error(), maxError)
	}
	switch {
	case o.err == nil:
		d.State = session.DeliveryDelivered
	case o.status == http.StatusGone, d.Attempts > len(delays):
		d.State = session.DeliveryFailed
	default:
		d.NextAttempt = now.Add(o.delay(d.Attempts))
		return d
	}
	d.EndedAt, d.NextAttempt = now, time.Time{}
	return d
}

// delay is how long to wait after so many attempts.
func (o outcome) delay(attempts int) time.Duration {
	d := delays[attempts-1]
	d += time.Duration((2*rand.Float64() - 1) * jitter * float64(d))
	return min(max(d, o.retryAfter), longestDelay)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

func refused(status int) error {
	if text := http.StatusText(status); text != "" {
		return fmt.Errorf("the receiver answered %d %s", status, text)
	}
	return fmt.Errorf("the receiver answered %d", status)
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
