# Needs make and Python 3.11 or newer with pip, nothing else; everything is installed into .venv.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo dev test unit fmt chaos interop bench check check-deploy check-asyncapi check-openapi check-prometheus check-supply schemas lock clean

# Set on the command line only: ARGS is passed to the command, PYTHON replaces the first Python that is found.
ARGS =
PYTHON =
BIN := .venv/bin
READY := .venv/.ready

# Keep the caller's environment out of .venv.
unexport $(filter PYTHON% PYTEST% MYPY% RUFF% COVERAGE%,$(.VARIABLES))
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIRE_HASHES VIRTUAL_ENV

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r name words; do printf '  make %-8s %s\n' "$$name" "$$words"; done

demo: $(READY) ## Run the demo: does it pay to ask? On an embedded broker; ARGS="--seed 3"
	@$(BIN)/learner-worker demo --broker embedded $(ARGS)

dev: $(READY) ## Run a broker, a worker, insights and a sample swarm to look at, until Ctrl-C; ARGS="--http-port 8090"
	@$(BIN)/learner-worker dev $(ARGS)

# In as many processes as there are cores, at most four: each one starts brokers of its own.
test: $(READY) ## Run all tests, on every broker that is available; ARGS="tests/unit -x"
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

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

check: $(READY) check-deploy check-asyncapi check-openapi check-prometheus check-supply ## Check lint, format, types, imports, deploy/, schemas (current, valid, compatible), locks and dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/learner-worker schemas check --page docs/interface.md
	$(BIN)/python -m pytest -q --no-header --no-summary tests/unit/test_lock.py

# Offline: hadolint, the compose specification, Kubernetes' own schemas, and ours for the custom resources.
K8S := deploy/kubernetes
BASE := $(filter-out %/kustomization.yaml,$(wildcard $(K8S)/base/*.yaml $(K8S)/topics/*.yaml $(K8S)/forwarder/*.yaml))
check-deploy: $(READY)
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/kubernetes-validate --strict $(BASE)
	$(BIN)/check-jsonschema --schemafile deploy/schemas/scaledobject.json $(K8S)/autoscaling/scaledobject.yaml
	$(BIN)/check-jsonschema --schemafile deploy/schemas/podmonitor.json $(K8S)/monitoring/podmonitor.yaml
	$(BIN)/check-jsonschema --schemafile deploy/schemas/prometheusrule.json $(K8S)/monitoring/prometheusrule.yaml
	$(BIN)/python -m pytest -q --no-header --no-summary tests/unit/test_deploy.py
	@deploy/check-kubernetes

# By promtool, which is fetched where it can be had; the tests use it, too. A line says if it is not here.
check-prometheus: $(READY)
	@.ci/get-prometheus
	$(BIN)/python -m pytest -q --no-header -rs tests/unit/test_instruments.py tests/unit/test_monitoring.py

# AsyncAPI's own JSON Schema, and its official parser where Node and npm are installed. It says which ones ran.
check-asyncapi: $(READY)
	$(BIN)/python tests/programs/asyncapi/validate.py schemas/asyncapi.json .venv/asyncapi

# The document of insights, by OpenAPI's own JSON Schema and the rules beyond it.
check-openapi: $(READY)
	$(BIN)/python -m tests.support.openapi | $(BIN)/openapi-spec-validator -

# Writes build/sbom.json, and asks for known vulnerabilities. A line says what cannot be had here.
check-supply: $(READY)
	@.ci/audit

schemas: $(READY) ## Generate schemas/, docs/interface.md, docs/reference.md, dashboard and alert rules from the code
	@$(BIN)/learner-worker schemas export --page docs/interface.md
	@$(BIN)/python -m tests.support.reference
	@$(BIN)/python -m tests.support.monitoring

lock: ## Resolve pyproject.toml into requirements/ (needs the network); ARGS="--upgrade"
	@PYTHON="$(PYTHON)" .ci/lock $(ARGS)

clean: ## Delete .venv, caches and build output
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build dist
	@find tests/programs/interop tests/programs/bench docs/examples -type d '(' -name node_modules -o -name target -o -name .venv -o -name build ')' -prune -exec rm -rf {} +
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/dev.lock pyproject.toml
	@.ci/make-venv $(PYTHON)
	@touch $(READY)
