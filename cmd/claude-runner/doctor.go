package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"claude-runner/agent/claude"
	"claude-runner/agent/gateway"
	"claude-runner/backends"
	"claude-runner/backends/helper"
	"claude-runner/cmd/claude-runner/internal/cli"
	"claude-runner/config"
	"claude-runner/session/sqlite"
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the runner needs here, and say how to mend what is missing",
		Long: `Check the configuration, the data folder, the credentials and every backend: its engine, its image
and the CLI in it, by starting a sandbox. Each line is a tick, a note, or what to do.

Exit code 1 where an agent has no backend that works, or the runner could not start.`,
		Args: cobra.NoArgs,
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &doctor{w: cmd.OutOrStdout()}
		cfg, err := load()
		if err != nil {
			return err
		}
		if d.examine(cmd.Context(), cfg); d.sick {
			return &exitError{code: exitFailed}
		}
		return nil
	}
	return cmd
}

// doctor prints findings as it makes them.
type doctor struct {
	w    io.Writer
	sick bool // something keeps the runner from working
}

func (d *doctor) good(format string, args ...any) { fmt.Fprintf(d.w, "✓ "+format+"\n", args...) }
func (d *doctor) note(format string, args ...any) { fmt.Fprintf(d.w, "! "+format+"\n", args...) }
func (d *doctor) bad(format string, args ...any)  { fmt.Fprintf(d.w, "✗ "+format+"\n", args...) }

func (d *doctor) examine(ctx context.Context, cfg *config.Config) {
	source := cfg.Path
	if source == "" {
		source = "built-in defaults (no config.yaml here; `claude-runner init DIR` makes one)"
	}
	d.good("configuration: %s", source)
	for _, w := range cfg.Warnings {
		d.note("%v", w)
	}
	if runtime.GOOS != "linux" {
		d.note("system: on %s the local backend can not follow every process that a tool detaches, nor limit them; Linux can", runtime.GOOS)
	}
	d.dataFolder(cfg.DataDir)
	if _, err := modelAPIs(cfg)(); err != nil {
		d.sick = true
		d.bad("credentials: %v", err)
	} else {
		d.good("credentials: there, for %s", cfg.ModelAPI.BaseURL)
	}
	d.callers(ctx, cfg)
	d.backends(ctx, cfg)
}

