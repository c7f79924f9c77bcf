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
