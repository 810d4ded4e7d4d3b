# Two commands do everything on a machine with Python 3.11 or newer and make: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Never a question: who has to give a password says `sudo make services`.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

.PHONY: demo test test-unit check lint bench bench-all soak fuzz services clusters stores clean

demo: $(VENV)/installed
	@$(BIN)/python examples/integral.py

# Most tests wait for something most of the time, so three at once on two cores; a file has one server of each kind.
# What they need is installed as far as that works without a question; the table at the end says what was not tested.
test: $(VENV)/dev
	@PIP_RETRIES=1 $(MAKE) --no-print-directory -k services clusters stores || { \
	  test -z "$$CI" && echo "not all could be installed that tests need: the table at their end says what was not tested"; }
	@failed=; $(BIN)/python tests/every_python.py || failed=1; \
	$(BIN)/python -m pytest -n 3 --dist loadfile || failed=1; test -z "$$failed"

# What needs no server, no process and no extra: seconds.
test-unit: $(VENV)/dev
	$(BIN)/python -m pytest -q tests/unit

check: lint test

# The types of every public name are said, so that each type checker infers the same: below 100% it fails. It takes 2 s.
TYPES = PYTHONPATH=src $(BIN)/python -m basedpyright --pythonpath $(BIN)/python --verifytypes pymar --ignoreexternal

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@echo complete types; $(TYPES) > $(VENV)/types || { cat $(VENV)/types; exit 1; }

bench: $(VENV)/dev $(VENV)/clusters services
	$(BIN)/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/bench.py

# Every alternative: about an hour. Needs a Java for PySpark.
bench-all: $(VENV)/dev $(VENV)/clusters services
	@command -v redis-server > /dev/null || $(APT) install -qy redis-server
	$(BIN)/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements-all.txt
	$(BIN)/python benchmarks/bench.py --rounds 5 --only all --json docs/benchmarks.json
	$(BIN)/python benchmarks/charts.py docs/benchmarks.json docs
	$(BIN)/python benchmarks/written.py

# Hours of faults: 20 seeds of 1,000 parts with 30 faults each, and the broker killed ten times.
soak: $(VENV)/dev
	PYMAR_CASES=100000 $(BIN)/python -m pytest -v --timeout 3600 tests/sources/test_text.py -k "once or anywhere"
	PYMAR_KILLS=10 PYMAR_SEEDS=20 PYMAR_PARTS=1000 PYMAR_FAULTS=30 $(BIN)/python -m pytest -v --timeout 3600 tests/amqp/test_soak.py tests/amqp/test_broker_faults.py

# A million mutated messages, and as many values.
fuzz: $(VENV)/dev
	PYMAR_FUZZ=1000000 $(BIN)/python -m pytest -v --timeout 3600 -k "random_bytes or random_plain" tests/unit/test_wire.py tests/serialization/test_plain.py

# What the tests of AMQP, of hosts and of deploy/ need; without it they are skipped, unless CI is set.
services:
	@{ test -x /usr/lib/rabbitmq/bin/rabbitmq-server && command -v systemd-analyze; } > /dev/null || { $(APT) update -q && $(APT) install -qy rabbitmq-server systemd; }
	@{ ls /usr/sbin/sshd /usr/lib/*/faketime && PATH=$$PATH:/usr/sbin:/sbin command -v ip; } > /dev/null 2>&1 || { $(APT) update -q && $(APT) install -qy openssh-server iproute2 libfaketime; }
	@v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); ls /usr/lib/python$$v/test/test_concurrent_futures* > /dev/null 2>&1 || { $(APT) update -q && $(APT) install -qy libpython$$v-testsuite; } || echo "Debian has no tests of executors for Python $$v"

# Dask and Ray, which the tests of their engines need; without them they are skipped, unless CI is set.
clusters: $(VENV)/clusters

$(VENV)/clusters: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dask,ray]'
	touch $@

# Drivers of the stores, their servers and real data, which the tests of sources need; skipped without, unless CI is set.
stores: $(VENV)/stores
	@{ ls /usr/lib/postgresql/*/bin/postgres /usr/sbin/mariadbd > /dev/null 2>&1 && ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1; } || { $(APT) update -q && $(APT) install -qy postgresql mariadb-server-core mariadb-client-core; }

$(VENV)/stores: $(VENV)/installed requirements-stores.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[array,duckdb,hdf5,hosts,joblib,mysql,netcdf,parquet,s3,sql,zarr,zstd]'
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-stores.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

# A bare Debian has Python without venv and pip.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(APT) update -q && $(APT) install -qy python3-venv; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Pymar needs Python 3.11 or newer; this is " + sys.version + ". Say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@
