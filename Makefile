# Everything a contributor types. `make` alone says what there is.
#
# Nothing here needs Node or Python (but for clients-check and what begins with web), Docker (but for up and down) or a
# database: the server and its tests find or fetch a PostgreSQL of their own.

GO       ?= go
MODULE   := github.com/mini-asynq/mini-asynq

# The version that the binary tells. A tree without tags or without git says so.
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT   ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X $(MODULE)/internal/cli.version=$(VERSION) -X $(MODULE)/internal/cli.commit=$(COMMIT)

# Packages compile and test two at a time: the race detector needs memory, and tests share one PostgreSQL.
TESTFLAGS ?= -p 2

# How often the stress tests run, and which of them: make race RACE_COUNT=20 RACE_RUN=TwoServers
RACE_COUNT ?= 3
RACE_RUN   ?= .
RACE_PKGS  := ./dispatcher/... ./events/... ./workers/... ./internal/app/...

# How long each fuzz target runs, and which of them: make fuzz FUZZ_TIME=1h FUZZ_RUN=FuzzOutcomesBody
FUZZ_TIME  ?= 5m
FUZZ_RUN   ?= ^Fuzz

# How long calls made out of api/openapi.yaml are sent, and from which seed: make wild WILD_TIME=1h WILD_SEED=7
WILD_TIME  ?= 5m
WILD_SEED  ?= 0

# What the side-by-side benchmarks are asked for, and which Go benchmarks: make bench BENCH_ARGS='-cell drain -runs 5'
BENCH_ARGS ?=
BENCH_RUN  ?= .

# One version for everybody, or a finding depends on whose machine looks.
GOLANGCI_VERSION := 2.15.0
GOBIN    ?= $(shell $(GO) env GOBIN)
ifeq ($(strip $(GOBIN)),)
GOBIN    := $(shell $(GO) env GOPATH)/bin
endif
GOLANGCI := $(GOBIN)/golangci-lint

# Both spellings of Compose are in use.
COMPOSE  ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# Modules of their own, so that what they need reaches nobody who embeds us. They lean on the code above them: a library that it
# takes up must be in their go.sum too.
NESTED   := bench deploy/composecheck sinks/nats

# The Go files of this repository, without those that npm brings along.
GOFILES   = find . -name node_modules -prune -o -name '*.go' -print

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what there is
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z0-9-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Run

.PHONY: run
run: ## Start the server and dashboard on http://localhost:8080
	@$(GO) build -o bin/mini-asynq ./cmd/server
	@exec bin/mini-asynq

.PHONY: psql
psql: ## Open psql on the database that the server uses
	@psql "$$($(GO) run cmd/server/main.go dsn)"

.PHONY: demo
demo: ## Send demo jobs to a running server
	$(GO) run cmd/demo/main.go

.PHONY: migrate
migrate: ## Bring the database to the current schema
	$(GO) run cmd/server/main.go migrate up

.PHONY: up
up: ## Start server and PostgreSQL in containers
	VERSION=$(VERSION) COMMIT=$(COMMIT) $(COMPOSE) up --build --detach --wait
	@echo 'Dashboard: http://localhost:8080 (admin / password)'

.PHONY: down
down: ## Stop the containers; their data stays
	$(COMPOSE) down

##@ Test

.PHONY: test
test: ## Run all tests with the race detector (needs gcc)
	$(GO) test -race -shuffle=on -count=1 -timeout 10m $(TESTFLAGS) ./...

.PHONY: race
race: ## Repeat the stress and fault tests: RACE_COUNT=3 RACE_RUN=.
	$(GO) test -race -shuffle=on -count=$(RACE_COUNT) -run '$(RACE_RUN)' -tags=integration,failpoints \
	  -timeout 20m -p 1 $(RACE_PKGS)

.PHONY: fuzz
fuzz: ## Fuzz every decoder, one after the other: FUZZ_TIME=5m FUZZ_RUN=.
	@set -e; for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '$(FUZZ_RUN)' $$package | grep '^Fuzz'); do \
	    echo "$$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) $$package; \
	  done; \
	done

.PHONY: wild
wild: ## Send calls of all kinds to a server, as api/openapi.yaml has them: WILD_TIME=5m WILD_SEED=0
	$(GO) test -race -count=1 -timeout 0 -run Wild -v ./api -args -wild=$(WILD_TIME) -seed=$(WILD_SEED)

.PHONY: lint
lint: lint-format lint-modules lint-vet lint-go ## Check format, modules, vet and golangci-lint

