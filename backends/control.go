package backends

// Commands to a sandbox's helper, as lines of its standard input. Not
// passed on to the agent.
const (
	ControlSweep = "\x00sweep\n"
	ControlRest  = "\x00rest\n"
)
