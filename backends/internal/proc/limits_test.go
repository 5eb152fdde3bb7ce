package proc_test

import "testing"

func TestMemory(t *testing.T) {
	const (
		kilo = 1 << 10
		info = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"
		none = "9223372036854771712\n"
	)
	for name, tt := range map[string]struct {
		system           files
		total, available int64
	}{
		"no cgroups": {files{"/proc/meminfo": info}, 1000 * kilo, 600 * kilo},
		"no limit": {files{
			"/proc/meminfo": info, "/proc/self/cgroup": "0::/a\n", "/proc/self/mountinfo": mountsV2, "/sys/fs/cgroup/a/memory.max": "max\n",
		}, 1000 * kilo, 600 * kilo},
		"a limit, and one around it that leaves less": {files{
			"/proc/meminfo": info, "/proc/self/cgroup": "0::/a/b\n", "/proc/self/mountinfo": mountsV2,
			"/sys/fs/cgroup/a/b/memory.max": "204800\n", "/sys/fs/cgroup/a/b/memory.current": "1024\n", "/sys/fs/cgroup/a/b/memory.stat": "inactive_file 0\n",
			"/sys/fs/cgroup/a/memory.max": "307200\n", "/sys/fs/cgroup/a/memory.current": "256000\n", "/sys/fs/cgroup/a/memory.stat": "inactive_file 1024\n",
		}, 200 * kilo, 51 * kilo},
		"a namespace of cgroups": {files{
			"/proc/meminfo": info, "/proc/self/cgroup": "0::/\n", "/proc/self/mountinfo": mountsV2,
			"/sys/fs/cgroup/memory.max": "204800\n", "/sys/fs/cgroup/memory.current": "102400\n", "/sys/fs/cgroup/memory.stat": "inactive_file 0\n",
		}, 200 * kilo, 100 * kilo},
		"version 1, with no limit at the top": {files{
			"/proc/meminfo": info, "/proc/self/cgroup": "4:memory:/a\n0::/\n", "/proc/self/mountinfo": mountsHybrid,
			"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "102400\n", "/sys/fs/cgroup/memory/a/memory.usage_in_bytes": "204800\n", "/sys/fs/cgroup/memory/a/memory.stat": "total_inactive_file 0\n",
			"/sys/fs/cgroup/memory/memory.limit_in_bytes": none, "/sys/fs/cgroup/memory/memory.usage_in_bytes": "900000\n", "/sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
		}, 100 * kilo, 0},
		"a limit above what there is": {files{
			"/proc/meminfo": info, "/proc/self/cgroup": "0::/a\n", "/proc/self/mountinfo": mountsV2,
			"/sys/fs/cgroup/a/memory.max": "99999999\n", "/sys/fs/cgroup/a/memory.current": "1024\n", "/sys/fs/cgroup/a/memory.stat": "inactive_file 0\n",
		}, 1000 * kilo, 600 * kilo},
	} {
		t.Run(name, func(t *testing.T) {
			total, available, err := system(t, tt.system).Memory()
			if err != nil || total != tt.total || available != tt.available {
				t.Errorf("%d bytes, %d available, %v; want %d, %d", total, available, err, tt.total, tt.available)
			}
		})
	}
	for name, f := range map[string]files{"no /proc": {}, "no figures": {"/proc/meminfo": "MemTotal: 1000 kB\n"}} {
		if total, _, err := system(t, f).Memory(); err == nil {
			t.Errorf("%s: %d bytes and no error", name, total)
		}
	}
}

func TestMemoryPressure(t *testing.T) {
	for text, want := range map[string]float64{
		"some avg10=12.34 avg60=1.00 avg300=0.00 total=201582\nfull avg10=5.00 avg60=0.00 avg300=0.00 total=28330\n": 12.34,
		"": 0,
	} {
		if got := system(t, files{"/proc/pressure/memory": text}).MemoryPressure(); got != want {
			t.Errorf("pressure is %v, want %v", got, want)
		}
	}
	if got := system(t).MemoryPressure(); got != 0 {
		t.Errorf("pressure is %v where the kernel does not say", got)
	}
}
