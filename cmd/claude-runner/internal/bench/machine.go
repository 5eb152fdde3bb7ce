package bench

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func thisMachine() machine {
	return machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), MemoryBytes: hostMemory(),
		Kernel: kernelRelease(), System: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// ownCPU is the processor time that this process has taken.
func ownCPU() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
