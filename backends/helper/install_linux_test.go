package helper_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"claude-runner/backends/helper"
)

func TestInstallWhereNoProgramCanRun(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skip("this user can not mount: ", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if _, err := helper.Install(dir + "/helper"); err == nil || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("error %v, want one about noexec", err)
	}
}
