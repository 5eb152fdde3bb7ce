package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"claude-runner/agent"
	"claude-runner/cmd/claude-runner/internal/client"
	"claude-runner/config"
)

// The variables that say which server run gives its task to, and with which key.
const (
	envServer = "CLAUDE_RUNNER_URL"
	envKey    = "CLAUDE_RUNNER_API_KEY"
)

// runOptions are the flags of run.
type runOptions struct {
	task   client.Task
	env    []string
	server string
	quiet  bool
}

func runCommand() *cobra.Command {
	o := runOptions{}
	cmd := &cobra.Command{
		Use:   "run MESSAGE",
		Short: "Run one task, show it live, and print its answer as JSON",
		Long: `Run one task. What the agent does is shown on standard error as it happens; the answer is JSON on
standard output.

With --server, or where one answers at the configured address, the task goes to that server. Otherwise
the program runs it by itself with the same configuration and data folder. A server that asks for a key
gets $CLAUDE_RUNNER_API_KEY or, at the configured address, the first of server.api_keys; the key needs the
scopes submit and read. A MESSAGE of - is read
from standard input.

Exit codes: 0 done, 1 failed, 2 the request or the configuration will not do, 3 timed out, 4 aborted,
5 budget exceeded.`,
		Example: `  claude-runner run "Hello, what can you do?"
  claude-runner run --agent support --session user-1 "Look up my account, email is alice@startup.io"`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&o.task.Agent, "agent", "", "agent profile (default: the session's, or default_agent)")
	f.StringVar(&o.task.SessionID, "session", "", "session to go on with (default: a new one)")
	f.StringVar(&o.task.Backend, "backend", "", "backend, one of the agent's")
	f.StringVar(&o.task.Context, "context", "", "context that comes before the message")
	f.StringArrayVar(&o.env, "env", nil, "NAME=VALUE for the agent's tools; NAME alone takes it from this environment; repeatable")
	f.StringVar(&o.server, "server", os.Getenv(envServer), "address of a running server (default: $"+envServer+")")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show nothing but the answer")
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.complete(args[0], cmd.InOrStdin()); err != nil {
			return &exitError{exitUsage, err}
		}
		progress := cmd.ErrOrStderr()
		if o.quiet {
			progress = io.Discard
		}
		c, done, err := connect(cmd.Context(), o.server, load, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return errors.Join(runTask(cmd.Context(), c, o.task, cmd.OutOrStdout(), progress), done())
	}
	return cmd
}

// complete fills in what the flags leave open.
func (o *runOptions) complete(message string, stdin io.Reader) error {
	if o.task.Message = message; message == "-" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return fmt.Errorf("read message from standard input: %w", err)
		}
		o.task.Message = string(data)
	}
	if o.task.SessionID == "" {
		o.task.SessionID = "run-" + uuid.NewString()
	}
	for _, e := range o.env {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return fmt.Errorf("--env %s: there is no such variable here; write --env %s=VALUE", name, name)
			}
		}
		if o.task.Env == nil {
			o.task.Env = map[string]string{}
		}
		o.task.Env[name] = value
	}
	return nil
}

// connect finds the server that runs the task, or starts one in this process.
// done ends that one.
func connect(ctx context.Context, server string, load func() (*config.Config, error), logs io.Writer) (_ client.Client, done func() error, err error) {
	nothing := func() error { return nil }
	key := os.Getenv(envKey)
	if server != "" {
		return client.Client{Base: strings.TrimSuffix(server, "/"), Key: key}, nothing, nil
	}
	cfg, err := load()
	if err != nil {
		return client.Client{}, nil, err
	}
	if key == "" && len(cfg.Server.APIKeys) > 0 {
		key = cfg.Server.APIKeys[0].Reveal()
	}
	if c := (client.Client{Base: "http://" + cfg.Server.Listen, Key: key}); c.Healthy(ctx) {
		return c, nothing, nil
	}
	cfg.Log.Level = max(cfg.Log.Level, slog.LevelError) // the terminal shows the task
	return startServer(ctx, cfg, key, newLogger(cfg, logs))
}

// startServer serves in this process, on a port of loopback that is free.
func startServer(ctx context.Context, cfg *config.Config, key string, log *slog.Logger) (client.Client, func() error, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return client.Client{}, nil, fmt.Errorf("listen on loopback: %w", err)
	}
	if key == "" { // where others need one, this process does too
		key = rand.Text()
		cfg.Server.APIKeys = append(slices.Clip(cfg.Server.APIKeys), agent.Secret(key))
	}
	a, err := openApp(ctx, cfg, log)
	if err != nil {
		return client.Client{}, nil, errors.Join(err, ln.Close())
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- a.Serve(serving, ln) }()
	done := func() error {
		stop()
		return errors.Join(<-served, a.Close(context.WithoutCancel(ctx)))
	}
	return client.Client{Base: "http://" + ln.Addr().String(), Key: key}, done, nil
}

// runTask runs one task and prints its answer. When ctx ends it is aborted.
func runTask(ctx context.Context, c client.Client, t client.Task, out, progress io.Writer) error {
	conn, err := c.Stream(ctx, t.SessionID)
	if r, ok := errors.AsType[*client.Refusal](err); ok {
		return report(r.Status, r.Body, out)
	}
	if err != nil {
		return err
	}
	shown := make(chan struct{})
	p := newPrinter(progress)
	go func() {
		defer close(shown)
		p.follow(conn)
	}()
	patient := context.WithoutCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(patient, 30*time.Second)
		defer cancel()
		select {
		case <-p.known:
		case <-shown: // it was refused
			return
		case <-ctx.Done():
		}
		if err := c.Cancel(ctx, p.taskID); err != nil {
			fmt.Fprintln(progress, "abort:", err)
		}
	})
	defer stop()

	status, answer, err := c.Submit(patient, t)
	// The stream may be a little behind the answer, and knows nothing of a task that was refused.
	err = errors.Join(err, conn.SetReadDeadline(time.Now().Add(time.Second)))
	<-shown
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("submit task: %w", err)
	}
	err = report(status, answer, out)
	if exit, ok := errors.AsType[*exitError](err); ok && p.told && progress != io.Discard {
		exit.err = nil
	}
	return err
}

// report prints the answer and turns its status into the exit code.
func report(status int, answer []byte, out io.Writer) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, answer, "", "  "); err != nil {
		return fmt.Errorf("the server answered %d with something that is not JSON: %.200q", status, answer)
	}
	if _, err := fmt.Fprintln(out, pretty.String()); err != nil {
		return err
	}
	if status == http.StatusOK {
		return nil
	}
	var failure struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}
	if err := json.Unmarshal(answer, &failure); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	code := exitFailed
	switch {
	case failure.Code == "aborted":
		code = exitAborted
	case status == http.StatusGatewayTimeout:
		code = exitTimedOut
	case status == http.StatusPaymentRequired:
		code = exitBudget
	case status < http.StatusInternalServerError && status != http.StatusTooManyRequests:
		code = exitUsage
	}
	if status == http.StatusUnauthorized {
		failure.Error += "; run takes it from $" + envKey
	}
	return &exitError{code, errors.New(failure.Error)}
}
