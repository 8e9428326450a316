# Two commands do everything: `make demo` shows it, `make test` tests it. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo demo-clusters clean-demo-clusters test test-fast soak lint fuzz bench crds images release cluster clean-clusters clean-demo

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 21

install: ## What the demo and the tests need, from Debian's packages
	@scripts/install

demo: ## Two clusters and a laptop behind real NATs become one mesh (root; KEEP=1 leaves it running)
	@scripts/install demo
	cargo build --release --locked -p campfire-turn -p campfire-sidecar -p campfire-lab
	@target/release/campfire-lab demo

clean-demo: ## Remove a demo that was left running
	@target/release/campfire-lab clean

demo-clusters: ## Two real Kubernetes clusters and a laptop become one mesh: helm install, join, a web service asked across (root; KEEP=1 leaves it running)
	@scripts/demo-clusters

clean-demo-clusters: ## Remove clusters and laptop that were left running
	@scripts/demo-clusters clean

test: ## The gate: lints, unit, simulated worlds, real namespaces (root), interop, stories on real clusters
	@scripts/test

test-fast: ## The same without what needs root or installs anything
	@scripts/test --fast

soak: ## What is too long for the gate (root; hours); writes its figures into docs/performance.md
	@scripts/soak

lint: ## Format, clippy, shell scripts, licences
	@scripts/lint

fuzz: ## Every parser for SECONDS (default 60) each
	@fuzz/run $${SECONDS_EACH:-60}

bench: ## Side by side with wireguard-go, boringtun-cli and coturn; the operator with 10,000 peers (root; long); BASE=<commit>: beside that build; writes target/bench/
	@scripts/bench

crds: ## CustomResourceDefinitions from the types of operator/api, into crds/ and the chart, and docs/api.md
	CAMPFIRE_WRITE_CRDS=1 cargo test --locked -p campfire-api --test crds

images: ## Container images of static programs into target/images (buildah or docker; nothing is pulled); ARCH=amd64|arm64|all, default this machine's
	@ARCH=$(ARCH) scripts/images

release: ## Archives of kubectl-campfire for Linux on amd64 and arm64, and the krew manifest, into target/release-files
	@scripts/release

cluster: ## A Kubernetes cluster to play with (kind; made here where there is no docker): kind-tests/cluster run play kubectl …
	@kind-tests/cluster up play --node-ports 30470-30477

clean-clusters: ## Remove all clusters of ours, and the docker made for them
	@kind-tests/cluster clean
