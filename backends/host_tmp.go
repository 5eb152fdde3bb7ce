package backends

type HostMemory struct {
	Total, Available int64
	Pressure         float64
}

func ReadHostMemory() (HostMemory, error) { return HostMemory{Total: 1 << 40, Available: 1 << 40}, nil }
