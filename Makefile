# The commands of this repository. `make up` needs Go, make and git and nothing else.
GO ?= go
BIN := bin

.PHONY: build up test test-go test-clients leftovers lint bench generate deps console

# The helper that stands beside containers is small and static; orchestrator carries it along. A plain
# `go build ./cmd/orchestrator` works as well: it serves as its own helper.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o internal/agent/launcher/helper.bin ./cmd/executor
	$(GO) build -trimpath -tags embed_helper -o $(BIN)/orchestrator ./cmd/orchestrator

up: build
	$(BIN)/orchestrator up

# Installs what the tests need from Debian's packages, then runs every test. CI=true makes a missing real part a failure.
# Not from go's cache: it does not see that a test starts a binary which has changed.
test: deps test-go test-clients

deps:
	./test/deps.sh

test-go: leftovers
	$(GO) vet ./...
	$(LEFTOVERS) -host $(GO) test -exec $(LEFTOVERS) -count=1 -race -timeout 40m ./...

# Runs a command, and fails with a list when it leaves something behind: here each test binary, and all of them.
LEFTOVERS := $(CURDIR)/$(BIN)/leftovers
leftovers:
	$(GO) build -o $(BIN)/leftovers ./test/leftovers

# Programs that nobody here wrote, in Go modules of their own.
test-clients: build leftovers
	@for d in test/*/go.mod; do [ -e "$$d" ] || continue; \
		echo "== $$(dirname $$d)"; \
		(cd "$$(dirname $$d)" && ORCHESTRATOR_BIN=$(CURDIR)/$(BIN)/orchestrator $(LEFTOVERS) -host $(GO) test -exec $(LEFTOVERS) -count=1 -timeout 30m ./...) || exit 1; done

# The console's files, which are committed where Go embeds them. Needs Node 20 or later; a test compares.
console:
	cd web && npm ci && npm run build

lint:
	$(GO) tool -modfile=tools/go.mod gofumpt -l -d $$(git ls-files '*.go' | grep -v '\.pb\.go$$') | tee /dev/stderr | (! grep -q .)
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...
	$(GO) test -count=1 ./internal/archtest ./api/...

bench:
	./test/bench.sh

generate:
	./api/generate.sh
