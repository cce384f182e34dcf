# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need.

VENV := .venv
BIN := $(VENV)/bin
PLUGINS := plugins/legacy plugins/iommufd plugins/sim \
           plugins/devices/pci plugins/devices/platform plugins/devices/ap plugins/devices/ccw
EXAMPLES := examples/backend examples/frontend examples/quota
EMBEDDER := tests/embedding/embedder.py
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS))

.PHONY: help setup demo test coverage test-vm proof test-bed bench-vm soak-vm vm-shell lint docs bench clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.setup-test ## Make .venv with the core, every plugin, and what the tests need

$(VENV)/.setup-%: $(PROJECTS) scripts/setup.sh
	@sh scripts/setup.sh $(VENV) $* $(PLUGINS)
	@touch $@

demo: setup ## Run the three configurations of the guide on the simulated host
	@$(BIN)/vfiocore demo

test: setup ## Run the tests
	@$(BIN)/python $(UNDER) -m pytest $(ARGS)

coverage: setup $(VENV)/.setup-coverage ## Run the tests, and see what of each distribution they reach
	@$(MAKE) test UNDER="-m coverage run"
	@for package in vfiocore $(foreach plugin,$(PLUGINS),$(plugin)/vfiocore_$(notdir $(plugin))); do \
	    echo "coverage of $$package"; \
	    $(BIN)/python -m coverage report --include="$$package/*" || exit; \
	done

BED := $(BIN)/python -m tests.vm.bed

test-vm: setup ## Run the tests in guests with real kernels (ARCH=s390x, ARGS='-k edu')
	@$(BED) test $(addprefix --arch ,$(ARCH)) $(addprefix --machine ,$(MACHINE)) -- $(ARGS)

proof: ## Run them all, and write docs/proved.md from what they report
	@$(MAKE) test-vm
	@$(BED) proof

test-bed: setup ## Test what runs the guests: one that panics, one that hangs, ...
	@$(BIN)/python -m pytest -m vm tests/vm/bed_tests $(ARGS)

bench-vm: setup ## Measure mapping beside the same in C, in a guest with a real kernel
	@$(BED) bench floor

soak-vm: setup ## Map and unmap a million times in such a guest, and see what is left (ARGS=100000)
	@$(BED) bench soak -- $(ARGS)

vm-shell: setup ## A shell in a guest (ARCH=x86_64 or MACHINE=aarch64-platform)
	@$(BED) shell $(addprefix --arch ,$(ARCH)) $(addprefix --machine ,$(MACHINE))

lint: setup $(VENV)/.setup-lint ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vfiocore $(foreach plugin,$(PLUGINS),$(plugin)/vfiocore_$(notdir $(plugin)))
	$(foreach example,$(EXAMPLES),MYPYPATH=$(example) $(BIN)/mypy $(wildcard $(example)/vfiocore_*) &&) true
	$(BIN)/mypy $(EMBEDDER)
	$(BIN)/mypy tests/vm/bed
	$(BIN)/pyright --pythonpath $(BIN)/python $(EMBEDDER)
	@for package in vfiocore $(addprefix vfiocore_,$(notdir $(PLUGINS))); do \
	    echo "every public type of $$package"; \
	    PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --ignoreexternal --verifytypes $$package \
	        >$(VENV)/types.log || { sed -n '/^Symbols/,$$p' $(VENV)/types.log; exit 1; }; \
	done

docs: setup $(VENV)/.setup-docs ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: setup ## Measure, as ratios in one run
	@$(BIN)/python bench/overhead.py
	@$(BIN)/python bench/memory.py

clean: ## Remove what was made
	rm -rf $(VENV) .vm docs/_build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
