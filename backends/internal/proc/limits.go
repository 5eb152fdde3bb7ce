package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory returns how many bytes of memory this process and what it starts can
// have in all, and how many of them are free or can be made so at once: the
// system's, or what the limits of this process's cgroups leave of it.
func (r Root) Memory() (total, available int64, err error) {
	meminfo, err := os.ReadFile(r.file("proc", "meminfo"))
	if err != nil {
		return 0, 0, err
	}
	total, _ = value(string(meminfo), "MemTotal:")
	available, _ = value(string(meminfo), "MemAvailable:")
	if total == 0 || available == 0 {
		return 0, 0, fmt.Errorf("%s has no MemTotal or no MemAvailable", r.file("proc", "meminfo"))
	}
	system := total
	g, ok := r.group("self", "memory")
	for ; ok; g, ok = g.parent() {
		limit, limited := g.limit()
		if !limited || limit >= system {
			continue // the system itself leaves less
		}
		total = min(total, limit)
		if used, _, err := g.memory(); err == nil {
			available = min(available, max(limit-used, 0))
		}
	}
	return total, available, nil
}

// MemoryPressure returns in percent for how much of the last ten seconds some
// process has waited for memory. It is zero where the kernel does not say.
func (r Root) MemoryPressure() float64 {
	data, err := os.ReadFile(r.file("proc", "pressure", "memory"))
	if err != nil {
		return 0
	}
	for f := range strings.FieldsSeq(string(data)) {
		if avg, ok := strings.CutPrefix(f, "avg10="); ok { // the first is that of "some"
			percent, _ := strconv.ParseFloat(avg, 64)
			return percent
		}
	}
	return 0
}
