# The project's commands. `make` alone lists them. Each recipe is one script or tool; what it does stands there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# A make below another one, as in tests, must not end its output with a line of its own. (`make -C` does all the same:
# from another folder use `make -sC DIR cluster-up`.)
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: cluster-up
cluster-up: ## a real local control plane; use: eval "$(make cluster-up | tail -1)"
	@hack/cluster/up.sh

.PHONY: cluster-down
cluster-down: ## end this checkout's cluster and remove .cluster/
	@hack/cluster/down.sh

.PHONY: node-up
node-up: ## a real node (containerd, kubelet) on it, as root on Linux; ended by node-down, or with the cluster
	@hack/node/up.sh

.PHONY: node-down
node-down: ## end the node and its pods; the control plane stays
	@hack/node/down.sh

.PHONY: demo
demo: ## the main job, start to finish, on an embedded default; KEEP=1 leaves it running
	@hack/demo/run.sh

.PHONY: build
build: ## target/release/graphtoken and target/release/kubectl-graphtoken
	@hack/build.sh

.PHONY: reproducible
reproducible: ## two release builds of this commit, in different folders, are the same byte by byte
	@tests/hack/reproducible_test.sh

.PHONY: generate
generate: ## everything that is generated: crds/, docs/reference-api.md, the chart's CRDs, deploy/
	@cargo run --locked --quiet -- crd >crds/graphtokens.yaml.new
	@mv crds/graphtokens.yaml.new crds/graphtokens.yaml
	@GRAPHTOKEN_GENERATE=1 cargo test --locked --quiet --test reference up_to_date
	@hack/chart/generate.sh

.PHONY: check
check: ## format, lints and unit tests, in under a minute
	@cargo fmt --all --check
	@cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	@cargo test --locked --quiet --lib --bins --test crd --test reference --test corpus --test troubleshooting --test threat_model

.PHONY: test
test: ## everything the project tests; installs what it needs
	@hack/test/all.sh

.PHONY: bench
bench: ## the benchmark; one JSON object a figure; SHORT=1 to see that it works
	@hack/bench/run.sh
