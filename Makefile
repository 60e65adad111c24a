# The commands of a developer. Every target sets up what it needs; only make and Python 3.11 or
# newer (with venv and pip) must be installed.
#
#   make demo [DEMO="--duration 2m"]   the service against the built-in sandbox, no credentials
#   make test [TEST="-k spool -x"]     the tests, as .ci/run runs them
#   make test AREA=deliver             those of one area: tests/deliver, tests/contract/deliver, ...
#   make test-unit                     those that start no process and no browser, in a minute; without
#                                      the contract suites (make test AREA=contract)
#   make test-all                      the same tests with all that multiplies a case (tests/README.md)
#   make fuzz [FUZZ=200000]            so many odd replies of every vendor and SIEM, and the service among
#                                      them for FUZZ_SECONDS=60 of each pair (make test: 4,200, 1 second)
#   make check                         format, lint, types
#   make format                        fix what can be fixed automatically
#   make generate                      config.example.toml, Splunk's props.conf, the pages of described vendors,
#                                      and the version where it is literal; after a change of these
#   make bench [BENCH="--quick"]       the cost of the whole relay, in a few minutes (docs/performance.md)
#   make bench-grove                   the same next to Grove, which it installs into .venv-grove
#   make bench-replicas [BENCH="--list"]  replicas on a PostgreSQL of its own; needs its programs
#   make docs                          the documentation as a site, in build/website/html
#   make docs-test                     the site in a browser, and the tutorials, command by command
#   make screenshots                   the pictures of the status page in docs/images, from the demo
#   make evidence-checker              dist/auditrelay-evidence.pyz, the auditor's program in one file
#   make interop [INTEROP=opensearch]  the sinks against real receivers (interop/README.md)
#   make image [IMAGE=auditrelay] [BASE=python:3.12-slim-bookworm]
#                                      the image, with docker, podman or buildah (docs/container.md)
#   make image-base                    a base for it from Debian packages, where no registry can be reached
#   make image-test                    the image as it is run, as root; builds it, and a base if it must
#   make kubernetes-test               kubernetes/ rendered and checked, with tools that Go builds
#   make appinspect                    the add-on and the dashboard for Splunk by Splunk's own inspection
#   make install                       the virtual environment alone, with the development tools
#   make dist                          wheel, sdist, bill of materials, licences, checksums of the last
#                                      commit into dist/ (docs/releases.md)
#   make deb                           that, and the package for the Debian that it is built on
#   make rpm                           the same for the systems of Red Hat that have this Python
#   make release-test                  the wheel in an environment of its own, and, as root, the .deb in
#                                      a clean Debian: installed, run, upgraded, removed
#   make release-notes TAG=v0.2.0      what CHANGELOG.md says of it, if all is as a release must be
#   make audit                         known vulnerabilities of what the locks have, by pip-audit
#   make changelog                     the fragments of changelog.d into CHANGELOG.md, at a release
#   make lock [LOCK=--upgrade]         requirements*.txt from pyproject.toml
#   make clean                         remove all that the targets above have created but images
#
# PYTHON names the interpreter, VENV the folder of the environment.

VENV ?= .venv
VENV_DOCS ?= .venv-docs
VENV_AUDIT ?= .venv-audit
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.8

# Compiled modules start faster, and the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

CAN_DO := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	if $$each -c '$(CAN_DO)' 2>/dev/null; then echo $$each; break; fi; done)

TEST ?=
AREA ?=
BENCH ?=
DEMO ?=
LOCK ?=
INTEROP ?=
IMAGE ?= auditrelay
BASE ?=
FUZZ ?= 200000
FUZZ_SECONDS ?= 60
CHECKER ?= dist/auditrelay-evidence.pyz

.PHONY: docs docs-test screenshots install demo test test-all test-unit fuzz check check-format check-lint check-types format generate bench bench-grove bench-replicas interop evidence-checker image image-base image-test kubernetes-test appinspect dist deb rpm release-test release-notes audit changelog lock clean
.DEFAULT_GOAL := install

