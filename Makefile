# Needs make and Python 3.11 or newer with pip, nothing else; everything is installed into .venv.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test unit fmt chaos interop bench check check-deploy check-asyncapi schemas lock clean

# Set on the command line only: ARGS is passed to the command, PYTHON replaces the first Python that is found.
ARGS =
PYTHON =
BIN := .venv/bin
READY := .venv/.ready
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input

# Keep the caller's environment out of .venv.
unexport $(filter PYTHON% PYTEST% MYPY% RUFF% COVERAGE%,$(.VARIABLES))
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIRE_HASHES VIRTUAL_ENV

# For recipes: sets $$python to the first Python that is new enough.
FIND_PYTHON = \
	python=; \
	for name in $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3; do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r name words; do printf '  make %-8s %s\n' "$$name" "$$words"; done

demo: $(READY) ## Run the demo: a swarm bids and the learner learns, on an embedded broker; ARGS="--seed 3"
	@$(BIN)/learner-worker demo --broker embedded $(ARGS)

test: $(READY) ## Run all tests, on every broker that is available; ARGS="tests/unit -x"
	@$(BIN)/python -m pytest $(ARGS)

unit: $(READY) ## Run the tests that need no broker; ARGS="-k settle"
	@$(BIN)/python -m pytest tests/unit $(ARGS)

fmt: $(READY) ## Format the code and fix what the linter can fix
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Reads KILLS, SIMULATION_SEEDS and FUZZ_EXAMPLES from the environment, where make puts what its command line sets.
chaos: $(READY) ## Inject faults into a running system for an hour or two and count what is lost; KILLS=500, ARGS="--only worker-kill"
	@$(BIN)/python -m tests.programs.chaos $(ARGS)

interop: $(READY) ## Test with other frameworks' clients on Apache Kafka (needs Java 17, Maven, Node 20); ARGS="nestjs"
	@$(BIN)/python -m tests.programs.interop $(ARGS)

bench: $(READY) ## Measure throughput and latency beside raw clients and peers, for hours; ARGS="--only restore --scale 0.1"
	@$(BIN)/python -m tests.programs.bench $(ARGS)

check: $(READY) check-deploy check-asyncapi ## Check lint, format, types, imports, deploy/, schemas (current, valid, compatible) and locks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/learner-worker schemas check --page docs/interface.md
	$(BIN)/python -m pytest -q --no-header --no-summary tests/unit/test_lock.py

# Offline: hadolint, the compose specification, Kubernetes' own schemas, and ours for the custom resources.
K8S := deploy/kubernetes
BASE := $(filter-out %/kustomization.yaml,$(wildcard $(K8S)/base/*.yaml))
SCALED := $(K8S)/autoscaling/scaledobject.yaml
MONITORED := $(K8S)/monitoring/podmonitor.yaml
check-deploy: $(READY)
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/kubernetes-validate --strict $(BASE)
	$(BIN)/check-jsonschema --schemafile deploy/schemas/scaledobject.json $(SCALED)
	$(BIN)/check-jsonschema --schemafile deploy/schemas/podmonitor.json $(MONITORED)
	$(BIN)/python -m pytest -q --no-header --no-summary tests/unit/test_deploy.py
	@$(KUBE_TOOLS)

# Where Go is installed, two more: kube-score's advice, and kubeconform on everything. A line says if they did not run.
# Left out of the advice: a CPU limit (it would stall answers to save idle cores), Always as pull policy (the tag is a
# version), and anti-affinity (spread constraints do the same, and let a small cluster start).
GO_BIN := $(CURDIR)/.venv/go
GO_INSTALL := GOFLAGS=-modcacherw GOBIN=$(GO_BIN) go install
define KUBE_TOOLS
if ! command -v go >/dev/null; then echo "not here: Go: kube-score and kubeconform did not run; install Go"; exit 0; fi; \
$(GO_INSTALL) github.com/zegl/kube-score/cmd/kube-score@v1.20.0 && \
$(GO_INSTALL) github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 \
	|| { echo "not here: kube-score and kubeconform, which go install did not get: they did not run"; exit 0; }; \
set -ex; \
$(GO_BIN)/kube-score score --ignore-container-cpu-limit \
	--ignore-test container-image-pull-policy,statefulset-has-host-podantiaffinity $(BASE); \
$(GO_BIN)/kubeconform -strict -summary -schema-location 'deploy/schemas/{{.ResourceKind}}.json' $(SCALED) $(MONITORED)
endef

# AsyncAPI's own JSON Schema, and its official parser where Node and npm are installed. It says which ones ran.
check-asyncapi: $(READY)
	$(BIN)/python tests/programs/asyncapi/validate.py schemas/asyncapi.json .venv/asyncapi

schemas: $(READY) ## Generate schemas/, docs/interface.md and docs/reference.md from the code
	@$(BIN)/learner-worker schemas export --page docs/interface.md
	@$(BIN)/python -m tests.support.reference

# Three locks: to develop, to run, and to build a wheel. The last two are constrained by the first, which the tests use.
# One more each for the Python clients of `make interop` and the peers of `make bench`.
COMPILE = "$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate
lock: ## Resolve pyproject.toml into requirements/ (needs the network); ARGS="--upgrade"
	@$(FIND_PYTHON); set -e; \
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; trap 'exit 1' HUP INT TERM; \
	"$$python" -m venv "$$tools"; \
	"$$tools/bin/python" $(PIP_INSTALL) uv; \
	$(COMPILE) --extra embedded --group dev pyproject.toml -o requirements/dev.lock $(ARGS); \
	$(COMPILE) --constraint requirements/dev.lock pyproject.toml -o requirements/run.lock $(ARGS); \
	$(COMPILE) tests/programs/interop/python/requirements.in -o tests/programs/interop/python/requirements.lock $(ARGS); \
	$(COMPILE) tests/programs/bench/peers/requirements.in -o tests/programs/bench/peers/requirements.lock $(ARGS); \
	"$$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --constraint requirements/dev.lock - -o requirements/build.lock $(ARGS)

clean: ## Delete .venv, caches and build output
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build dist
	@find tests/programs/interop tests/programs/bench docs/examples -type d '(' -name node_modules -o -name target -o -name .venv -o -name build ')' -prune -exec rm -rf {} +
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/dev.lock pyproject.toml
	@if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		$(FIND_PYTHON); \
		echo "Making .venv with $$("$$python" --version) and installing requirements/dev.lock (a minute, once)"; \
		"$$python" -m venv --clear .venv >/dev/null 2>&1 \
		|| { "$$python" -m venv --clear --without-pip .venv && "$$python" -m pip --python .venv install --quiet pip; } \
		|| { echo "Python cannot make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	else echo "Updating .venv to requirements/dev.lock"; fi
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $(READY)
