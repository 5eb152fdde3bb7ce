// Package cli looks at the Claude Code CLI that sandboxes have.
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent/claude"
	"claude-runner/backends"
)

// Version starts a sandbox on a backend that prints the CLI's version. The user is
// who runs sandboxes where this process runs as root.
func Version(ctx context.Context, b backends.Backend, image string, user backends.User) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := b.Start(ctx, backends.Spec{
		Name: "version-" + uuid.NewString()[:8], Image: image, Pull: backends.PullNever, Argv: []string{"claude", "--version"},
		Env: map[string]string{"HOME": "/tmp"}, Dir: "/tmp", User: b.Capabilities().SandboxUser(user), Timeout: time.Minute,
		Limits: backends.Limits{Tmpfs: map[string]int64{"/tmp": 64 << 20}}, Network: backends.NetworkOpen,
	})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Stop(context.WithoutCancel(ctx), 0)) }()
	if err := s.Stdin().Close(); err != nil {
		return "", err
	}
	out, err := io.ReadAll(s.Stdout())
	if err != nil {
		return "", err
	}
	exit, err := s.Wait(ctx)
	if err != nil {
		return "", err
	}
	if exit.Code != 0 {
		stderr, _ := io.ReadAll(s.Stderr())
		return "", fmt.Errorf("exit code %d, signal %d: %.300s", exit.Code, exit.Signal, bytes.TrimSpace(stderr))
	}
	return string(bytes.TrimSpace(out)), nil
}

// Advice says how a backend gets the CLI: by an image, where it needs one.
func Advice(image string) string {
	if image != "" {
		return "build the image with `make image`, or name one that has the CLI in the profile's image"
	}
	return "install it (`make cli`, or npm install --global @anthropic-ai/claude-code@" + claude.TestedVersion + ") and put its folder into PATH or the backend's path"
}
