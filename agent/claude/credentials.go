package claude

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"claude-runner/agent"
)

// Errors of HostCredentials; match them with errors.Is.
var (
	ErrNotLoggedIn  = errors.New("no login of the Claude Code CLI on this host")
	ErrLoginExpired = errors.New("the login of the Claude Code CLI on this host has expired")
)

// HostCredentials returns the OAuth token of the CLI's own login of the user
// whom the runner is: from .credentials.json in $CLAUDE_CONFIG_DIR, or in
// ~/.claude. It reads what is there and renews nothing. Where there is none, or
// an old one, its error says what to do. (On macOS the CLI keeps its login in
// the keychain, where it is not looked for.)
func HostCredentials() (agent.Secret, error) {
	file, err := credentialsFile()
	if err != nil {
		return "", err
	}
	const advice = "run `claude` and log in, or set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w (%s is not there): %s", ErrNotLoggedIn, file, advice)
	}
	if err != nil {
		return "", fmt.Errorf("read the CLI's login: %w", err)
	}
	var login struct {
		OAuth struct {
			AccessToken string `json:"accessToken"`
			ExpiresAt   int64  `json:"expiresAt"` // milliseconds since 1970; 0: never
		} `json:"claudeAiOauth"`
	}
	if json.Unmarshal(text, &login) != nil || login.OAuth.AccessToken == "" {
		// The parser's words could quote the file.
		return "", fmt.Errorf("%w (%s holds no access token): %s", ErrNotLoggedIn, file, advice)
	}
	if at := time.UnixMilli(login.OAuth.ExpiresAt); login.OAuth.ExpiresAt != 0 && time.Now().After(at) {
		return "", fmt.Errorf("%w on %s (%s): %s", ErrLoginExpired, at.Format(time.DateTime), file, "run `claude` once to renew it, or set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN")
	}
	return agent.Secret(login.OAuth.AccessToken), nil
}

func credentialsFile() (string, error) {
	dir := os.Getenv("CLAUDE_CONFIG_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotLoggedIn, err)
		}
		dir = filepath.Join(home, ".claude")
	}
	return filepath.Join(dir, ".credentials.json"), nil
}
