package agent_test

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"claude-runner/agent"
)

func TestEgressRuleValidate(t *testing.T) {
	for _, tt := range []struct {
		rule agent.EgressRule
		want string // in the error; empty: none
	}{
		{agent.EgressRule{Host: "api.example.com"}, ""},
		{agent.EgressRule{Host: "*.example.com", Ports: []int{443}, Methods: []string{"GET", "CONNECT"}}, ""},
		{agent.EgressRule{Host: "10.0.0.0/8"}, ""},
		{agent.EgressRule{Host: "::1"}, ""},
		{agent.EgressRule{Host: "host.docker.internal", Ports: []int{3457}}, ""},
		{agent.EgressRule{Host: "a.b", Headers: map[string]agent.Secret{"Authorization": "Bearer x"}, TLS: true}, ""},
		{agent.EgressRule{}, "host: is missing"},
		{agent.EgressRule{Host: "host.docker.internal"}, "ports: are missing"},
		{agent.EgressRule{Host: "*"}, "host: is no host"},
		{agent.EgressRule{Host: "*.*.example.com"}, "host: is no host"},
		{agent.EgressRule{Host: "https://example.com"}, "host: is no host"},
		{agent.EgressRule{Host: "example.com:80"}, "host: is no host"},
		{agent.EgressRule{Host: "Example.com"}, "lower case"},
		{agent.EgressRule{Host: "localhost"}, "host.docker.internal"},
		{agent.EgressRule{Host: "127.1"}, "host: is no host"},
		{agent.EgressRule{Host: "2130706433"}, "host: is no host"},
		{agent.EgressRule{Host: "::ffff:10.0.0.1"}, "10.0.0.1"},
		{agent.EgressRule{Host: "10.0.0.1/8"}, "10.0.0.0/8"},
		{agent.EgressRule{Host: "a.b", Ports: []int{0}}, "0 is no port"},
		{agent.EgressRule{Host: "a.b", Methods: []string{"get"}}, "is no method"},
		{agent.EgressRule{Host: "a.b", Headers: map[string]agent.Secret{"Host": "c"}}, "leave it out"},
		{agent.EgressRule{Host: "a.b", Headers: map[string]agent.Secret{"X Y": "c"}}, "no header's name"},
		{agent.EgressRule{Host: "a.b", Headers: map[string]agent.Secret{"X": "secret\r\nY: d"}}, "line's end"},
	} {
		err := tt.rule.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.rule, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret\r") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestEgressRuleString(t *testing.T) {
	rule := agent.EgressRule{
		Host: "*.example.com", Ports: []int{80, 8080}, Methods: []string{"GET"}, TLS: true, Private: true,
		Headers: map[string]agent.Secret{"Authorization": "Bearer hidden"},
	}
	const want = `{host: "*.example.com", ports: [80, 8080], methods: [GET], headers: {"Authorization": "[secret]"}, tls: true, private: true}`
	if got := rule.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back struct {
		Host    string
		Ports   []int
		Headers map[string]string
	}
	if err := yaml.Unmarshal([]byte(want), &back); err != nil || back.Host != rule.Host || len(back.Ports) != 2 {
		t.Errorf("%+v %v", back, err)
	}
}

func TestPrices(t *testing.T) {
	for id, want := range map[string]float64{"claude-haiku-4-5": 1, "claude-haiku-4-5-20251001": 1, "claude-sonnet-4-6": 3, "claude-opus-4-8": 5} {
		if p, known := agent.PriceOf(agent.DefaultPrices, id); !known || p.Input != want {
			t.Errorf("%s: %+v %t", id, p, known)
		}
	}
	if p, known := agent.PriceOf(agent.DefaultPrices, "gpt"); known || p.Input != 15 || p.Output != 75 {
		t.Errorf("an unknown model: %+v %t", p, known)
	}
	for id, p := range agent.DefaultPrices {
		if !(p.CacheRead > 0 && p.CacheRead < p.Input && p.Input < p.CacheWrite && p.CacheWrite < p.Output) {
			t.Errorf("%s: %+v", id, p)
		}
	}
	u := agent.Usage{InputTokens: 1e6, OutputTokens: 1e6, CacheReadInputTokens: 1e6, CacheCreationInputTokens: 1e6}
	price := agent.Price{Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75}
	if got := price.Cost(u, 0); got != 3+15+0.3+3.75 {
		t.Errorf("$%f", got)
	}
	if got := price.Cost(u, 1e6); got != 3+15+0.3+6 {
		t.Errorf("$%f with the cache for an hour", got)
	}
}
