package api

import (
	_ "embed" // for the description
	"slices"
	"sync"

	"github.com/gofiber/fiber/v2"
)

//go:embed openapi.yaml
var description []byte

// Description returns the OpenAPI description of what a Server answers.
func Description() []byte { return slices.Clone(description) }

// docsPage is the description as a page, rendered when it is first asked for.
var docsPage = sync.OnceValues(func() ([]byte, error) { return renderDocs(description) })

// openapi answers GET /openapi.yaml.
func (s *Server) openapi(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentType, "application/yaml")
	return c.Send(description)
}

// docs answers GET /docs. The page needs nothing but itself, and may load
// nothing else.
func (s *Server) docs(c *fiber.Ctx) error {
	page, err := docsPage()
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	return c.Send(page)
}
