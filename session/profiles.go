package session

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"claude-runner/agent"
)

// Profiles are the agents that a Manager serves.
type Profiles struct {
	Default string // the agent of a session whose first task names none
	ByName  map[string]Profile
}

// Profile is an agent's profile with its template.
type Profile struct {
	agent.Profile
	Source *agent.Template
}

// LoadProfiles reads the template of each profile.
func LoadProfiles(defaultAgent string, profiles map[string]agent.Profile) (Profiles, error) {
	p := Profiles{Default: defaultAgent, ByName: map[string]Profile{}}
	for name, profile := range profiles {
		template, err := agent.LoadTemplate(profile.Template)
		if err != nil {
			return Profiles{}, fmt.Errorf("agent %s: %w", name, err)
		}
		profile.Name = name
		p.ByName[name] = Profile{Profile: profile, Source: template}
	}
	if _, ok := p.ByName[defaultAgent]; !ok {
		return Profiles{}, fmt.Errorf("default agent %q: there is no such agent, want one of %s", defaultAgent, p.names())
	}
	return p, nil
}

// Profiles returns the profiles as they are now, and the default's name.
func (m *Manager) Profiles() Profiles {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.profiles
}

func (p Profiles) names() string {
	return strings.Join(slices.Sorted(maps.Keys(p.ByName)), ", ")
}

// allowsBackend refuses a backend that the profile does not name.
func (p Profile) allowsBackend(name string) error {
	if name == "" || slices.Contains(p.Backend, name) {
		return nil
	}
	return &Error{Code: CodeNoBackendNamed, Field: "backend", Message: fmt.Sprintf(
		"agent %q does not run on backend %q; its backends are %s", p.Name, name, strings.Join(p.Backend, ", "))}
}

var envForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reservedEnv begins the names of variables that only the runner sets: with
// them a task could send the runner's credentials elsewhere.
var reservedEnv = []string{"ANTHROPIC_", "CLAUDE_"}

// maxMessage bounds a message and a context, in bytes.
const maxMessage = 10 << 20

// validate reports the first thing wrong with a submission.
func (s Submission) validate() error {
	invalid := func(field, format string, args ...any) error {
		return &Error{Code: CodeInvalid, Field: field, Message: field + ": " + fmt.Sprintf(format, args...)}
	}
	switch {
	case s.SessionID == "":
		return invalid("sessionId", "is required")
	case !ValidID(s.SessionID):
		return invalid("sessionId", "%.140q will not do; want 1 to 128 letters, digits and ._@:+- beginning with a letter or digit", s.SessionID)
	case strings.TrimSpace(s.Request.Message) == "":
		return invalid("message", "is required and must not be blank")
	case len(s.Request.Message) > maxMessage || len(s.Request.Context) > maxMessage:
		return invalid("message", "message and context may have %d MiB each", maxMessage>>20)
	}
	for name, value := range s.Request.Env {
		field := "env." + name
		switch {
		case !envForm.MatchString(name):
			return invalid("env", "%.80q is no name of a variable; want letters, digits and _, no digit first", name)
		case strings.ContainsRune(value, 0):
			return invalid(field, "holds a NUL byte")
		case name == "HOME" || slices.ContainsFunc(reservedEnv, func(p string) bool { return strings.HasPrefix(name, p) }):
			return invalid(field, "is set by the runner itself; credentials and the model's address are in its configuration (model_api)")
		}
	}
	return nil
}
