package helper

// At is the helper's program in a file of the test's own.
func At(path string) *Program { return &Program{path: path, linux: path} }
