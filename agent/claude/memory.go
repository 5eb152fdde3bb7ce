package claude

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"claude-runner/agent"
)

// transcript is a conversation's file in a HOME.
type transcript struct {
	name    string // in the HOME
	sandbox string // its path in the sandbox
}

// findTranscript looks for a conversation under each working folder's name in
// .claude/projects, and takes the newest. The HOME is the agent's to write:
// links in it are not followed, and nothing outside of it is reached.
func findTranscript(home agent.Folder, id string) (transcript, bool) {
	var found transcript
	root, err := os.OpenRoot(home.Host)
	if err != nil {
		return found, false
	}
	defer root.Close()
	const projects = ".claude/projects"
	if !isFolder(root, ".claude") || !isFolder(root, projects) {
		return found, false
	}
	// The runner waits for nothing here: a pipe may have come in its place.
	dir, err := root.OpenFile(projects, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY, 0)
	if err != nil {
		return found, false
	}
	defer dir.Close()
	entries, _ := dir.Readdirnames(maxProjects)
	var newest fs.FileInfo
	for _, entry := range entries {
		if !isFolder(root, path.Join(projects, entry)) {
			continue
		}
		name := path.Join(projects, entry, id+".jsonl")
		info, err := root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if newest == nil || info.ModTime().After(newest.ModTime()) {
			newest, found = info, transcript{name: name, sandbox: path.Join(filepath.ToSlash(home.Sandbox), name)}
		}
	}
	return found, newest != nil
}

// maxProjects is how many working folders are looked through. An agent of this
// runner has one.
const maxProjects = 1000

func isFolder(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.IsDir()
}

// totals is what a CLI has used since it counts. Some versions count from a
// process's start, others go on from what a transcript says.
type totals struct {
	cost   float64
	models map[string]modelUsage
}

// tailRead is how much of a transcript's end is searched for its totals, in
// bytes. They are written behind every turn.
const tailRead = 4 << 20

// transcriptTotals returns the totals that a conversation's transcript ends
// with, or none: only some versions write them.
func transcriptTotals(home agent.Folder, id string) totals {
	found, ok := findTranscript(home, id)
	if !ok {
		return totals{}
	}
	root, err := os.OpenRoot(home.Host)
	if err != nil {
		return totals{}
	}
	defer root.Close()
	f, err := root.OpenFile(found.name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe may have come in its place
	if err != nil {
		return totals{}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return totals{}
	}
	if _, err := f.Seek(max(info.Size()-tailRead, 0), io.SeekStart); err != nil {
		return totals{}
	}
	return lastTotals(io.LimitReader(f, tailRead))
}

func lastTotals(r io.Reader) totals {
	var last totals
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if bytes.Contains(line, []byte(`"cost-state"`)) {
			var state struct {
				Type         string                `json:"type"`
				TotalCostUSD float64               `json:"totalCostUSD"`
				ModelUsage   map[string]modelUsage `json:"modelUsage"`
			}
			if json.Unmarshal(line, &state) == nil && state.Type == "cost-state" {
				// since leaves nothing negative.
				last = totals{cost: state.TotalCostUSD, models: state.ModelUsage}.since(totals{})
			}
		}
		if err != nil {
			return last
		}
	}
}
