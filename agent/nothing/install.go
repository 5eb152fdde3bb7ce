package nothing

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Install puts the agent's program, a copy of this one, into the folder dir,
// where every user who may enter the folder can run it, and returns its path.
func Install(dir string) (program string, err error) {
	program = dir + "/" + Name
	if err := install(program); err != nil {
		return "", fmt.Errorf("install the agent that does nothing: %w", err)
	}
	return program, nil
}

func install(to string) error {
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	in, err := os.Open(own)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o555), out.Close())
	if err == nil {
		err = os.Rename(to+".new", to) // whoever runs the one before keeps it
	}
	if err != nil {
		err = errors.Join(err, os.Remove(to+".new"))
	}
	return err
}
