package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

var errNotFound = errors.New("no such user")

type user struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	FirstName string `json:"firstName"`
	Email     string `json:"email"`
	Plan      string `json:"plan"`
	Since     string `json:"since"`

	calls int // made this month
}

type plan struct {
	name  string
	calls int // included per month
}

type usage struct {
	User           user   `json:"user"`
	PlanName       string `json:"planName"`
	CallsIncluded  int    `json:"callsIncluded"`
	CallsUsed      int    `json:"callsUsed"`
	CallsRemaining int    `json:"callsRemaining"`
	RenewsOn       string `json:"renewsOn"`
}

type ticket struct {
	ID      string    `json:"id"`
	UserID  string    `json:"userId"`
	Subject string    `json:"subject"`
	Text    string    `json:"text"`
	Status  string    `json:"status"`
	Created time.Time `json:"created"`
}

var plans = map[string]plan{
	"free":       {"Free", 50},
	"growth":     {"Growth", 1_000},
	"enterprise": {"Enterprise", 100_000},
}

var users = []user{
	{ID: "usr_1001", Name: "Alice Chen", FirstName: "Alice", Email: "alice@startup.io", Plan: "growth", Since: "2024-03-18", calls: 812},
	{ID: "usr_1002", Name: "Bob Martinez", FirstName: "Bob", Email: "bob@bigcorp.example", Plan: "enterprise", Since: "2022-11-02", calls: 40_310},
	{ID: "usr_1003", Name: "Zoë O'Neill", FirstName: "Zoë", Email: "zoe.o'neill+acme@studio.example", Plan: "free", Since: "2025-01-09", calls: 50},
}

// store is the company's database.
type store struct {
	now func() time.Time

	mu     sync.Mutex
	opened []ticket
}

func newStore(now func() time.Time) *store {
	return &store{now: now, opened: []ticket{{
		ID: "tkt_1", UserID: "usr_1001", Subject: "Invoice for March", Text: "Please send the invoice for March again.",
		Status: "closed", Created: time.Date(2025, time.April, 2, 9, 30, 0, 0, time.UTC),
	}}}
}

func (s *store) userByEmail(email string) (user, error) {
	for _, u := range users {
		if strings.EqualFold(u.Email, email) {
			return u, nil
		}
	}
	return user{}, errNotFound
}

func (s *store) usage(id string) (usage, error) {
	u, err := s.user(id)
	if err != nil {
		return usage{}, err
	}
	p := plans[u.Plan]
	now := s.now().UTC()
	return usage{
		User: u, PlanName: p.name,
		CallsIncluded: p.calls, CallsUsed: u.calls, CallsRemaining: p.calls - u.calls,
		RenewsOn: time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).Format(time.DateOnly),
	}, nil
}

func (s *store) tickets(id string) ([]ticket, error) {
	if _, err := s.user(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []ticket{}
	for _, t := range s.opened {
		if t.UserID == id {
			found = append(found, t)
		}
	}
	return found, nil
}

func (s *store) open(id, subject, text string) (ticket, error) {
	if _, err := s.user(id); err != nil {
		return ticket{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := ticket{
		ID: fmt.Sprintf("tkt_%d", len(s.opened)+1), UserID: id, Subject: subject, Text: text,
		Status: "open", Created: s.now().UTC(),
	}
	s.opened = append(s.opened, t)
	return t, nil
}

func (s *store) user(id string) (user, error) {
	for _, u := range users {
		if u.ID == id {
			return u, nil
		}
	}
	return user{}, errNotFound
}
