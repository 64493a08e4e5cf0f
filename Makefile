# make quickstart   a real distillation on the embedded images, offline after set-up, a few minutes
# make test         the tests
# make test-lowest  the tests with the oldest versions that requirements.txt allows
# make test-engines searches on a real SLURM and a real Ray, of two nodes each, on this machine; what it lacks is skipped
# make test-gpu     the tests that need a GPU, and what they skipped
# make check        lint, format, types
# make bench        speeds, side by side
# make bench-gpu    speeds on a GPU
# make docs         what is generated from the code: pages of docs/, and the search over all losses in experiments/all_methods
# make clean        throw the quickstart's results and the environment away

PYTHON ?= python3
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1

.PHONY: quickstart test test-lowest test-engines test-gpu check bench bench-gpu docs clean

quickstart: .venv/.user
	@echo "A teacher, then a small student with and without it: three seeds each, on 5,000 real images."
	$(PY) search_hyperparams.py --parent_dir experiments/quickstart/student
	$(PY) synthesize_results.py --parent_dir experiments/quickstart --group_by_seed
	@cat experiments/quickstart/NEXT.txt

test: .venv/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

test-lowest: .venv-lowest/.ready
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist loadfile

# SLURM: apt-get install slurm-wlm munge, and root. Warnings of Ray's own are no errors.
test-engines: .venv/.engines
	OMP_NUM_THREADS=1 $(PY) -m pytest -m cluster -W default -rs tests/search

# Compilers warn of much that is no fault of ours.
test-gpu: .venv/.dev
	$(PY) -m pytest -m gpu -W default -rs --durations=5 tests/gpu

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/.user
	$(PY) -m benchmarks.speed

bench-gpu: .venv/.user
	$(PY) -m benchmarks.gpu

docs: .venv/.user
	$(PY) -m model.docs

.venv/.user: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; say make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.dev: .venv/.user requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/.engines: .venv/.dev requirements-engines.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-engines.txt && touch $@ \
		|| echo "Ray and submitit cannot be installed here"

.venv-lowest/.ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv-lowest
	sed 's/>=/==/' requirements.txt > .venv-lowest/requirements.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -r .venv-lowest/requirements.txt -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .venv-lowest experiments/quickstart/results.* experiments/quickstart/student/loss_*
	cd experiments/quickstart/teacher && rm -rf *.json.tmp run.json params_resolved.json metrics* train.log tensorboard cache *.pth.tar
