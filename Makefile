# One command each (`make help`); the environment is made when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := /usr/share/datasets/fashion-mnist
# Modules are compiled once, and not in each of the processes that tests and benchmarks start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo gpu-check check lint types layers test doctest test-slow browser docs cli-docs fashion picture explore-picture question-pictures toy \
	lock wheels sbom min-versions release \
	bench scale bench-audit bench-elbo bench-learned bench-vamp kinds bench-instructions bench-coverage bench-verdict bench-exchange bench-alarms bench-generation chaos chaos-short mutants fuzz bring bring-tests store-tests engines clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z%][a-z%-]*:.*## / {printf "%-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/.done: pyproject.toml constraints.txt CMakeLists.txt $(wildcard requirements/*/dev.txt src/zprime/kernels/_native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/install.py dev
	touch $@

demo: $(VENV)/.done  ## the main job on scikit-learn's digits, in a minute
	$(BIN)/zprime run --data digits --out runs/demo

test: $(VENV)/.done  ## the tests, on all cores
	$(BIN)/pytest -n auto --dist loadfile

test-slow: $(VENV)/.done  ## the checks that take minutes
	$(BIN)/pytest -m slow -n 0

gpu-check:  ## the tests that need a GPU, with whatever torch PYTHON has: no environment, no build; skipped where there is none
	PYTHONPATH=src $(PYTHON) -m pytest -m gpu --noconftest -p no:cacheprovider -rs tests/test_gpu.py

check: lint types layers test doctest  ## all that must pass before a merge: lint, types, layers, tests, doctests

lint: $(VENV)/.done  ## ruff: rules and format
	$(BIN)/ruff check src tests tools examples benchmarks
	$(BIN)/ruff format --check src tests tools examples benchmarks

types: $(VENV)/.done  ## mypy, strict
	$(BIN)/mypy

layers: $(VENV)/.done  ## import-linter: no room imports upward
	$(BIN)/lint-imports --no-cache

doctest: $(VENV)/.done  ## the examples in docstrings
	$(BIN)/pytest --doctest-modules src -p no:cacheprovider

browser: $(VENV)/.done  ## in Debian's chromium: the report, the explorer and the site (after `make docs`), with screenshots in build/screenshots; the ONNX file, where npm fetches onnxruntime-web
	command -v npm >/dev/null && $(BIN)/python tools/onnx_web.py build/onnxruntime-web || echo "no onnxruntime-web: its test is skipped"
	$(BIN)/pytest -m browser -n 0

docs: $(VENV)/.docs  ## the documentation site, into site/
	$(BIN)/python tools/nav.py
	$(BIN)/python tools/layers.py
	$(BIN)/python tools/places.py
	$(BIN)/python tools/changes.py
	$(BIN)/zensical build

