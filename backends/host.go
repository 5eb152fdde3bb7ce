package backends

import (
	"fmt"

	"claude-runner/backends/internal/proc"
)

// HostMemory is how much memory there is for the runner and its sandboxes.
type HostMemory struct {
	Total     int64   `json:"total"`     // bytes, as the runner's own limits allow
	Available int64   `json:"available"` // bytes that are free, or can be made so without swapping
	Pressure  float64 `json:"pressure"`  // percent of the last ten seconds in which some process waited for memory; 0 where the kernel does not say
}

// ReadHostMemory measures this host's memory. Where the runner's own cgroup, or
// one around it, has a limit that leaves less, that counts. It is an error where
// the host is no Linux.
func ReadHostMemory() (HostMemory, error) {
	total, available, err := proc.Host.Memory()
	if err != nil {
		return HostMemory{}, fmt.Errorf("measure this host's memory: %w", err)
	}
	return HostMemory{Total: total, Available: available, Pressure: proc.Host.MemoryPressure()}, nil
}
