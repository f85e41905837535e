# Everything a contributor or CI runs. Needs python3, git and make; brings uv itself when it is missing.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV := $(shell command -v uv || echo .venv-uv/bin/uv)
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
TOGETHER := -n 2 --dist worksteal tests
OTHERS := ext_resnet18 or ext_resnet50_dcn or ext_convnext_atto # EfficientNets are what clients treat worst
EXAMPLES := README.md docs # in one process: an example uses what those before it defined

.PHONY: help setup test test-all test-timm peer test-lowest test-clients test-clients-fast test-page mutants demo lint fix wheel release-check docs bench figures check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv

$(READY): uv.lock pyproject.toml | $(filter .venv-uv/bin/uv,$(UV))
	$(UV) sync --locked --quiet --compile-bytecode # a hundred tests start a python of their own
	@touch $@

setup: $(READY) ## make .venv with the locked versions

test: $(READY) ## our own tests but the slow ones
	$(PYTEST) $(TOGETHER) -m "not slow"
	$(PYTEST) $(EXAMPLES)

test-all: $(READY) ## our own tests with the slow ones: fresh processes, exports, compilers, trainings
	$(PYTEST) $(TOGETHER)
	$(PYTEST) $(EXAMPLES)

test-timm: $(READY) ## timm's own test-suite for every ext_ name
	$(BIN)/python tests/timm_suite.py

peer: $(READY) ## huggingface_hub's own tests of model repos against the local Hub
	$(BIN)/python tests/local_hub/peer_suite.py

test-lowest: | $(filter .venv-uv/bin/uv,$(UV)) ## the fast tests with the lowest versions that pyproject.toml allows
	$(UV) venv --quiet --allow-existing .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --group test -e .
	.venv-lowest/bin/python -m pytest $(TOGETHER) -m "not slow" -W default
	.venv-lowest/bin/python -m pytest $(EXAMPLES) -W default

.venv-%/.ready: uv.lock pyproject.toml | $(filter .venv-uv/bin/uv,$(UV))
	UV_PROJECT_ENVIRONMENT=.venv-$* $(UV) sync --locked --quiet --compile-bytecode --no-default-groups --group $*
	@touch $@

test-clients: .venv-clients/.ready .venv-clients-mm/.ready ## the packages that build on timm, with our models; writes docs/reference/downstream.md
	rm -rf .cache/clients
	HF_HUB_OFFLINE=1 .venv-clients/bin/python -m pytest -n 2 --dist loadfile tests/clients
	HF_HUB_OFFLINE=1 .venv-clients-mm/bin/python -m pytest tests/clients/test_mmpretrain.py tests/clients/test_mmdet.py
	HF_HUB_OFFLINE=1 .venv-clients/bin/python -m pytest docs/guides/segmentation.md docs/guides/transformers.md -W default
	.venv-clients/bin/python tests/clients/table.py

test-clients-fast: .venv-clients/.ready ## one of our models in each of them but mmpretrain, without the table
	HF_HUB_OFFLINE=1 .venv-clients/bin/python -m pytest -n 2 --dist worksteal tests/clients -k "not ($(OTHERS))"

test-page: $(READY) ## the page of models in a headless Chromium; skipped, with a word, where there is none
	$(UV) run --locked --group page python -m pytest -q -rs tests/page

mutants: .venv-mutants/.ready ## how many small mistakes the tests catch: 200 mutants, for hours
	.venv-mutants/bin/python tests/mutants.py

demo: $(READY) ## the main job end to end, into demo-out/
	$(BIN)/timm-ext demo

lint: $(READY) ## format, lint, types, imports, workflows
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/ty check
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github/workflows

fix: $(READY) ## repair what lint can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(READY) ## build, check and try the wheel in a bare environment
	rm -rf dist .venv-wheel
	$(UV) build --quiet
	$(BIN)/check-wheel-contents dist/*.whl
	$(UV) venv --quiet .venv-wheel
	$(UV) pip install --quiet --python .venv-wheel/bin/python dist/*.whl
	cd dist && ../.venv-wheel/bin/python -c "import timm; print(timm.create_model('ext_resnet18', features_only=True).feature_info.reduction())"
	cd dist && ../.venv-wheel/bin/python -c "import timm_backbones_ext as tbx; print(tbx.__version__)"
	cd dist && ../.venv-wheel/bin/timm-ext --help >/dev/null
	rm -rf .venv-wheel

release-check: $(READY) ## what has to hold before a release: contents, metadata, README, bare environments, licences
	rm -rf dist
	$(UV) build --quiet
	$(UV) run --locked --group release python tests/release_check.py $(UV) 3.10 3.13

docs: $(READY) ## build the documentation into site/, and try its search
	NO_MKDOCS_2_WARNING=1 $(UV) run --locked --group docs mkdocs build --strict --quiet
	$(BIN)/python tests/site_search.py

bench: $(READY) ## measure; writes the figures that docs and commands show
	$(BIN)/python benchmarks/autoload.py
	$(BIN)/python benchmarks/insertion.py
	$(BIN)/python benchmarks/edits.py
	$(BIN)/python benchmarks/edit_study.py
	$(BIN)/python benchmarks/detection.py
	$(BIN)/python benchmarks/depth.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python benchmarks/deploy.py
	$(BIN)/python benchmarks/depthwise.py
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/figures.py

figures: $(READY) ## make tables and figures of the documentation anew from the JSON that bench wrote; measures nothing
	$(BIN)/python benchmarks/figures.py

check: lint docs wheel test-timm test-all test-page test-clients-fast ## all of it, as CI does

clean: ## remove what the other targets made
	rm -rf .venv .venv-clients .venv-clients-mm .venv-lowest .venv-mutants .venv-uv .venv-wheel .cache dist site demo-out
