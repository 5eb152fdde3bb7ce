package claude

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"claude-runner/agent"
)

// cleanHome removes from a HOME what would have power over the next process.
// The agent can write there, and the "env" of the CLI's own configuration, in
// the file of today's name or of an older one, sets variables of the process
// that starts: an ANTHROPIC_BASE_URL in it sends the runner's key elsewhere,
// and --setting-sources does not stop it. The CLI makes the file anew; a
// conversation goes on without it.
//
// Where the HOME cannot be cleaned, no agent may be started in it.
func cleanHome(home agent.Folder) error {
	root, err := os.OpenRoot(home.Host)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the agent's HOME: %w", err)
	}
	defer root.Close()
	if err := clean(root); err != nil {
		return fmt.Errorf("remove the agent's own configuration from its HOME, reset the session if this stays: %w", err)
	}
	return nil
}

func clean(root *os.Root) error {
	// A link for .claude would lead the CLI to a folder that is not seen here.
	if info, err := root.Lstat(".claude"); err == nil && !info.IsDir() {
		if err := remove(root, ".", ".claude"); err != nil {
			return err
		}
	}
	return errors.Join(remove(root, ".", ".claude.json"), remove(root, ".claude", ".claude/.config.json"))
}

// remove removes name, be it a file, a link or a folder, from its folder, which
// the agent may have made read-only.
func remove(root *os.Root, folder, name string) error {
	switch _, err := root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil && !errors.Is(err, fs.ErrPermission):
		return err
	}
	if info, err := root.Lstat(folder); err == nil && info.Mode().Perm()&0o700 != 0o700 {
		if err := root.Chmod(folder, info.Mode().Perm()|0o700); err != nil {
			return err
		}
	}
	return putAway(root, name)
}

// putAway removes a file, a link or an empty folder. A folder with something in
// it only gets another name: emptying one that the agent has made can take
// without end.
func putAway(root *os.Root, name string) error {
	err := root.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if info, lookErr := root.Lstat(name); lookErr != nil || !info.IsDir() {
		return err
	}
	to := path.Join(path.Dir(name), ".removed-"+rand.Text())
	if err = root.Rename(name, to); errors.Is(err, fs.ErrPermission) {
		if err = root.Chmod(name, 0o700); err == nil {
			err = root.Rename(name, to)
		}
	}
	return err
}