$(VENV)/.docs: $(VENV)/.done $(wildcard requirements/*/docs.txt)
	$(BIN)/python tools/install.py docs
	touch $@

cli-docs: $(VENV)/.done  ## docs/cli.md, from the commands' own help
	$(BIN)/python tools/cli.py

fashion: $(VENV)/.done  ## the README's table: 60,000 images, a convolutional VAE with 16 latents
	$(BIN)/zprime run --data $(DATA) --latents 16 --out runs/fashion --seed 0

picture: $(VENV)/.done  ## the README's picture, from the run of `make fashion`
	$(BIN)/python examples/picture.py runs/fashion docs/images/fashion.png

explore-picture: $(VENV)/.done  ## the picture of docs/explore.md, from the run of `make demo`
	$(BIN)/python tools/explore_picture.py runs/demo docs/images/explore.png

question-pictures: $(VENV)/.done  ## the pictures of docs/question.md and of its tutorial, and what `zprime explain` says of its example
	$(BIN)/python tools/answers.py
	$(BIN)/python tools/pictures.py docs/question.md
	$(BIN)/python tools/pictures.py docs/tutorials/one-latent.md

toy: $(VENV)/.done  ## docs/kinds/toy.md: every kind against an aggregated posterior known in closed form
	$(BIN)/python examples/toy.py

bench: $(VENV)/.done  ## docs/performance.md: speed and memory against the alternatives; about 30 minutes on one core; an interrupted one goes on, AGAIN=1 begins anew
	-$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt faiss-cpu prdc
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed $(if $(PYTHAE),--pythae $(PYTHAE)) $(if $(AGAIN),--again)

# Another checkout of this repository, whose audits and trainings take turns with those of this one.
BEFORE := ../before

bench-audit: $(VENV)/.done  ## CPU seconds of audits here and in BEFORE=another checkout: RUN="runs of make demo, make fashion, ..."
	$(BIN)/python benchmarks/audit.py $(or $(RUN),runs/demo) --before $(BEFORE)

bench-elbo: $(VENV)/.done  ## CPU seconds of trainings here and in BEFORE=another checkout, and the ELBOs that they reach; CASES="digits table"
	$(BIN)/python benchmarks/elbo.py $(or $(CASES),digits table fashion-mlp) --before $(BEFORE)

bench-learned: $(VENV)/.done  ## docs/learned.md: priors given, fitted post hoc, refined and learned, at one budget of CPU seconds; 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/learned.py $(or $(CASES),digits fashion) $(if $(AGAIN),--again)

bench-vamp: $(VENV)/.done  ## docs/learned.md: a VampPrior learned by zprime and by pythae; 10 minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/vamp.py

scale: $(VENV)/.done  ## docs/scale.md: posteriors of 10,000 to 10,000,000 rows in 4 GiB; MOST=1000000 for fewer
	$(BIN)/python benchmarks/scale.py $(if $(MOST),--most $(MOST))

# Kinds with other settings than their defaults, for docs/kinds/compared.md: name/settings.
VARIANTS := mixture-of-means/mixture.codes=means mixture-merged/mixture.method=merge \
	gaussian-low-rank/gaussian.covariance=low-rank flow-maf/flow.flow=maf resampled-energy/resampled.method=energy \
	exemplars-full/exemplars.covariance=full exemplars-200/exemplars.rows=200 \
	exemplars-200-medoids/exemplars.rows=200/exemplars.subset=kmedoids \
	exemplars-200-npmle/exemplars.rows=200/exemplars.subset=npmle

kinds: $(VENV)/.done  ## docs/kinds/compared.md: every kind on the digits and on Fashion-MNIST; an hour
	$(BIN)/zprime run --data digits --kinds all --out runs/kinds-digits
	$(foreach v,$(VARIANTS),$(BIN)/zprime fit runs/kinds-digits --name $(firstword $(subst /, ,$(v))) \
		--kinds $(firstword $(subst ., ,$(word 2,$(subst /, ,$(v))))) \
		--set $(wordlist 2,9,$(subst /, ,$(v))) &&) $(BIN)/zprime audit runs/kinds-digits
	$(BIN)/zprime run --data $(DATA) --latents 16 --kinds all --out runs/kinds-fashion
	$(BIN)/zprime run --data $(DATA) --latents 16 --limit 2000 --network mlp --epochs 80 --rows 300 --draws 200 \
		--out runs/kinds-2000
	$(BIN)/python examples/kinds.py runs/kinds-digits runs/kinds-fashion runs/kinds-2000

bench-instructions: $(VENV)/.done  ## how near the compiled sweep is to the core's peak: valgrind and perf; 4 minutes
	$(BIN)/python benchmarks/instructions.py

bench-coverage: $(VENV)/.done  ## 95 % intervals over 500 to 2,000 simulated data sets; 15 minutes
	$(BIN)/python benchmarks/coverage.py --only gains wrong surgery calibration ais heavy-tails no-share design bound membership
	$(BIN)/python benchmarks/coverage.py --seeds 500 --only not-linear two-modes
	$(BIN)/python benchmarks/coverage_latent.py

bench-verdict: $(VENV)/.done  ## false alarms and power of the verdict by likelihood, easy and hard cases; 2 hours
	$(BIN)/python benchmarks/verdict.py

bench-exchange: $(VENV)/.done  ## how often the exchange check passes where it should, and fails where it should
	$(BIN)/python benchmarks/exchange.py

bench-alarms: $(VENV)/.done  ## false alarms of the x' side where nothing is wrong, easy and hard cases; 50 minutes
	$(BIN)/python benchmarks/alarms.py

bench-generation: $(VENV)/.done  ## false alarms, coverage and power of the x' side on planted samples; 10 minutes
	$(BIN)/python benchmarks/generation.py --seeds 200 --only fidelity differences verdict
	$(BIN)/python benchmarks/generation.py --seeds 1000 --only copying labels drift
	$(BIN)/python benchmarks/clearing.py --seeds 200

chaos: $(VENV)/.done  ## docs/reliability.md: every call of the system fails once, runs are killed, files damaged; 17 minutes
	$(BIN)/python tools/chaos

chaos-short: $(VENV)/.done  ## some of each of these; 3 minutes
	$(BIN)/python tools/chaos --short

mutants: $(VENV)/.done  ## docs/tests.md: how many small changes of the code the tests notice; MUTANTS=50 for fewer, KEEP=1 after new tests; 35 minutes
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt cosmic-ray coverage
	$(BIN)/python tools/mutants --sample $(or $(MUTANTS),300) $(if $(KEEP),--keep)

fuzz: $(VENV)/.done  ## a million cases for what reads files, names and arguments, guided by coverage; 6 minutes, CASES=10000 for fewer
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt atheris
	$(BIN)/python tools/fuzz --cases $(or $(CASES),1000000)

BRING := pythae scvi tvae diffusers

.SECONDARY: $(BRING:%=.venvs/%/.done)

bring: $(BRING:%=bring-%)  ## docs/bring/*.md: VAEs of other libraries, trained and audited, one environment a library

bring-%: .venvs/%/.done  ## the same for one library: pythae, scvi, tvae or diffusers
	mkdir -p build/bring
	cd examples && OMP_NUM_THREADS=1 ../.venvs/$*/bin/python bring_$*.py > ../build/bring/$*.txt
	cat build/bring/$*.txt
	cd examples && ../.venvs/$*/bin/python bring_page.py $* ../build/bring/$*.txt

bring-tests: $(VENV)/.done $(BRING:%=.venvs/%/.done)  ## the adapters' tests, each beside its library; VAEs as other codebases write them
	$(BIN)/pytest -n 0 -m "slow or not slow" tests/test_bring_shapes.py
	for v in $(BRING); do .venvs/$$v/bin/python -m pytest -n 0 tests/test_bring_$$v.py || exit 1; done

store-tests: .venvs/s3/.done  ## rows in S3, as moto's server plays it, in an environment of its own
	.venvs/s3/bin/python -m pytest -n 0 tests/test_s3.py

.venvs/s3/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/s3
	.venvs/s3/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[parquet]' \
		'moto[server]' boto3 pytest pytest-xdist hypothesis beartype
	touch $@

engines: .venvs/engines/.done  ## examples/ray_data.py and dask_bag.py: Encode and Sums with Ray Data and Dask, in an environment of their own
	cd examples && for e in ray_data dask_bag; do OMP_NUM_THREADS=1 ../.venvs/engines/bin/python $$e.py || exit 1; done

.venvs/engines/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/engines
	.venvs/engines/bin/pip install -q --disable-pip-version-check -c constraints.txt -e . 'ray[data]' 'dask[distributed]'
	touch $@

# What an example reads: celltypist's and plotnine's tables come with their wheels, their code is not run.
.venvs/scvi/.done: TABLES := celltypist
.venvs/tvae/.done: TABLES := plotnine
.venvs/tvae/.done: BESIDE := sdmetrics sdv
.venvs/%/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[$*]' \
		scikit-learn pytest pytest-xdist hypothesis beartype $(BESIDE)
	$(if $(TABLES),.venvs/$*/bin/pip install -q --disable-pip-version-check -c constraints.txt --no-deps $(TABLES))
	touch $@

.venvs/tools/.done: $(wildcard requirements/*/tools.txt)
	$(PYTHON) -m venv .venvs/tools
	.venvs/tools/bin/python tools/install.py tools
	touch $@

lock: .venvs/tools/.done  ## the hashed lists of what is installed on this platform, requirements/; UPGRADE=1 for newer versions
	.venvs/tools/bin/python tools/lock.py $(if $(UPGRADE),--upgrade)

wheels: .venvs/tools/.done  ## dist/: sdist and wheel, installed and tried in clean environments; on Python 3.12 and 3.13 too, where they are
	.venvs/tools/bin/python tools/wheels.py $(ONLY)

sbom: .venvs/tools/.done  ## dist/zprime-VERSION.cdx.json: what is installed with zprime, in CycloneDX
	.venvs/tools/bin/python tools/sbom.py

min-versions: .venvs/minimum/.done  ## a part of the tests beside the lowest versions that pyproject.toml allows
	.venvs/minimum/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
	.venvs/minimum/bin/python -m pytest -n 0 $(MINIMUM)

MINIMUM := $(addprefix tests/test_,artifact.py kernels.py compiled.py mixture.py flow.py tables.py running.py cli.py)

.venvs/minimum/.done: $(wildcard requirements/*/minimum.txt)
	$(PYTHON) -m venv --clear .venvs/minimum
	.venvs/minimum/bin/python tools/install.py minimum
	touch $@

release: .venvs/tools/.done  ## VERSION=x.y.z: changelog, version, commit, tag, and dist/; DRY=1 says what it would do
	.venvs/tools/bin/python tools/release.py $(VERSION) $(if $(DRY),--dry-run) $(if $(REPOSITORY),--repository $(REPOSITORY))

clean:  ## remove environments, caches and what was built
	rm -rf $(VENV) .venvs build/bring build/mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache site
