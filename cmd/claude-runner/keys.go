package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"claude-runner/config"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// commandLine is who the audit says makes and revokes keys.
const commandLine = "command line"

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke the API keys of callers",
		Long: `Make, list and revoke the API keys of callers.

The keys are in the database of the configured data folder. A server that runs on it knows of a change
within a second. As soon as there is a key, every request needs one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(keysCreateCommand(), keysListCommand(), keysRevokeCommand())
	return cmd
}

// keyOptions are the flags of keys create.
type keyOptions struct {
	name           string
	agents, scopes []string
	rate           int
	concurrency    int
	budget         float64
	expires        time.Duration
}

func keysCreateCommand() *cobra.Command {
	o := keyOptions{}
	cmd := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make an API key and print its secret, this once",
		Long: `Make an API key. Its secret is printed on standard output, and nowhere kept: only its hash is.

A key sees the sessions that it made, and their tasks and usage, and no others; one with the scope admin
sees all. Scopes:
  submit  give tasks, and end, reset and delete what is the key's own
  read    read what is the key's own: sessions, tasks, events, streams, usage, agents
  admin   both, for every session, and the backends, the metrics and the audit`,
		Example: `  claude-runner keys create --name support-web --agents support --rate 60 --concurrency 4 --budget 5.00
  claude-runner keys create --name prometheus --scopes admin --expires 720h`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "what to call the key; needed")
	f.StringSliceVar(&o.agents, "agents", nil, "agents that it may use (default: every one)")
	f.StringSliceVar(&o.scopes, "scopes", []string{string(session.ScopeSubmit), string(session.ScopeRead)}, "what it may do: submit, read, admin")
	f.IntVar(&o.rate, "rate", 0, "tasks that it may submit per minute (0: no limit)")
	f.IntVar(&o.concurrency, "concurrency", 0, "tasks of it that run at once; more wait (0: no limit)")
	f.Float64Var(&o.budget, "budget", 0, "US dollars that its tasks may cost in a day, UTC (0: no limit)")
	f.DurationVar(&o.expires, "expires", 0, "how long it is good, such as 720h (default: until it is revoked)")
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		key, secret, err := o.key(cfg, time.Now().UTC())
		if err != nil {
			return &exitError{exitUsage, err}
		}
		err = withStore(cmd.Context(), cfg, func(store *sqlite.Store) error { return createKey(cmd.Context(), store, key) })
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "made key %s (id %s). This is its secret, which is not shown again:\n", key.Name, key.ID)
		_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
		return err
	}
	return cmd
}

// key makes the key that the flags ask for.
func (o keyOptions) key(cfg *config.Config, now time.Time) (session.APIKey, string, error) {
	k := session.APIKey{
		Name: o.name, Agents: o.agents, Rate: o.rate, Concurrency: o.concurrency, BudgetUSD: o.budget, CreatedAt: now,
	}
	for _, s := range o.scopes {
		k.Scopes = append(k.Scopes, session.Scope(s))
	}
	if o.name == "" {
		return k, "", errors.New("a key needs a name: --name NAME")
	}
	for _, name := range o.agents {
		if _, ok := cfg.Agents[name]; !ok {
			return k, "", fmt.Errorf("agents: there is no agent %q; the configuration has %s", name, strings.Join(agentNames(cfg), ", "))
		}
	}
	if o.expires < 0 {
		return k, "", fmt.Errorf("expires: %v is over already; want a time to come, such as 720h", o.expires)
	}
	if o.expires > 0 {
		k.ExpiresAt = now.Add(o.expires)
	}
	return session.NewAPIKey(k)
}

func createKey(ctx context.Context, store *sqlite.Store, key session.APIKey) error {
	err := store.CreateAPIKey(ctx, key, session.AuditEntry{
		At: key.CreatedAt, KeyName: commandLine, Action: "keys.create", Target: key.ID, Status: 200,
	})
	if errors.Is(err, session.ErrNameTaken) {
		return &exitError{exitUsage, fmt.Errorf("there is a key %q already; choose another name, or revoke it first: claude-runner keys revoke %s", key.Name, key.Name)}
	}
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return nil
}

func keysListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the API keys, revoked ones included; secrets are not known",
		Args:  cobra.NoArgs,
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return withStore(cmd.Context(), cfg, func(store *sqlite.Store) error {
			return listKeys(cmd.Context(), store, cmd.OutOrStdout(), time.Now().UTC())
		})
	}
	return cmd
}

func listKeys(ctx context.Context, store *sqlite.Store, out io.Writer, now time.Time) error {
	keys, err := store.APIKeys(ctx)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSTATE\tSCOPES\tAGENTS\tRATE\tCONCURRENCY\tBUDGET\tTODAY\tCREATED\tEXPIRES\tLAST USED")
	for _, k := range keys {
		spent, err := store.SpentSince(ctx, k.ID, now.Truncate(24*time.Hour))
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		scopes := make([]string, len(k.Scopes))
		for i, s := range k.Scopes {
			scopes[i] = string(s)
		}
		state := "good"
		switch {
		case !k.RevokedAt.IsZero():
			state = "revoked"
		case k.Trouble(now) != "":
			state = "expired"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t$%.2f\t%s\t%s\t%s\n", k.Name, k.ID, state,
			strings.Join(scopes, ","), orDash(strings.Join(k.Agents, ","), len(k.Agents) == 0, "all"),
			orDash(fmt.Sprintf("%d/min", k.Rate), k.Rate == 0, "-"), orDash(fmt.Sprint(k.Concurrency), k.Concurrency == 0, "-"),
			orDash(fmt.Sprintf("$%.2f/day", k.BudgetUSD), k.BudgetUSD == 0, "-"), spent,
			day(k.CreatedAt), day(k.ExpiresAt), day(k.LastUsedAt))
	}
	return w.Flush()
}

// orDash is text, or none where there is nothing to tell.
func orDash(text string, empty bool, none string) string {
	if empty {
		return none
	}
	return text
}

func day(t time.Time) string { return orDash(t.Format("2006-01-02 15:04"), t.IsZero(), "-") }

func keysRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "Revoke an API key, and end the streams that are open with it",
		Args:  cobra.ExactArgs(1),
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return withStore(cmd.Context(), cfg, func(store *sqlite.Store) error {
			return revokeKey(cmd.Context(), store, args[0], cmd.OutOrStdout())
		})
	}
	return cmd
}

func revokeKey(ctx context.Context, store *sqlite.Store, nameOrID string, out io.Writer) error {
	now := time.Now().UTC()
	k, err := store.RevokeAPIKey(ctx, nameOrID, now, session.AuditEntry{At: now, KeyName: commandLine, Action: "keys.revoke", Status: 200})
	switch {
	case errors.Is(err, session.ErrNotFound):
		keys, err := store.APIKeys(ctx)
		if err != nil {
			return fmt.Errorf("revoke key: %w", err)
		}
		names := map[string]bool{}
		for _, k := range keys {
			if k.RevokedAt.IsZero() {
				names[k.Name] = true
			}
		}
		known := strings.Join(slices.Sorted(maps.Keys(names)), ", ")
		return &exitError{exitUsage, fmt.Errorf("there is no key %q to revoke; there are: %s", nameOrID, orDash(known, known == "", "none"))}
	case err != nil:
		return fmt.Errorf("revoke key: %w", err)
	case !k.RevokedAt.Equal(now):
		_, err = fmt.Fprintf(out, "key %s (id %s) was revoked before, at %s\n", k.Name, k.ID, k.RevokedAt.Format(time.RFC3339))
		return err
	}
	_, err = fmt.Fprintf(out, "revoked key %s (id %s)\n", k.Name, k.ID)
	return err
}

// withStore opens the data folder's database, beside a server that may run on
// it.
func withStore(ctx context.Context, cfg *config.Config, do func(*sqlite.Store) error) error {
	if err := makeFolder(cfg.DataDir); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(cfg.DataDir, "runner.db"))
	if err != nil {
		return err
	}
	return errors.Join(do(store), store.Close())
}
