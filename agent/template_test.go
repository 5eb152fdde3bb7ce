package agent_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/backends"
)

// write makes files in a new folder. A text that begins with "-> " makes a link.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadTemplateReadsTheFilesThatCount(t *testing.T) {
	schema := `{"type": "object", "properties": {"a": {"type": "string"}}}`
	dir := write(t, map[string]string{"AGENTS.md": "\ufeffYou help.\n", "OUTPUT.md": "Answer as JSON.\n", "output.schema.json": schema, "tools/x": "#!/bin/sh\n"})
	got, err := agent.LoadTemplate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Dir != dir || got.System != "You help.\n" || got.Output != "Answer as JSON.\n" || string(got.Schema) != schema {
		t.Errorf("got %+v", got)
	}
	if want := "You help.\n\nAnswer as JSON."; got.Prompt() != want {
		t.Errorf("prompt %q, want %q", got.Prompt(), want)
	}
}

func TestLoadTemplateWithoutAFolderIsTheOneInTheBinary(t *testing.T) {
	got, err := agent.LoadTemplate("")
	if err != nil {
		t.Fatal(err)
	}
	if got.Dir != "" || got.System == "" || got.Schema != nil {
		t.Errorf("got %+v", got)
	}
	dst := filepath.Join(t.TempDir(), "workspace")
	if err := got.CopyTo(dst, backends.User{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"-rw-r--r-- AGENTS.md", "drwxr-xr-x data"}
	if diff := cmp.Diff(want, list(t, dst)); diff != "" {
		t.Error(diff)
	}
}

func TestLoadTemplateRefuses(t *testing.T) {
	object := `{"type": "object"`
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no prompt":           {map[string]string{"OUTPUT.md": "x"}, "AGENTS.md is missing"},
		"empty prompt":        {map[string]string{"AGENTS.md": " \n"}, "AGENTS.md is empty"},
		"binary prompt":       {map[string]string{"AGENTS.md": "a\xff"}, "AGENTS.md is not text in UTF-8"},
		"NUL in prompt":       {map[string]string{"AGENTS.md": "a\x00"}, "AGENTS.md is not text in UTF-8"},
		"huge prompt":         {map[string]string{"AGENTS.md": strings.Repeat("a", 1<<20+1)}, "AGENTS.md is larger than"},
		"prompt is a folder":  {map[string]string{"AGENTS.md/x": ""}, "AGENTS.md is not a file"},
		"prompt from outside": {map[string]string{"AGENTS.md": "-> /etc/hostname"}, "AGENTS.md"},
		"schema not JSON":     {map[string]string{"output.schema.json": "{"}, "output.schema.json is not JSON"},
		"schema and more":     {map[string]string{"output.schema.json": object + "} {}"}, "output.schema.json is not JSON"},
		"schema of an array":  {map[string]string{"output.schema.json": `{"type": "array"}`}, `its top level must be {"type": "object"`},
		"schema of anything":  {map[string]string{"output.schema.json": `true`}, `its top level must be {"type": "object"`},
		"schema not a schema": {map[string]string{"output.schema.json": object + `, "required": "a"}`}, "not a valid JSON Schema: at '/required'"},
		"schema bad pattern":  {map[string]string{"output.schema.json": object + `, "properties": {"a": {"pattern": "["}}}`}, "/properties/a/pattern"},
		"schema remote":       {map[string]string{"output.schema.json": object + `, "properties": {"a": {"$ref": "http://localhost:1/x.json"}}}`}, "$ref or $schema leads to http://localhost:1/x.json"},
		"schema other file":   {map[string]string{"output.schema.json": object + `, "properties": {"a": {"$ref": "other.json"}}}`}, "leads to other.json"},
		"schema's own schema": {map[string]string{"output.schema.json": object + `, "$schema": "http://localhost:1/y"}`}, "leads to http://localhost:1/y"},
		"absolute link":       {map[string]string{"x": "-> /etc"}, "the link x leads to /etc"},
		"link out":            {map[string]string{"tools/x": "-> ../../y"}, "the link tools/x leads to ../../y"},
		"link out by a link":  {map[string]string{"d/up": "-> ..", "d/x": "-> up/../y"}, "must stay in the template's folder"},
		"no folder":           {nil, "is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.files != nil && c.files["AGENTS.md"] == "" && name != "no prompt" && name != "prompt is a folder" {
				c.files["AGENTS.md"] = "You help."
			}
			dir := filepath.Join(t.TempDir(), "none")
			if c.files != nil {
				dir = write(t, c.files)
			}
			_, err := agent.LoadTemplate(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q, want %q with the folder's name", err, c.want)
			}
		})
	}
}

