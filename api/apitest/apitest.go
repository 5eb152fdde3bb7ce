// Package apitest holds what tests see of the API against its description, so
// that the two do not drift apart.
package apitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"claude-runner/api"
)

// Description returns the API's description, which must be valid.
func Description(t testing.TB) *openapi3.T {
	t.Helper()
	d, err := load()
	if err != nil {
		t.Fatalf("the API's description: %v", err)
	}
	return d.doc
}

// Check fails the test where an answer is not what the description says: its
// route, status, headers, or a field of its body. A request that the server
// did not refuse must be as described as well. The body of req is read from
// GetBody; that of a stream, which has no end, is given as nil.
func Check(t testing.TB, req *http.Request, status int, header http.Header, body []byte) {
	t.Helper()
	d, err := load()
	if err == nil {
		err = d.check(req, status, header, body)
	}
	if err != nil {
		t.Errorf("%s %s: the answer %d %.2000s is not as api/openapi.yaml says: %v", req.Method, req.URL.Path, status, body, err)
	}
}

// CheckSchema fails the test where JSON that the server sent elsewhere than in
// an answer is not as a schema of the description says: each message of a
// stream is a StreamEvent, each of a webhook a WebhookMessage.
func CheckSchema(t testing.TB, schema string, data []byte) {
	t.Helper()
	d, err := load()
	if err == nil {
		err = d.matches(schema, data)
	}
	if err != nil {
		t.Errorf("%.2000s is no %s as api/openapi.yaml has it: %v", data, schema, err)
	}
}

// description is the description, and what finds its routes.
type description struct {
	doc    *openapi3.T
	router routers.Router
}

var load = sync.OnceValues(func() (*description, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(api.Description())
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := doc.Validate(loader.Context); err != nil {
		return nil, fmt.Errorf("validate: %w", err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("lay out routes: %w", err)
	}
	return &description{doc, router}, nil
})

func (d *description) check(req *http.Request, status int, header http.Header, body []byte) error {
	if req.Method == http.MethodOptions && status == http.StatusNoContent {
		return nil // a browser's question, which CORS describes
	}
	refused := status >= 400 && status < 500
	asked, err := asDescribed(req)
	if err != nil {
		return err
	}
	route, params, err := d.router.FindRoute(asked)
	if err != nil {
		if !refused {
			return err
		}
		if req.Method == http.MethodHead {
			return nil
		}
		return d.matches("Error", body)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: asked, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	for name, value := range params { // as they stand in the path
		if params[name], err = url.PathUnescape(value); err != nil && !refused {
			return fmt.Errorf("decode %s: %w", name, err)
		}
	}
	if !refused {
		if err := checkRequest(input); err != nil {
			return fmt.Errorf("the request, which was taken: %w", err)
		}
	}
	return checkResponse(input, req.Method == http.MethodHead, status, header, body)
}

// asDescribed returns the request in the form that the description has: HEAD is
// a GET, a slash at the path's end is none, and bodies are JSON whatever their
// header says.
func asDescribed(req *http.Request) (*http.Request, error) {
	asked := req.Clone(req.Context())
	if asked.Method == http.MethodHead {
		asked.Method = http.MethodGet
	}
	asked.URL.Path, asked.URL.RawPath = strings.TrimSuffix(asked.URL.Path, "/"), strings.TrimSuffix(asked.URL.RawPath, "/")
	asked.Body = nil
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("read the request's body again: %w", err)
		}
		asked.Body = body
	}
	asked.Header.Set("Content-Type", "application/json")
	return asked, nil
}

func checkRequest(input *openapi3filter.RequestValidationInput) error {
	known := map[string]bool{}
	for _, list := range []openapi3.Parameters{input.Route.PathItem.Parameters, input.Route.Operation.Parameters} {
		for _, p := range list {
			known[p.Value.Name] = known[p.Value.Name] || p.Value.In == openapi3.ParameterInQuery
		}
	}
	for name := range input.Request.URL.Query() {
		if !known[name] {
			return fmt.Errorf("there is no query parameter %q", name)
		}
	}
	return openapi3filter.ValidateRequest(input.Request.Context(), input)
}

func checkResponse(input *openapi3filter.RequestValidationInput, head bool, status int, header http.Header, body []byte) error {
	response := input.Route.Operation.Responses.Status(status)
	if response == nil {
		return fmt.Errorf("the status is not described")
	}
	if head || status == http.StatusSwitchingProtocols {
		if len(body) > 0 {
			return errors.New("there is a body")
		}
		return nil
	}
	form := header.Get("Content-Type")
	if response.Value.Content.Get(form) == nil {
		return fmt.Errorf("the content type %q is not described", form)
	}
	kind, _, err := mime.ParseMediaType(form)
	if err != nil {
		return fmt.Errorf("content type: %w", err)
	}
	options := *input.Options
	options.ExcludeResponseBody = kind != "application/json" // text has no fields
	return openapi3filter.ValidateResponse(input.Request.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: status, Header: header, Options: &options,
		Body: io.NopCloser(bytes.NewReader(body)),
	})
}

// matches holds JSON against a schema of the description.
func (d *description) matches(schema string, data []byte) error {
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	found := d.doc.Components.Schemas[schema]
	if found == nil {
		return errors.New("there is no such schema")
	}
	return found.Value.VisitJSON(value, openapi3.VisitAsResponse())
}