# Many tests wait for a process or a peer, so two more workers than cores keep the cores busy.
PARALLEL ?= -n $(shell expr $$(nproc) + 2) --dist worksteal
FOLDERS = $(if $(AREA),$(or $(wildcard tests/$(AREA) tests/*/$(AREA)),$(error no tests/$(AREA): AREA names a folder of tests)))

install: $(VENV)/.developer

demo: $(VENV)/.user
	@$(BIN)/auditrelay demo $(DEMO)

test: $(VENV)/.developer
	@$(BIN)/python -m pytest $(PARALLEL) $(TEST) $(or $(FOLDERS),--ignore tests/image --ignore tests/release --ignore tests/website)

test-all: export TEST_ALL := 1
test-all: test

test-unit: $(VENV)/.developer
	@$(BIN)/python -m pytest $(PARALLEL) -m "not process and not slow" $(TEST) \
		$(or $(FOLDERS),--ignore tests/contract)

fuzz: $(VENV)/.developer
	@FUZZ_SEED=$${FUZZ_SEED:-random} FUZZ_REPLIES=$(FUZZ) FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest $(PARALLEL) $(TEST) tests/fuzz

check: check-format check-lint check-types

check-format: $(VENV)/.developer
	$(BIN)/ruff format --check

check-lint: $(VENV)/.developer
	$(BIN)/ruff check

check-types: $(VENV)/.developer
	$(BIN)/mypy

format: $(VENV)/.developer
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

generate: $(VENV)/.developer
	$(BIN)/python -m auditrelay.config.example > config.example.toml
	$(BIN)/python siem/splunk/props.py > siem/splunk/TA-auditrelay/default/props.conf
	$(BIN)/python siem/sentinel/template.py > siem/sentinel/template.json
	$(BIN)/python kubernetes/rules.py > kubernetes/monitoring/prometheusrule.yaml
	$(BIN)/python docs/described.py
	$(BIN)/python -m release.version

bench: $(VENV)/.developer
	@$(BIN)/python benchmarks/run.py $(BENCH)

bench-grove: $(VENV)/.developer
	@$(BIN)/python benchmarks/against_grove.py $(BENCH)

bench-replicas: $(VENV)/.developer
	@PYTHONPATH=. $(BIN)/python benchmarks/replicas.py $(BENCH)

interop: $(VENV)/.developer
	@$(BIN)/python -m interop $(INTEROP)

# What is written in docs, what is generated of the code, and nothing else: a broken link, a page that
# no other links to, or a request to another host is an error.
docs: $(VENV)/.user $(VENV_DOCS)/.ready
	@rm -rf build/website
	@$(BIN)/python -m docs.website build/website/source
	@$(VENV_DOCS)/bin/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto \
		--doctree-dir build/website/doctrees build/website/source build/website/html
	@$(BIN)/python -m docs.website.check build/website/html
	@echo "build/website/html/index.html"

docs-test: $(VENV)/.developer docs
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST) tests/website

screenshots: $(VENV)/.developer
	@$(BIN)/python -m tests.support.demo_shots docs/images

# The auditor's program, for machines without auditrelay: any Python from 3.11 on runs it.
evidence-checker:
	@rm -rf build/evidence
	@mkdir -p build/evidence/auditor $(dir $(CHECKER))
	@cp src/auditrelay/evidence/auditor/*.py build/evidence/auditor
	$(PYTHON) -m zipapp --python "/usr/bin/env python3" --main auditor.program:command --output $(CHECKER) build/evidence

# The script reads the rest of its settings where pip and the engines have theirs.
image image-base image-test: export IMAGE := $(IMAGE)
image image-base image-test: export BASE := $(BASE)

image:
	@packaging/image.sh build

image-base:
	@packaging/image.sh base

image-test: $(VENV)/.developer
	@packaging/image.sh archive build/image.tar
	@TEST_IMAGE=build/image.tar $(BIN)/python -m pytest -n 0 $(TEST) tests/image

kubernetes-test: $(VENV)/.developer
	@packaging/kubernetes/build.sh
	@$(BIN)/python -m pytest -n 0 $(TEST) tests/packaging/test_kubernetes.py

appinspect: .venv-appinspect/.ready $(VENV)/.developer
	@$(BIN)/python -m pytest -n 0 $(TEST) tests/siem/test_appinspect.py

dist: $(VENV)/.developer
	@$(BIN)/python -m release.dist dist

deb: dist
	@$(BIN)/python -m release.system deb dist

rpm: dist
	@$(BIN)/python -m release.system rpm dist

release-test: dist
	@$(BIN)/python -m release.system deb dist || [ $$? = 69 ]
	@TEST_DIST=dist $(BIN)/python -m pytest -n 2 --dist loadfile $(TEST) tests/release

release-notes: $(VENV)/.developer
	@$(BIN)/python -m release.notes $(or $(TAG),$(error name the tag: make release-notes TAG=v0.2.0))

audit: $(VENV_AUDIT)/.ready
	$(VENV_AUDIT)/bin/pip-audit --disable-pip --require-hashes $(foreach each,$(wildcard requirements*.txt),-r $(each))

changelog: $(VENV)/.developer
	$(BIN)/towncrier build --yes --version $$($(BIN)/python -m release.version --show)

# The development lock has all packages; those of users and of a build are subsets. The site is made in
# an environment of its own. The extras are in the locks, as in
# the image. Dependencies come from wheels only: the code that a source distribution runs while it is
# built is in no lock.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --only-binary :all: $(LOCK)

# Of what Splunk's inspection needs one package is no wheel; it is only installed beside us.
lock: $(VENV)/.developer
	$(PIP) install uv==$(UV_VERSION)
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements-dev.txt
	$(COMPILE) pyproject.toml --all-extras --constraint requirements-dev.txt --output-file requirements.txt
	$(COMPILE) --group build --constraint requirements-dev.txt --output-file requirements-build.txt
	$(COMPILE) --group docs --output-file requirements-docs.txt
	$(COMPILE) --group audit --output-file requirements-audit.txt
	$(filter-out --only-binary :all:,$(COMPILE)) --group appinspect --output-file requirements-appinspect.txt

clean:
	rm -rf $(VENV) $(VENV_DOCS) $(VENV_AUDIT) .venv-grove .venv-appinspect build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf interop/*/target
	find src tests benchmarks interop -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------

$(VENV)/pyvenv.cfg:
	@$(or $(PYTHON),false) -c '$(CAN_DO)' 2>/dev/null || { \
	echo "auditrelay needs Python 3.11 or newer with venv and pip, and $(if $(PYTHON),$(PYTHON) is none,there is none here)." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3)," >&2; \
	echo "or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: requirements.txt requirements-build.txt pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) install --only-binary :all: --require-hashes -r requirements.txt -r requirements-build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.developer: requirements-dev.txt $(VENV)/.user
	$(PIP) install --only-binary :all: --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV_AUDIT)/.ready: requirements-audit.txt | $(VENV)/pyvenv.cfg
	$(BIN)/python -m venv $(VENV_AUDIT)
	$(VENV_AUDIT)/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: \
		--require-hashes -r requirements-audit.txt
	@touch $@

$(VENV_DOCS)/.ready: requirements-docs.txt | $(VENV)/pyvenv.cfg
	$(BIN)/python -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: \
		--require-hashes -r requirements-docs.txt
	@touch $@

.venv-appinspect/.ready: requirements-appinspect.txt
	$(PYTHON) -m venv --clear .venv-appinspect
	.venv-appinspect/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-appinspect.txt
	@touch $@
