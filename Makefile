# `make figures` and `make test` set everything up and run; inside the environment the plain tools work as well.
PYTHON ?= python3
VENV := .venv
# The build of JAX: main for the CPU, cuda12 or cuda13 for NVIDIA GPUs. Unless named, the one already installed.
JAX ?= $(firstword $(patsubst $(VENV)/ready-%,%,$(wildcard $(VENV)/ready-*)) main)
READY := $(VENV)/ready-$(JAX)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: figures test test-slurm test-faults test-load test-environments test-newest lint docs gallery benchmarks \
        autoattack compare environment lock clean

figures: environment
	snakemake --cores all --rerun-incomplete

test: environment
	pytest -n 2

# A Slurm of one node, started for the test and stopped after it. Its Debian packages are installed where that is
# possible; elsewhere the test is skipped and says so. WHOLE=1 takes the whole smoke study through it.
test-slurm: environment
	@PATH="$(PATH):/usr/sbin"; command -v slurmctld >/dev/null && command -v munged >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
	    slurmctld slurmd slurm-client munge >/dev/null; } || echo "make: the packages of Slurm cannot be installed here"
	pytest -m slow tests/test_slurm.py

# Kills, full disks, damaged files; half an hour on two cores. As the superuser, or the tests of disks are skipped.
test-faults: environment
	pytest -m slow tests/test_faults.py

# Large studies: planning, and a thousand jobs through the scheduler.
test-load: environment
	pytest -m slow -s tests/test_load.py

# Both environments from their locks in a fresh place.
test-environments: environment
	pytest -m slow tests/test_environments.py

# The library on the newest releases that the package index offers for a Python, make test-newest PYTHON=python3.13;
# to be run every week.
test-newest:
	$(PYTHON) -m venv --clear .newest
	.newest/bin/python -m pip install --quiet --disable-pip-version-check -r envs/main.in
	.newest/bin/python -m pip list | grep -i -E "^(jax|flax|numpy|snakemake) "
	PATH="$(CURDIR)/.newest/bin:$$PATH" pytest -n 2 -m "not slow and not workflow"

lint: environment
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

# The pages of docs/ that are made of the code; a test checks that they are up to date.
docs: environment
	python docs/make_configuration.py

# The figures of the default study in README.md, small, with the measured time of each, and its claims in docs/claims.md.
# Those of cifar10_cpu go into docs/cifar10.md: snakemake --cores all gallery --configfile presets/cifar10_cpu.yaml
gallery: environment
	snakemake --cores all gallery

# Two results folders side by side on one page: make compare OLD=results/digits NEW=../other/results/digits
compare: environment
	@test -n "$(OLD)" -a -n "$(NEW)" || { echo "make compare: name two results folders, OLD=... and NEW=..." >&2; exit 2; }
	python scripts/compare.py "$(OLD)" "$(NEW)"

# Engines against peers, which live in environments of their own (5 GB); 40 minutes on two cores.
benchmarks: environment .benchmarks/ready
	snakemake --cores 1 neural_tangents
	python benchmarks/run.py
	python benchmarks/study.py

# Robust accuracies against AutoAttack of torchattacks, on networks of the finished default study. With a copy of CIFAR-10
# and a checkout of the original implementation: make autoattack OPTIONS="--cifar10 FOLDER --checkout FOLDER"
autoattack: environment .benchmarks/ready
	python benchmarks/autoattack.py results/digits $(OPTIONS)

.benchmarks/ready: envs/benchmarks.txt
	$(PYTHON) -m venv --clear .benchmarks
	.benchmarks/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/benchmarks.txt
	touch $@

environment: $(READY)

# The mark of a finished environment is a copy of its lock: a lock that git merely wrote again is no reason to rebuild.
$(READY): envs/$(JAX).txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robust-tangents needs Python 3.11 or newer; name one with make PYTHON=...")'
	@cmp -s $< $@ || { \
	echo "Setting up $(VENV) from $<, once; this takes a minute or two."; \
	$(PYTHON) -m venv --clear $(VENV) && \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && \
	cp $< $@; }
	@touch $@

# Needs uv on the PATH; run after a change of envs/*.in.
lock:
	envs/lock.sh

clean:
	rm -rf $(VENV) .neural-tangents .benchmarks .newest .jax-cache
