# The front door: a bare `make` lists the targets.

TOOLS       := $(CURDIR)/.tools
CLI_VERSION := $(shell cat agent/claude/VERSION)
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

GOLANGCI_LINT_VERSION := v2.15.0

# The program that tests run as the agent: the real CLI, of the version that the image has.
CLAUDE_RUNNER_TEST_CLI ?= $(TOOLS)/bin/claude

# go test: which tests and benchmarks, how often, in which packages. The slowest are first, and tests that may run side by
# side mostly wait.
PKG      ?= ./cmd/... ./...
PARALLEL ?= 4
RUN      ?=
BENCH    ?= .
COUNT    ?= 1
TIMEOUT  ?= 60m

# make bench, make soak: flags of claude-runner bench; how long.
BENCH_FLAGS ?=
SOAK        ?= 1h

# make crashtest: how often it kills the runner, over how many sessions.
KILLS    ?= 100
SESSIONS ?= 8

.DEFAULT_GOAL := help
.PHONY: help demo build test lint cross bench soak gobench crashtest redteam engines image cli lint-tools clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build cli ## start the example on the best backend that is there, run two tasks, clean up
	./examples/support-agent/demo.sh

GO_BUILD = go build -trimpath -ldflags '-s -w -X main.stamp=$(VERSION)'

# Where the host is no Linux, containers are given this program's build for Linux, as their helper.
build: ## build bin/claude-runner
	CGO_ENABLED=0 $(GO_BUILD) -o bin/claude-runner ./cmd/claude-runner
	@[ "$$(go env GOOS)" = linux ] || { set -ex; CGO_ENABLED=0 GOOS=linux $(GO_BUILD) -o bin/claude-runner-linux-$$(go env GOARCH) ./cmd/claude-runner; }

test: cli ## run all tests; engines that are missing are skipped unless REQUIRE_BACKENDS=docker,podman,local names them
	CLAUDE_RUNNER_TEST_CLI=$(CLAUDE_RUNNER_TEST_CLI) go test -race -timeout $(TIMEOUT) -parallel $(PARALLEL) -count $(COUNT) $(if $(RUN),-run '$(RUN)') $(PKG)

# Without cgo, as the program is built: then lint and cross share what they compile.
lint: lint-tools ## check format, go vet and golangci-lint
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w is needed on:"; echo "$$unformatted"; exit 1; }
	CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=0 $(TOOLS)/bin/golangci-lint run ./...

cross: ## build for Linux and macOS on amd64 and arm64, without cgo
	@set -e; for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
	  echo "go build $$target"; CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build ./...; done

bench: build cli ## measure turns, bursts, load and memory on this machine, into bench.json: BENCH_FLAGS='--backend docker'
	bin/claude-runner bench --cli $(CLAUDE_RUNNER_TEST_CLI) --json bench.json $(BENCH_FLAGS)

soak: build cli ## keep a server busy for SOAK=1h, and fail where something grows
	bin/claude-runner bench --soak $(SOAK) --cli $(CLAUDE_RUNNER_TEST_CLI) --json soak.json $(BENCH_FLAGS)

gobench: cli ## run the packages' own benchmarks: BENCH=pattern COUNT=times
	CLAUDE_RUNNER_TEST_CLI=$(CLAUDE_RUNNER_TEST_CLI) go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout $(TIMEOUT) $(PKG)

crashtest: cli ## kill the runner KILLS=100 times while SESSIONS=8 sessions work, on every backend
	CRASHTEST_KILLS=$(KILLS) CRASHTEST_SESSIONS=$(SESSIONS) CLAUDE_RUNNER_TEST_CLI=$(CLAUDE_RUNNER_TEST_CLI) \
	  go test -race -v -count 1 -run 'TestCrash$$' -timeout 90m ./cmd/claude-runner

redteam: cli ## try every attack of SECURITY.md in every network mode
	REDTEAM=all CLAUDE_RUNNER_TEST_CLI=$(CLAUDE_RUNNER_TEST_CLI) go test -race -v -count 1 -parallel $(PARALLEL) -run 'TestRedTeam|TestSecurityTable' \
	  -timeout $(TIMEOUT) ./cmd/claude-runner

engines: ## install (Debian, root) and start Docker and rootless Podman
	.ci/engines install start status

image: ## build the agent image and give it to every engine that answers
	.ci/engines image

cli: $(TOOLS)/.cli-$(CLI_VERSION) ## install the pinned Claude Code CLI into .tools/bin
lint-tools: $(TOOLS)/.golangci-lint-$(GOLANGCI_LINT_VERSION) ## install the pinned golangci-lint into .tools/bin

clean: ## remove what was built, installed into the checkout, or left by the demo
	rm -rf bin .tools data

# An empty file per installed version tells make whether the tool in .tools/bin is the pinned one.
# The npm package's own program is a launcher; the native one beside it (not musl's) runs without Node. It may
# be run by any user, since sandboxes do not run as the user who installed it.
$(TOOLS)/.cli-$(CLI_VERSION):
	@rm -rf $(TOOLS)/cli $(TOOLS)/.cli-*
	@mkdir -p $(TOOLS)/cli $(TOOLS)/bin
	npm install --prefix $(TOOLS)/cli --ignore-scripts --no-audit --no-fund --no-save @anthropic-ai/claude-code@$(CLI_VERSION)
	@find $(TOOLS)/cli/node_modules/@anthropic-ai/claude-code-* -type f -name claude ! -path '*musl*' -exec mv -f {} $(TOOLS)/bin/claude \;
	@chmod 0755 $(TOOLS) $(TOOLS)/bin $(TOOLS)/bin/claude && rm -rf $(TOOLS)/cli
	$(TOOLS)/bin/claude --version
	@touch $@

$(TOOLS)/.golangci-lint-$(GOLANGCI_LINT_VERSION):
	@rm -f $(TOOLS)/.golangci-lint-*
	GOBIN=$(TOOLS)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@touch $@
