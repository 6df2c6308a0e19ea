# Each target sets up what it needs on a fresh machine; nothing else has to be installed but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/simclr-jax
# Bytecode is kept: every process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-processes soak test-convert parity training-parity bench gpu-suite speedrun recorded-runs gpu-memory aot aot-small docs lint clean

# Train on the embedded photo patches, evaluate beside the baselines, write the report. On a CPU a tenth of the time goes
# into pages of memory, of which glibc asks for larger ones when it is told to.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(VENV)/.demo
	$(RUN) train --config=demo --workdir=runs/demo
	$(RUN) evaluate --workdir=runs/demo
	$(RUN) report --workdir=runs/demo
	@echo
	@echo "Open runs/demo/report.html in a browser."
	@echo "Next, your own folder of images:  $(VENV)/bin/simclr-jax train --config=folder:PHOTOS --workdir=runs/photos"

# The tests on all cores, each worker a run of neighbouring tests, which share compiled programs, until it helps another.
# A worker takes up to 3 GB, hence the limit; WORKERS=0 runs them in one process.
WORKERS ?= auto
PARALLEL = -n $(WORKERS) --maxprocesses=8 --dist=worksteal

# The fast tests; `make test PYTHON=python3.12` for another Python.
test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL)

# Tests that start several processes, some of which wait for each other, have the cores for themselves.
test-all: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "slow or not slow" $(addprefix --ignore=,$(PROCESSES) $(HOSTS))
	$(MAKE) test-processes PROCESSES="$(PROCESSES) $(HOSTS)" MARKS="slow or not slow"

# Several devices and processes against one, and peers that are killed or stopped. Hosts that are cut off, four minutes
# most of which are waiting, are for `make test-all`, and so are further methods of a kind.
PROCESSES = tests/distributed/test_sharding.py tests/distributed/test_processes.py tests/distributed/test_signals.py \
  tests/distributed/test_shared_embedding.py tests/losses/test_family_on_devices.py
HOSTS = tests/distributed/test_hosts.py
MARKS = not rare
test-processes: $(VENV)/.test
	$(VENV)/bin/python -m pytest -m "$(MARKS)" $(PROCESSES)

# A run that is killed 200 times and ends with the same bits: hours; `make soak ARGS=--kills=5` takes minutes.
soak: $(VENV)/.test
	$(VENV)/bin/python benchmarks/soak.py $(ARGS)

# Reads real TensorFlow checkpoints, where the full golden files are at hand; TensorFlow is large, so give it a VENV.
test-convert: $(VENV)/.convert
	$(VENV)/bin/python -m pytest tests/cli/test_convert_tensorflow.py

# Runs every test that compares with the reference or with a peer that is installed, and writes docs/parity.md.
parity: $(VENV)/.bench
	$(VENV)/bin/python benchmarks/parity.py $(ARGS)

# Trains beside the official TF2 code and lightly, an hour and more of one core, and writes docs/training_parity.md. With
# ARGS="--data_dir=... --tf_python=... --peers_python=..."; trainings that are kept are not made again.
training-parity: $(VENV)/.bench
	$(VENV)/bin/python benchmarks/training_parity.py $(ARGS)

# Times ours beside the peers that are installed, at most half an hour, and writes the tables of benchmarks/README.md.
# With ARGS="--peers_python=... --tf_python=..." peers and TensorFlow may live in other environments.
bench: $(VENV)/.bench
	$(VENV)/bin/python benchmarks/bench.py all $(ARGS)

# Measures on a GPU in nine minutes what is claimed of one; docs/gpu.md. With ARGS=--tiny a test of it on a CPU. VENV must
# have JAX for CUDA; without a network, run the script with any Python that has it.
gpu-suite: $(VENV)/.test
	$(VENV)/bin/python benchmarks/gpu.py suite $(ARGS)

# On a GPU, nine minutes a call; the same command goes on (docs/gpu_runs.md). For NVIDIA first: pip install 'jax[cuda12]' in the
# VENV. With ARGS="--data_name=... --data_dir=..." for data elsewhere, ARGS=--tiny to prove it on a CPU.
speedrun: $(VENV)/.demo
	$(VENV)/bin/python benchmarks/gpu.py speedrun --workdir=runs/speedrun $(ARGS)

recorded-runs: $(VENV)/.demo
	$(VENV)/bin/python benchmarks/gpu.py recorded --workdir=runs/recorded $(ARGS)

gpu-memory: $(VENV)/.demo
	$(VENV)/bin/python benchmarks/gpu.py memory $(ARGS)

# Compiles the training step for GPU nodes and TPU slices that are not here, and writes docs/aot.md. The compilers are
# about 1 GB, so give them a VENV of their own. With ONLY=h200 just the targets of that name.
aot: $(VENV)/.aot
	$(VENV)/bin/python benchmarks/aot.py --only "$(ONLY)"

aot-small: $(VENV)/.aot
	$(VENV)/bin/python benchmarks/aot.py --small

# The documentation site, with the reference from the docstrings and the tutorial executed; a warning is an error.
docs: $(VENV)/.docs
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# A virtual environment is made anew when PYTHON names another version than the one it holds.
$(VENV)/.version: FORCE
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python must be 3.11 or newer; got $$($(PYTHON) --version). Use make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@v=$$($(PYTHON) -c 'import sys; print(sys.version)'); \
	  if [ ! -f $@ ] || [ "$$(cat $@)" != "$$v" ]; then \
	    rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && echo "$$v" > $@; fi

$(VENV)/.demo $(VENV)/.test $(VENV)/.convert $(VENV)/.bench $(VENV)/.aot $(VENV)/.docs $(VENV)/.dev: pyproject.toml $(VENV)/.version
	$(VENV)/bin/python -m pip install --quiet --editable ".[$(EXTRA)]"
	@touch $@

$(VENV)/.demo: EXTRA = data,report
$(VENV)/.test: EXTRA = test
$(VENV)/.convert: EXTRA = test,convert
$(VENV)/.bench: EXTRA = bench
$(VENV)/.aot: EXTRA = aot-gpu,aot-tpu
$(VENV)/.docs: EXTRA = docs
$(VENV)/.dev: EXTRA = dev

FORCE:
clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
