package backends

// Lines that begin with a NUL byte, on the standard input of a sandbox whose
// helper was told to listen for them (helper.Options.Control), are commands to
// the helper: it does as they say and does not pass them on. All other bytes
// reach the agent as they are, NUL bytes within a line too; whoever writes lines
// for an agent sees to it that none begins with one. A command is obeyed at its
// place in the stream: what was written before has been handed to the agent, and
// what was written behind it waits until it is done. A helper that does not know
// a command ignores it, and says so on stderr once.
//
// The channel ends with standard input: at its end, and where the agent has
// closed its own. What is written when the agent has just closed it may be lost
// without an error; what is written later fails as it does without a helper.
//
// The agent can not write commands and can not read them. It is the helper's own
// user all the same, and may stop or kill it: the sandbox's end, not its escape.
const (
	// ControlSweep ends (SIGKILL) every process that the agent has left behind,
	// and all that descends from it: those that the helper has become the parent
	// of. The agent itself is spared, and so is all that still descends from it.
	//
	// On Linux the helper is a child subreaper: on every backend, whoever is the
	// sandbox's first process, an orphan becomes the helper's child, also one that
	// has detached itself (setsid, a second fork, CLONE_PARENT). None goes to the
	// engine's init. Only one that stays below a process of the agent's tree which
	// has made itself a subreaper is not left behind in this sense; ControlRest
	// stops it with that tree. Elsewhere orphans can not be told from others, and
	// nothing is swept.
	//
	// A sweep with nothing to do takes well below a millisecond, and any sweep at
	// most a second, for which a signal to the agent waits too. What is not ended
	// by then, as what starts itself anew faster than it can be stopped, is said
	// on stderr. A resting agent goes on resting.
	ControlSweep = "\x00sweep\n"

	// ControlRest stops (SIGSTOP) the agent and all that descends from it, so
	// that they use no processor time at all. The next byte for the agent, the end
	// of standard input, or a signal for the agent wakes them (SIGCONT) before it
	// is passed on. Bytes follow some milliseconds behind (50 at most), which the
	// agent has for what it has missed. What the agent itself had stopped before
	// stays so. An agent that has been sent SIGTERM is not put to rest.
	//
	// Where the system does not show processes (all but Linux), only the agent
	// itself is stopped.
	ControlRest = "\x00rest\n"

	// ControlWake wakes what ControlRest has stopped, ahead of bytes that are to
	// come, which then need not wait for it. An agent that is not at rest takes no
	// notice.
	ControlWake = "\x00wake\n"
)
