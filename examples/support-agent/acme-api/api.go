package main

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"
)

// The most that a ticket may say, in characters.
const (
	maxSubject = 200
	maxText    = 10_000
)

// newAPI returns the API. Every route but /healthz wants the token.
func newAPI(token string, s *store) http.Handler {
	v1 := http.NewServeMux()
	v1.HandleFunc("GET /v1/users", func(w http.ResponseWriter, r *http.Request) {
		email := r.URL.Query().Get("email")
		if email == "" {
			refuse(w, http.StatusBadRequest, "the parameter email is missing")
			return
		}
		answer(w, http.StatusOK, s.userByEmail, email)
	})
	v1.HandleFunc("GET /v1/users/{id}/usage", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, s.usage, r.PathValue("id"))
	})
	v1.HandleFunc("GET /v1/users/{id}/tickets", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, s.tickets, r.PathValue("id"))
	})
	v1.HandleFunc("POST /v1/users/{id}/tickets", func(w http.ResponseWriter, r *http.Request) { openTicket(w, r, s) })
	v1.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "no such route") })

	root := http.NewServeMux()
	root.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]bool{"ok": true}) })
	root.Handle("/", authenticated(token, v1))
	return root
}

// authenticated lets requests through that carry the token.
func authenticated(token string, next http.Handler) http.Handler {
	want := []byte("Bearer " + token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "the bearer token is missing or wrong")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func openTicket(w http.ResponseWriter, r *http.Request, s *store) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "the body is no form, or longer than 64 KiB")
		return
	}
	subject, text := strings.TrimSpace(r.PostForm.Get("subject")), strings.TrimSpace(r.PostForm.Get("text"))
	if problem := ticketProblem(subject, text); problem != "" {
		refuse(w, http.StatusBadRequest, problem)
		return
	}
	answer(w, http.StatusCreated, func(id string) (ticket, error) { return s.open(id, subject, text) }, r.PathValue("id"))
}

func ticketProblem(subject, text string) string {
	switch {
	case subject == "" || text == "":
		return "a ticket needs a subject and a text"
	case utf8.RuneCountInString(subject) > maxSubject:
		return "the subject is too long: at most 200 characters"
	case utf8.RuneCountInString(text) > maxText:
		return "the text is too long: at most 10000 characters"
	}
	return ""
}

// answer writes what look finds under key, or that there is nothing.
func answer[T any](w http.ResponseWriter, status int, look func(key string) (T, error), key string) {
	found, err := look(key)
	switch {
	case errors.Is(err, errNotFound):
		refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		refuse(w, http.StatusInternalServerError, "internal error")
	default:
		write(w, status, found)
	}
}

func refuse(w http.ResponseWriter, status int, why string) {
	write(w, status, map[string]string{"error": why})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone wants no answer
}
