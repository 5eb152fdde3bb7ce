package proc

import "sync"

// Meter keeps the last figures of one sandbox. The zero Meter is ready, and its
// methods may be called from any goroutine.
type Meter struct {
	mu        sync.Mutex
	container *Container // nil until it was found
	last      Usage
}

// Keep takes in what was measured. A figure that is zero is not known.
func (m *Meter) Keep(now Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.CPU = max(m.last.CPU, now.CPU)
	m.last.MemoryPeak = max(m.last.MemoryPeak, now.MemoryPeak, now.Memory)
	if now.Memory > 0 {
		m.last.Memory = now.Memory
	}
}

// Last returns the last figures known.
func (m *Meter) Last() Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// Measure measures the container of that id. It asks the engine for the
// container's first process until it was told, zero where none runs, and for
// its statistics where the memory can not be measured from here.
func (m *Meter) Measure(id string, first func() (int, error), statistics func() (Usage, error)) error {
	m.mu.Lock()
	c := m.container
	m.mu.Unlock()
	if c == nil {
		pid, err := first()
		if err != nil || pid == 0 {
			return err
		}
		c = Host.Container(id, pid)
		m.mu.Lock()
		m.container = c
		m.mu.Unlock()
	}
	now := c.Usage()
	m.Keep(now)
	if now.Memory > 0 {
		return nil
	}
	now, err := statistics()
	m.Keep(now)
	return err
}