// callers tells who may call.
func (d *doctor) callers(ctx context.Context, cfg *config.Config) {
	made := 0
	if path := filepath.Join(cfg.DataDir, "runner.db"); exists(path) {
		err := withStore(ctx, cfg, func(store *sqlite.Store) error {
			keys, err := store.APIKeys(ctx)
			made = len(keys)
			return err
		})
		if err != nil {
			d.sick = true
			d.bad("keys: %v", err)
			return
		}
	}
	switch {
	case len(cfg.Server.APIKeys)+made > 0:
		d.good("keys: callers are asked for one; %d in server.api_keys, %d made", len(cfg.Server.APIKeys), made)
	case cfg.Server.Loopback():
		d.good("keys: none, which will do on %s", cfg.Server.Listen)
	default:
		d.sick = true
		d.bad("keys: other machines reach %s, and nobody would be asked for a key: make one with 'claude-runner keys create --name NAME', set server.api_keys, or listen on 127.0.0.1", cfg.Server.Listen)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lowDisk is the free space below which the doctor warns.
const lowDisk = 2 << 30

func (d *doctor) dataFolder(dir string) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		d.sick = true
		d.bad("data folder: %v; set data_dir to a folder that this user may write", err)
		return
	}
	probe, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		d.sick = true
		d.bad("data folder: %v; set data_dir to a folder that this user may write", err)
		return
	}
	probe.Close()
	os.Remove(probe.Name())
	if os.Geteuid() == 0 {
		for p := dir; p != "/"; p = filepath.Dir(p) {
			if info, err := os.Stat(p); err == nil && info.Mode().Perm()&0o001 == 0 {
				d.note("data folder: sandboxes do not run as root and can't pass through %s (mode %v); chmod o+x it, or set data_dir elsewhere", p, info.Mode().Perm())
			}
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		d.note("data folder: free space is not known: %v", err)
		return
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < lowDisk {
		d.note("data folder: %s has only %s left", dir, units.BytesSize(float64(free)))
		return
	}
	d.good("data folder: %s, %s free", dir, units.BytesSize(float64(free)))
}

func (d *doctor) backends(ctx context.Context, cfg *config.Config) {
	dir, err := os.MkdirTemp(cfg.DataDir, "doctor-")
	if err != nil {
		d.bad("data folder: %v", err)
		d.sick = true
		return
	}
	defer os.RemoveAll(dir)
	d.gateway(ctx, cfg, dir)
	registry := backends.NewRegistry(kinds()...)
	defer registry.Close()
	var working []string
	for _, name := range backendNames(cfg) {
		b := cfg.Backends[name]
		err := registry.Add(b.Kind, b.Config, backends.Options{
			Name: name, Instance: "doctor-" + uuid.NewString(), StateDir: filepath.Join(dir, name),
			User: cfg.SandboxUser, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			d.bad("%v", err)
			continue
		}
		backend, _ := registry.Backend(name)
		if d.backend(ctx, cfg, backend) {
			working = append(working, name)
		}
	}
	for _, name := range agentNames(cfg) {
		wanted := cfg.Agents[name].Backend
		i := slices.IndexFunc(wanted, func(b string) bool { return slices.Contains(working, b) })
		if i < 0 {
			d.sick = true
			d.bad("agent %s: none of its backends works: %s", name, strings.Join(wanted, ", "))
			continue
		}
		d.good("agent %s: runs on %s", name, wanted[i])
	}
}

// backend examines one backend, and reports whether agents can run there.
func (d *doctor) backend(ctx context.Context, cfg *config.Config, b backends.Backend) bool {
	status, err := b.Check(ctx)
	if err != nil {
		d.bad("backend %s: %v", b.Name(), err)
		return false
	}
	c := b.Capabilities()
	works := true
	for _, image := range imagesOn(cfg, b.Name(), c) {
		version, err := cli.Version(ctx, b, image, cfg.SandboxUser)
		where := "here"
		if image != "" {
			where = "in image " + image
		}
		switch {
		case err != nil:
			works = false
			d.bad("backend %s: the CLI does not start %s: %v; %s", b.Name(), where, err, cli.Advice(image))
		case !strings.Contains(version, claude.TestedVersion):
			d.note("backend %s: the CLI %s is %s; %s is what the runner is tested with", b.Name(), where, version, claude.TestedVersion)
		}
	}
	if works {
		d.good("backend %s: %s, isolation %s, starts the CLI", b.Name(), strings.TrimSpace("version "+status.Version), c.Isolation)
	}
	for _, note := range status.Notes {
		d.note("backend %s: %s", b.Name(), note)
	}
	d.holds(cfg, b)
	if c.Warning != "" {
		d.note("backend %s: %s", b.Name(), c.Warning)
	}
	return works
}

// imagesOn returns the images that agents use on a backend, or one "" where it
// uses none.
func imagesOn(cfg *config.Config, backend string, c backends.Capabilities) []string {
	if !c.Images {
		return []string{""}
	}
	var out []string
	for _, a := range cfg.Agents {
		if slices.Contains(a.Backend, backend) && !slices.Contains(out, a.Image) {
			out = append(out, a.Image)
		}
	}
	slices.Sort(out)
	return out
}

// gateway starts a gateway and installs the helper, in a folder that is for
// this alone.
func (d *doctor) gateway(ctx context.Context, cfg *config.Config, dir string) {
	client, err := gateway.Start(ctx, gateway.Options{StateDir: filepath.Join(dir, "gateway")})
	if err == nil {
		err = client.Shutdown(ctx)
	}
	if err != nil {
		d.sick = true
		d.bad("gateway: %v", err)
		return
	}
	if _, err := helper.Install(filepath.Join(dir, "helper")); err != nil {
		d.sick = true
		d.bad("gateway: %v; set data_dir elsewhere", err)
		return
	}
	d.good("gateway: starts; model calls go through it, and their credential stays out of the sandboxes")
}

// holds tells what a backend does not hold of the network modes and of the
// files of others.
func (d *doctor) holds(cfg *config.Config, b backends.Backend) {
	c := b.Capabilities()
	switch {
	case !c.Sockets:
		d.note("backend %s: its sandboxes can not connect to sockets of this host, which the gateway needs: only agents with network: open run there, and have the model's credential", b.Name())
	case !slices.Contains(c.Networks, backends.NetworkNone):
		d.note("backend %s: network: none and allowlist are not enforced: sandboxes have this host's network", b.Name())
	}
	if c.Isolation != backends.IsolationNone {
		return
	}
	abi, err := helper.LandlockSupported()
	if err != nil {
		d.note("backend %s: agents can read and write what their user can: %v", b.Name(), err)
		return
	}
	if open := (helper.Confinement{}).Exposes(cfg.DataDir); open != "" {
		d.note("backend %s: sessions can read each other's files, because data_dir is below %s, which all of them may use: set data_dir elsewhere", b.Name(), open)
		return
	}
	d.good("backend %s: Landlock (version %d) keeps agents to their own files", b.Name(), abi)
}