.PHONY: clients-check
clients-check: ## Test the clients in Python, TypeScript and the browser against a server (needs Python 3.9 and Node 20)
	cd clients/python && python3 -m unittest discover -s tests
	cd clients/typescript && npm ci --no-audit --no-fund --ignore-scripts && npm test
	cd web && npm ci --no-audit --no-fund --ignore-scripts && npm run test:stream
	$(GO) test -race -count=1 -timeout 6m ./clients/conformance -args -all

.PHONY: web-check
web-check: ## Check the dashboard: types, lint, tests, budgets, and that web/dist is what the sources give (needs Node 20.19)
	cd web && npm ci --no-audit --no-fund --ignore-scripts && npm run check && npm test
	cd web && npm run types:check && npm run compile && node tools/dist.mjs same dist .build && node tools/dist.mjs budget dist
	$(GO) test -count=1 ./web

.PHONY: web-e2e
web-e2e: ## Walk through the dashboard with a browser, against a server and its database (needs Node 20.19 and Chromium)
	CGO_ENABLED=0 $(GO) build -tags=timetzdata -o bin/mini-asynq ./cmd/server
	cd web && npm ci --no-audit --no-fund --ignore-scripts && npm run e2e

.PHONY: sinks-check
sinks-check: ## Test the relay to NATS JetStream against a cluster of three, with kills
	cd sinks/nats && $(GO) mod verify && $(GO) vet ./... && $(GO) test -race -count=1 -timeout 5m ./...

.PHONY: compose-check
compose-check: ## Check docker-compose.yml against the Compose specification
	cd deploy/composecheck && $(GO) mod verify && $(GO) vet ./... && $(GO) test -count=1 ./...

.PHONY: cross
cross: ## Compile for every platform that is served
	@set -e; for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
	  echo "build $$target"; \
	  CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./...; \
	done; \
	echo 'vet darwin/arm64, tests included'; \
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) vet ./...

##@ Measure

.PHONY: bench
bench: ## Measure us and our peers side by side: BENCH_ARGS='-cell drain' (-h says more)
	cd bench && $(GO) run . $(BENCH_ARGS)

.PHONY: bench-smoke
bench-smoke: ## Run every benchmark briefly, to see that it works and that the claim has its plan
	MINIASYNQ_BENCH_JOBS=2000 $(GO) test ./internal/app -run '^$$' -bench '$(BENCH_RUN)' -benchtime 1x -timeout 60m
	cd bench && $(GO) mod verify && $(GO) vet ./... && $(GO) test -count=1 ./... && $(GO) run . -smoke

##@ Build

.PHONY: build
build: ## Build the static binaries mini-asynq and demo-cli
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o mini-asynq ./cmd/server
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o demo-cli ./cmd/demo

.PHONY: web
web: ## Build the dashboard into web/dist, which is committed (needs Node 20.19)
	cd web && npm ci --no-audit --no-fund --ignore-scripts && npm run types && npm run build

.PHONY: fmt
fmt: ## Format the Go files
	$(GOFILES) | xargs gofmt -s -w

.PHONY: clean
clean: ## Remove what was built
	rm -f mini-asynq demo-cli

# The parts of lint.

.PHONY: lint-format
lint-format:
	@bad=$$($(GOFILES) | xargs gofmt -s -l) && if [ -n "$$bad" ]; then \
	  printf 'not formatted, run make fmt:\n%s\n' "$$bad" >&2; exit 1; fi

.PHONY: lint-modules
lint-modules:
	@set -e; for module in . $(NESTED); do \
	  echo "modules of $$module"; (cd $$module && $(GO) mod verify && $(GO) mod tidy -diff); \
	done

# The tags replace files, so each set is looked at.
.PHONY: lint-vet
lint-vet:
	$(GO) vet ./...
	$(GO) vet -tags=integration,failpoints ./...
	@set -e; for module in $(NESTED); do echo "vet $$module"; (cd $$module && $(GO) vet ./...); done

.PHONY: lint-go
lint-go: golangci
	$(GOLANGCI) config verify
	$(GOLANGCI) run ./...
	@set -e; for module in $(NESTED); do \
	  echo "golangci-lint in $$module"; (cd $$module && $(GOLANGCI) run ./...); \
	done

# Compiling it takes a minute or two, so a right version that is there already stays.
.PHONY: golangci
golangci:
	@if [ "$$($(GOLANGCI) version --short 2>/dev/null)" != '$(GOLANGCI_VERSION)' ]; then \
	  echo 'install golangci-lint $(GOLANGCI_VERSION)'; \
	  GOBIN='$(GOBIN)' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_VERSION); \
	fi
