package session

import (
	"sort"
	"strings"

	"claude-runner/agent"
)

// masker replaces the secrets that a task was given, where an error or a log
// would quote them.
type masker struct{ replacer *strings.Replacer }

// shortestSecret is the length from which a value is taken for a secret:
// shorter ones would blot out half of every message.
const shortestSecret = 6

func newMasker(apis []agent.ModelAPI, secrets map[string]agent.Secret, env map[string]string) masker {
	var values []string
	for _, api := range apis {
		values = append(values, api.APIKey.Reveal(), api.AuthToken.Reveal(), api.OAuthToken.Reveal())
	}
	for _, s := range secrets {
		values = append(values, s.Reveal())
	}
	for _, v := range env {
		values = append(values, v)
	}
	// A secret that another one begins with must not cut that one in half.
	sort.Slice(values, func(i, j int) bool { return len(values[i]) > len(values[j]) })
	var pairs []string
	for _, v := range values {
		if len(v) >= shortestSecret {
			pairs = append(pairs, v, "[secret]")
		}
	}
	return masker{strings.NewReplacer(pairs...)}
}

func (m masker) apply(s string) string {
	if m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}
