package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
)

const (
	hostsTarget = "/etc/hosts"

	// loopbackHosts is what the engine writes for a container without a network.
	loopbackHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
)

// network says what the container reaches.
//
// Without a network it is a network namespace of its own in which the runtime
// sets up loopback, whether the engine's network code knows of it or not
// (NetworkDisabled). Where it does, an engine before version 28 starts a copy of
// itself for it, which is half of a start's time and processor time. Where it
// does not, nobody writes the container's /etc/hosts.
func (b *Backend) network(spec backends.Spec, e *engine, cfg *container.Config, host *container.HostConfig) error {
	if spec.Network != backends.NetworkNone {
		host.ExtraHosts = []string{backends.HostAlias + ":host-gateway"}
		return nil
	}
	host.NetworkMode = "none"
	if !e.files || b.stateDir == "" {
		return nil // it could not mount what it does not write
	}
	cfg.NetworkDisabled = true
	if slices.ContainsFunc(spec.Mounts, func(m backends.Mount) bool { return m.Target == hostsTarget }) {
		return nil
	}
	path, err := b.hostsFile()
	if err != nil {
		return fmt.Errorf("write the sandboxes' %s: %w", hostsTarget, err)
	}
	host.Mounts = append(host.Mounts, mounts([]backends.Mount{{Source: path, Target: hostsTarget, ReadOnly: true}})...)
	return nil
}

// hostsFile returns the path of the file that is mounted as /etc/hosts, and
// writes it where it is not there.
func (b *Backend) hostsFile() (string, error) {
	path := filepath.Join(b.stateDir, "hosts")
	if found, err := os.ReadFile(path); err == nil && string(found) == loopbackHosts {
		return path, nil
	}
	if err := os.MkdirAll(b.stateDir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(b.stateDir, "hosts-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(loopbackHosts)
	if err == nil {
		err = f.Chmod(0o644) // any user of a sandbox reads it
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path) // another start may do the same
	}
	return path, err
}