func TestLoadTemplateRefusesSpecialFiles(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"pipe":   {func(p string) error { return syscall.Mkfifo(p, 0o644) }, "tools/x is a named pipe"},
		"socket": {makeSocket, "tools/x is a socket"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"AGENTS.md": "You help.", "tools/y": ""})
			t.Chdir(dir) // a socket's path is short
			if err := c.make("tools/x"); err != nil {
				t.Fatal(err)
			}
			if _, err := agent.LoadTemplate(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
	t.Run("prompt is a pipe", func(t *testing.T) {
		dir := t.TempDir()
		if err := syscall.Mkfifo(filepath.Join(dir, "AGENTS.md"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.LoadTemplate(dir); err == nil || !strings.Contains(err.Error(), "AGENTS.md is not a file") {
			t.Errorf("error %q", err)
		}
	})
}

func makeSocket(path string) error {
	addr := net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", &addr)
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

func TestLoadTemplateRefusesTooManyFiles(t *testing.T) {
	dir := write(t, map[string]string{"AGENTS.md": "You help."})
	f, err := os.Create(filepath.Join(dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(agent.MaxTemplateBytes); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := agent.LoadTemplate(dir); err == nil || !strings.Contains(err.Error(), "is this the right folder?") {
		t.Errorf("error %v", err)
	}
}

func TestCopyToKeepsModesAndLinks(t *testing.T) {
	dir := write(t, map[string]string{
		"AGENTS.md": "You help.", "tools/run.sh": "#!/bin/sh\n", "tools/latest": "-> run.sh", "notes/deep/a.txt": "a",
		"secret.txt": "s", "later": "-> data/made-later", "notes/up": "-> ../tools/run.sh", "data/seed.csv": "1",
	})
	for name, mode := range map[string]fs.FileMode{"tools/run.sh": 0o755 | fs.ModeSetuid, "secret.txt": 0o400, "notes/deep": 0o555} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "notes/deep"), 0o755) })
	template, err := agent.LoadTemplate(dir)
	if err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir() // there, and empty
	if err := template.CopyTo(dst, backends.User{}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rw-r--r-- AGENTS.md", "drwxr-xr-x data", "-rw-r--r-- data/seed.csv", "later -> data/made-later", "drwxr-xr-x notes",
		"drwxr-xr-x notes/deep", "-rw-r--r-- notes/deep/a.txt", "notes/up -> ../tools/run.sh", "-rw------- secret.txt", "drwxr-xr-x tools",
		"tools/latest -> run.sh", "-rwxr-xr-x tools/run.sh",
	}
	if diff := cmp.Diff(want, list(t, dst)); diff != "" {
		t.Error(diff)
	}
}

// list returns what is in a folder: modes and names, links with their targets.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			found = append(found, name+" -> "+target)
			return err
		}
		found = append(found, info.Mode().String()+" "+name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCopyToGivesTheWorkspaceToItsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	template, err := agent.LoadTemplate(write(t, map[string]string{"AGENTS.md": "You help.", "a/b": "", "a/l": "-> b"}))
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "workspace")
	if err := template.CopyTo(dst, backends.User{UID: 12345, GID: 54321}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "AGENTS.md", "a", "a/b", "a/l", "data"} {
		info, err := os.Lstat(filepath.Join(dst, name))
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 12345 || stat.Gid != 54321 {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
	}
}

func TestCopyToRefuses(t *testing.T) {
	dir := write(t, map[string]string{"AGENTS.md": "You help."})
	template, err := agent.LoadTemplate(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dst, want string }{
		"not empty":           {write(t, map[string]string{"old": ""}), "is not empty: it has old"},
		"inside the template": {filepath.Join(dir, "workspace"), "move data_dir out of it"},
		"no parent":           {filepath.Join(t.TempDir(), "a", "b"), "make the workspace"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := template.CopyTo(c.dst, backends.User{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCopyToSeesWhatChangedSinceLoading(t *testing.T) {
	dir := write(t, map[string]string{"AGENTS.md": "You help."})
	template, err := agent.LoadTemplate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "way-out")); err != nil {
		t.Fatal(err)
	}
	err = template.CopyTo(filepath.Join(t.TempDir(), "workspace"), backends.User{})
	if err == nil || !strings.Contains(err.Error(), "the link way-out leads to /etc") {
		t.Errorf("error %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	err = template.CopyTo(filepath.Join(t.TempDir(), "workspace"), backends.User{})
	if err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("error %v", err)
	}
}
