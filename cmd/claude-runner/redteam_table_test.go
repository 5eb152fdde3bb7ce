package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"claude-runner/agent"
)

// byHost is SECURITY.md's word where it is the host's kernel that holds.
const byHost = "by host"

func verdict(held bool) string {
	if held {
		return "held"
	}
	return "not held"
}

// securityRow is what SECURITY.md says of an attack, by column.
type securityRow map[string]string

// at is the verdict for a mode of the network: "not held with `open`" is "held"
// in the others.
func (r securityRow) at(column string, mode agent.NetworkMode) string {
	said, _, _ := strings.Cut(r[column], " (")
	modes, some := strings.CutPrefix(said, verdict(false)+" with ")
	if !some {
		return said
	}
	return verdict(!strings.Contains(modes, "`"+string(mode)+"`"))
}

// securityTable reads SECURITY.md's tables of attacks, by name.
func securityTable(t *testing.T) map[string]securityRow {
	t.Helper()
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]securityRow{}
	var columns []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case cells[0] == "attack":
			columns = cells
		case len(columns) > 0 && len(cells) == len(columns) && !strings.HasPrefix(cells[0], "-"):
			row := securityRow{}
			for i, c := range columns {
				row[c] = cells[i]
			}
			table[cells[0]] = row
		case len(cells) != len(columns):
			columns = nil
		}
	}
	return table
}

// Each row of SECURITY.md's tables is an attack, and each attack a row.
func TestSecurityTable(t *testing.T) {
	tried := map[string]bool{}
	for _, a := range attacks {
		tried[a.name] = true
	}
	rows := slices.Sorted(maps.Keys(securityTable(t)))
	if names := slices.Sorted(maps.Keys(tried)); !slices.Equal(rows, names) {
		t.Errorf("SECURITY.md has rows for\n%q,\nthe attacks are\n%q", rows, names)
	}
}
