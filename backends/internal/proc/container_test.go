package proc_test

import (
	"strings"
	"testing"
	"time"

	"claude-runner/backends/internal/proc"
)

var id = strings.Repeat("0123456789abcdef", 4)

const (
	mountsV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsV1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	mountsHybrid = mountsV1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)

// groupV2 is a cgroup of version 2, groupV1 one of version 1's controllers.
func groupV2(dir string) files {
	return files{dir + "/memory.current": "7000\n", dir + "/memory.peak": "9000\n", dir + "/memory.stat": "anon 1\ninactive_file 2000\nactive_file 5\n", dir + "/cpu.stat": "usage_usec 1500\nuser_usec 1\n"}
}

func groupV1(name string) files {
	memory, cpu := "/sys/fs/cgroup/memory"+name, "/sys/fs/cgroup/cpu,cpuacct"+name
	return files{
		memory + "/memory.usage_in_bytes": "7000\n", memory + "/memory.max_usage_in_bytes": "9000\n",
		memory + "/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n", cpu + "/cpuacct.usage": "1500000\n",
	}
}

func TestContainerGroup(t *testing.T) {
	own := proc.Usage{CPU: 1500 * time.Microsecond, Memory: 5000, MemoryPeak: 9000}
	for name, tt := range map[string]struct {
		membership, mounts string
		groups             files
		want               proc.Usage
	}{
		"version 2": {
			"0::/system.slice/docker-" + id + ".scope\n", mountsV2, groupV2("/sys/fs/cgroup/system.slice/docker-" + id + ".scope"), own,
		},
		"version 2, in a group below its own": {
			"0::/user.slice/libpod-" + id + ".scope/container\n", mountsV2, groupV2("/sys/fs/cgroup/user.slice/libpod-" + id + ".scope"), own,
		},
		"version 1": {
			"4:memory:/docker/" + id + "\n2:cpu,cpuacct:/docker/" + id + "\n", mountsV1, groupV1("/docker/" + id), own,
		},
		"both, memory with version 1": {
			"4:memory:/docker/" + id + "\n1:cpu,cpuacct:/docker/" + id + "\n0::/docker/" + id + "\n", mountsHybrid, groupV1("/docker/" + id), own,
		},
		"both, memory with version 1 and not its own": {
			"4:memory:/user\n1:cpu,cpuacct:/user\n0::/libpod-" + id + "\n", mountsHybrid, groupV2("/sys/fs/cgroup/unified/libpod-" + id), proc.Usage{},
		},
		"an engine and a runner in one container": {
			"0::/docker/outer/docker/" + id + "\n", strings.Replace(mountsV2, " / ", " /docker/outer ", 1), groupV2("/sys/fs/cgroup/docker/" + id), own,
		},
		"another process has the id": {
			"0::/system.slice/docker-" + strings.Repeat("f", 64) + ".scope\n", mountsV2, groupV2("/sys/fs/cgroup/system.slice/docker-" + strings.Repeat("f", 64) + ".scope"), proc.Usage{},
		},
		"outside of the runner's namespace": {
			"0::/../" + id + "\n", mountsV2, groupV2("/sys/fs/cgroup/" + id), proc.Usage{},
		},
		"not mounted here": {
			"4:memory:/docker/" + id + "\n", mountsV2, groupV2("/sys/fs/cgroup/docker/" + id), proc.Usage{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := system(t, tt.groups, files{"/proc/7/cgroup": tt.membership, "/proc/self/mountinfo": tt.mounts},
				process{pid: 7, parent: 6, pss: 1}.files())
			c := root.Container(id, 7)
			if got := c.Usage(); got != tt.want {
				t.Errorf("Usage is %+v, want %+v", got, tt.want)
			}
			remove(t, root, "/sys")
			if got := c.Usage(); got != (proc.Usage{}) {
				t.Errorf("Usage is %+v when the cgroup is gone", got)
			}
		})
	}
}

func TestContainerProcesses(t *testing.T) {
	monitor := process{pid: 6, cmdline: "/usr/bin/conmon --api-version 1 -c " + id + " -n x"}.files()
	shared := files{"/proc/7/cgroup": "4:memory:/user\n0::/\n", "/proc/self/mountinfo": mountsHybrid}
	first := process{pid: 7, parent: 6, ticks: [4]int{1, 2, 3, 4}, started: 100, pss: 10, peak: 40, children: "8 9 "}.files()
	child := process{pid: 8, parent: 7, ticks: [4]int{10, 0, 0, 0}, started: 101, pss: 20, peak: 50}.files()
	zombie := process{pid: 9, parent: 7, state: "Z", ticks: [4]int{0, 10, 0, 0}, started: 101}.files()
	want := proc.Usage{CPU: 300 * time.Millisecond, Memory: 30 << 10, MemoryPeak: 50 << 10}

	root := system(t, monitor, shared, first, child, zombie)
	remove(t, root, "/proc/9/smaps_rollup")
	c := root.Container(id, 7)
	if got := c.Usage(); got != want {
		t.Errorf("Usage is %+v, want %+v", got, want)
	}
	for pid := 7; pid <= 9; pid++ { // a kernel without the lists of children
		remove(t, root, "/proc/"+string(rune('0'+pid))+"/task")
	}
	if got := c.Usage(); got != want {
		t.Errorf("without lists of children Usage is %+v, want %+v", got, want)
	}
	write(t, root, process{pid: 7, parent: 6, started: 999, pss: 70}.files())
	if got := c.Usage(); got != (proc.Usage{}) {
		t.Errorf("Usage is %+v of another process with the first one's id", got)
	}

	for name, cmdline := range map[string]string{"none": "", "of another": "/usr/bin/conmon -c " + strings.Repeat("f", 64), "longer": "sh -c echo-" + id} {
		root := system(t, shared, first, child, process{pid: 6, cmdline: cmdline}.files())
		if got := root.Container(id, 7).Usage(); got != (proc.Usage{}) {
			t.Errorf("monitor %s: Usage is %+v of what may be another's process", name, got)
		}
	}
	for _, pid := range []int{0, 5} {
		if got := root.Container(id, pid).Usage(); got != (proc.Usage{}) {
			t.Errorf("Usage is %+v of process %d, which is not there", got, pid)
		}
	}
}
