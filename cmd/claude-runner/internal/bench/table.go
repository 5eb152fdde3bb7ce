package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/dustin/go-humanize/english"
)

// tableRow is one figure: a cell for each backend.
type tableRow struct {
	label string
	cells []string
}

// figure is a row's value on one backend, or "".
type figure struct {
	label string
	cell  func(*backendResult) string
}

// rows are the backends' figures; those that nobody has are left out.
func (r *report) rows() []tableRow {
	n, runs := r.Options.Burst, strings.Join(engineCommands(r.Backends), ", ")
	figures := slices.Concat(
		turnFigures("cold", func(b *backendResult) (*turnsResult, *turnsResult) { return b.Cold, b.PipeCold }),
		reference("the CLI on a pipe", func(b *backendResult) *turnsResult { return b.PipeCold }),
		reference(runs, func(b *backendResult) *turnsResult { return b.RunTurns }),
		turnFigures("warm", func(b *backendResult) (*turnsResult, *turnsResult) { return b.Warm, b.PipeBooted }),
		turnFigures("warm, with an environment of the task", func(b *backendResult) (*turnsResult, *turnsResult) { return b.WarmEnv, b.PipeBooted })[:1],
		reference("the CLI on a pipe, booted before", func(b *backendResult) *turnsResult { return b.PipeBooted }),
		turnFigures("hot", func(b *backendResult) (*turnsResult, *turnsResult) { return b.Hot, b.PipeHot }),
		reference("the CLI on a pipe, later turns", func(b *backendResult) *turnsResult { return b.PipeHot }),
		[]figure{
			{fmt.Sprintf("%d new sessions at once: last answer, median answer", n), burstFigure(func(b *backendResult) *burstResult { return b.Burst })},
			{fmt.Sprintf("%d new sessions at once, %d warm", n, n), burstFigure(func(b *backendResult) *burstResult { return b.BurstWarm })},
			{fmt.Sprintf("· %d × %s", n, runs), burstFigure(func(b *backendResult) *burstResult { return b.BurstRun })},
			{fmt.Sprintf("· %d × the CLI on a pipe", n), burstFigure(func(b *backendResult) *burstResult { return b.BurstPipe })},
		},
		loadFigures(r.Options.Conversations),
		[]figure{
			{"memory of a hot agent", agentFigure(func(b *backendResult) *agentResult { return b.HotAgent })},
			{"memory of a warm agent", agentFigure(func(b *backendResult) *agentResult { return b.WarmAgent })},
			{"processor time of a hot agent that waits, before it is put to rest", func(b *backendResult) string {
				if b.HotAgent == nil || b.HotAgent.MemoryBytes == 0 {
					return ""
				}
				return number(b.HotAgent.CPUPerSecondMS) + " ms/s"
			}},
		},
	)
	var rows []tableRow
	for _, f := range figures {
		row := tableRow{label: f.label}
		for _, b := range r.Backends {
			row.cells = append(row.cells, f.cell(b))
		}
		if slices.ContainsFunc(row.cells, func(c string) bool { return c != "" }) {
			rows = append(rows, row)
		}
	}
	return rows
}

func engineCommands(all []*backendResult) []string {
	var commands []string
	for _, b := range all {
		if b.Run != nil {
			commands = append(commands, "`"+b.Run.Command+"`")
		}
	}
	return commands
}

// turnFigures are the rows of turns, each with its ratio to a reference.
func turnFigures(name string, of func(*backendResult) (turns, reference *turnsResult)) []figure {
	row := func(label string, pick func(*turnsResult) *quantiles) figure {
		return figure{name + ": " + label, func(b *backendResult) string {
			turns, reference := of(b)
			if turns == nil {
				return ""
			}
			cell := spread(pick(turns))
			if reference != nil {
				cell += fmt.Sprintf(" (%.2f×)", pick(turns).at(0.5)/pick(reference).at(0.5))
			}
			return cell
		}}
	}
	return []figure{
		row("first model request", func(t *turnsResult) *quantiles { return t.Request }),
		row("first words at the client", func(t *turnsResult) *quantiles { return t.Words }),
		row("answer", func(t *turnsResult) *quantiles { return t.Answer }),
	}
}

// reference are the rows of what turns are compared with.
func reference(name string, of func(*backendResult) *turnsResult) []figure {
	return []figure{
		{"· " + name + ": first model request", func(b *backendResult) string {
			if of(b) == nil {
				return ""
			}
			return spread(of(b).Request)
		}},
		{"· " + name + ": answer", func(b *backendResult) string {
			if of(b) == nil {
				return ""
			}
			return spread(of(b).Answer)
		}},
	}
}

func burstFigure(of func(*backendResult) *burstResult) func(*backendResult) string {
	return func(b *backendResult) string {
		burst := of(b)
		switch {
		case burst == nil:
			return ""
		case len(burst.Rounds) == 0:
			return "not here: " + burst.Note
		}
		cell := fmt.Sprintf("%s s, %s s", number(burst.TotalMS/1000), number(burst.MedianMS/1000))
		reference := b.BurstRun
		if reference == nil {
			reference = b.BurstPipe
		}
		if reference != nil && burst != reference && reference.TotalMS > 0 {
			cell += fmt.Sprintf(" (%.2f×)", burst.TotalMS/reference.TotalMS)
		}
		return cell
	}
}

