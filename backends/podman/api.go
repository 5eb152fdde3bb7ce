package podman

import "time"

// What of libpod's API this backend uses, in the form of Podman 4.0 and newer:
// https://docs.podman.io/en/latest/_static/api.html.

// createRequest is the body of POST /containers/create.
type createRequest struct {
	Name            string              `json:"name"`
	Image           string              `json:"image"`
	ImageVolumes    string              `json:"image_volume_mode"`
	Entrypoint      []string            `json:"entrypoint"`
	Command         []string            `json:"command"`
	Env             map[string]string   `json:"env"`
	HTTPProxy       bool                `json:"httpproxy"`
	WorkDir         string              `json:"work_dir"`
	User            string              `json:"user"`
	Labels          map[string]string   `json:"labels"`
	Stdin           bool                `json:"stdin"`
	Init            bool                `json:"init"`
	Systemd         string              `json:"systemd"`
	Runtime         string              `json:"oci_runtime,omitempty"`
	UserNS          *namespace          `json:"userns,omitempty"`
	NetNS           *namespace          `json:"netns,omitempty"`
	NetworkOptions  map[string][]string `json:"network_options,omitempty"`
	Hosts           []string            `json:"hostadd,omitempty"`
	CapDrop         []string            `json:"cap_drop"`
	CapAdd          []string            `json:"cap_add,omitempty"`
	Seccomp         string              `json:"seccomp_profile_path,omitempty"`
	Unmask          []string            `json:"unmask,omitempty"`
	NoNewPrivileges bool                `json:"no_new_privileges"`
	ReadOnly        bool                `json:"read_only_filesystem"`
	Volatile        bool                `json:"volatile"`
	ReadWriteTmpfs  bool                `json:"read_write_tmpfs"`
	Mounts          []mount             `json:"mounts,omitempty"`
	Resources       *resources          `json:"resource_limits,omitempty"`
	RLimits         []rlimit            `json:"r_limits,omitempty"`
	Log             logConfig           `json:"log_configuration"`
}

type namespace struct {
	Mode string `json:"nsmode"`
}

type mount struct {
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Destination string   `json:"destination"`
	Options     []string `json:"options"`
}

type resources struct {
	Memory *memoryLimit `json:"memory,omitempty"`
	CPU    *cpuLimit    `json:"cpu,omitempty"`
	PIDs   *pidsLimit   `json:"pids,omitempty"`
}

type memoryLimit struct {
	Limit int64 `json:"limit"`
	Swap  int64 `json:"swap"` // memory and swap together
}

type cpuLimit struct {
	Quota  int64  `json:"quota"`
	Period uint64 `json:"period"`
}

type pidsLimit struct {
	Limit int64 `json:"limit"`
}

type rlimit struct {
	Type string `json:"type"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

type logConfig struct {
	Driver string `json:"driver"`
	Path   string `json:"path,omitempty"`
}

type createResponse struct {
	ID       string   `json:"Id"`
	Warnings []string `json:"Warnings"`
}

// inspection is the answer of GET /containers/{name}/json.
type inspection struct {
	ID    string   `json:"Id"`
	Args  []string `json:"Args"` // of the init process, whose last part is the main process's argv
	State struct {
		Status     string    `json:"Status"`
		OOMKilled  bool      `json:"OOMKilled"`
		PID        int       `json:"Pid"`
		ExitCode   int       `json:"ExitCode"`
		FinishedAt time.Time `json:"FinishedAt"`
	} `json:"State"`
	Config struct {
		Env        []string          `json:"Env"`
		Labels     map[string]string `json:"Labels"`
		WorkingDir string            `json:"WorkingDir"`
	} `json:"Config"`
	HostConfig struct {
		LogConfig struct {
			Path string `json:"Path"`
		} `json:"LogConfig"`
	} `json:"HostConfig"`
	NetworkSettings struct {
		SandboxKey string `json:"SandboxKey"` // path of the network namespace
	} `json:"NetworkSettings"`
}

// ended reports whether the main process was started and is no more.
func (i *inspection) ended() bool {
	switch i.State.Status {
	case "stopped", "exited", "removing":
		return true
	}
	return false
}

// started reports whether the main process was ever started.
func (i *inspection) started() bool {
	switch i.State.Status {
	case "configured", "created", "initialized":
		return false
	}
	return true
}

// listed is an element of the answer of GET /containers/json.
type listed struct {
	ID     string            `json:"Id"`
	Labels map[string]string `json:"Labels"`
}

// statsResponse is the answer of GET /containers/stats.
type statsResponse struct {
	Stats []struct {
		CPUNano  int64 `json:"CPUNano"`
		MemUsage int64 `json:"MemUsage"`
	} `json:"Stats"`
}

// pullEvent is one of the JSON values of the answer of POST /images/pull.
type pullEvent struct {
	Stream string `json:"stream"`
	Error  string `json:"error"`
}

// info is the answer of GET /info.
type info struct {
	Host struct {
		CgroupVersion     string   `json:"cgroupVersion"`
		CgroupControllers []string `json:"cgroupControllers"`
		OS                string   `json:"os"`
		IDMappings        struct {
			UIDs []idMapping `json:"uidmap"`
			GIDs []idMapping `json:"gidmap"`
		} `json:"idMappings"`
		Security struct {
			Rootless bool `json:"rootless"`
			SELinux  bool `json:"selinuxEnabled"`
			Seccomp  bool `json:"seccompEnabled"`
		} `json:"security"`
	} `json:"host"`
	Version struct {
		Version string `json:"Version"`
	} `json:"version"`
}

type idMapping struct {
	Container int `json:"container_id"`
	Host      int `json:"host_id"`
	Size      int `json:"size"`
}
