// Program is the helper alone, without the rest of claude-runner.
package main

import _ "claude-runner/backends/helper"

func main() {}