func loadFigures(n int) []figure {
	row := func(label string, cell func(*loadResult) string) figure {
		return figure{fmt.Sprintf("%s side by side: %s", english.Plural(n, "conversation", ""), label), func(b *backendResult) string {
			if b.Load == nil {
				return ""
			}
			return cell(b.Load)
		}}
	}
	return []figure{
		row("turns per second", func(l *loadResult) string { return number(l.TurnsPerSecond) }),
		row("answer p50, p99", func(l *loadResult) string {
			return number(l.Answer.at(0.5)) + ", " + number(l.Answer.at(0.99)) + " ms"
		}),
		row("memory of server, gateway, all agents", func(l *loadResult) string {
			if l.ServerBytes == 0 {
				return ""
			}
			return bytesOf(l.ServerBytes) + ", " + bytesOf(l.GatewayBytes) + ", " + bytesOf(l.AgentsBytes)
		}),
	}
}

func agentFigure(of func(*backendResult) *agentResult) func(*backendResult) string {
	return func(b *backendResult) string {
		if a := of(b); a != nil && a.MemoryBytes > 0 {
			return bytesOf(a.MemoryBytes)
		}
		return ""
	}
}

// sentences are the figures that no backend has.
func (r *report) sentences() []string {
	var all []string
	if i := r.Idle; i != nil && i.ServerResidentBytes > 0 {
		all = append(all, fmt.Sprintf("An idle server: %s resident and %s ms of processor time per second; its gateway %s and %s ms.",
			bytesOf(i.ServerResidentBytes), number(i.ServerPerSecondMS), bytesOf(i.GatewayResidentBytes), number(i.GatewayPerSecondMS)))
	}
	if o := r.Overhead; o != nil {
		all = append(all, fmt.Sprintf("An agent that does nothing, %d sessions side by side: %s.", o.Conversations, o))
	}
	if o := r.Stored; o != nil {
		all = append(all, fmt.Sprintf("The same, in turn with it, where the server has %s stored: %s.", english.Plural(o.StoredSessions, "session", ""), o))
	}
	for _, t := range r.Targets {
		all = append(all, "Target, "+t.String()+".")
	}
	return all
}

// heading says where and when.
func (r *report) heading() string {
	m := r.Machine
	parts := []string{strings.TrimSpace(m.CPU + " × " + strconv.Itoa(m.Cores))}
	if m.MemoryBytes > 0 {
		parts = append(parts, bytesOf(m.MemoryBytes))
	}
	parts = append(parts, m.Kernel, r.Date.Format("2006-01-02"), "claude-runner "+r.Versions.Runner)
	if r.Versions.CLI != "" {
		parts = append(parts, "CLI "+r.Versions.CLI)
	}
	for _, b := range r.Backends {
		if b.images {
			parts = append(parts, b.Name+" "+b.Version)
		}
	}
	if r.Interrupted {
		parts = append(parts, "interrupted")
	}
	return strings.Join(parts, ", ")
}

// legend explains the cells.
const legend = "Times are p50 / p95 in milliseconds; × is the p50 to that of the reference (·) below."

// text writes the table for a terminal.
func (r *report) text(out io.Writer) error {
	fmt.Fprintln(out, r.heading())
	if r.Soak != nil {
		return r.Soak.text(out)
	}
	fmt.Fprint(out, legend, "\n\n")
	if rows := r.rows(); len(rows) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprint(w, "\t")
		for _, b := range r.Backends {
			fmt.Fprint(w, b.Name, "\t")
		}
		fmt.Fprintln(w)
		for _, row := range rows {
			fmt.Fprintln(w, strings.ReplaceAll(row.label, "`", "")+"\t"+strings.Join(row.cells, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	for _, s := range r.sentences() {
		fmt.Fprintln(out, strings.ReplaceAll(s, "`", ""))
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(out, "%s was left out: %s\n", s.Backend, s.Reason)
	}
	return nil
}

// markdown writes the table as it stands in README.md.
func (r *report) markdown(out io.Writer) error {
	fmt.Fprintf(out, "%s. %s\n\n|  |", r.heading(), legend)
	for _, b := range r.Backends {
		fmt.Fprintf(out, " %s |", b.Name)
	}
	fmt.Fprintf(out, "\n|---|%s\n", strings.Repeat("---|", len(r.Backends)))
	for _, row := range r.rows() {
		fmt.Fprintf(out, "| %s | %s |\n", row.label, strings.Join(row.cells, " | "))
	}
	fmt.Fprintln(out)
	for _, s := range r.sentences() {
		fmt.Fprintf(out, "- %s\n", s)
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(out, "- %s was left out: %s\n", s.Backend, s.Reason)
	}
	return nil
}

// spread is p50 and p95.
func spread(q *quantiles) string { return number(q.at(0.5)) + " / " + number(q.at(0.95)) }

// number is a number with three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

func bytesOf(n int64) string {
	return units.CustomSize("%.0f %s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB"})
}
