# The checks one at a time, in the environment that is active; CONTRIBUTING.md says how to make it.
.PHONY: test lint docs chaos

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

docs:
	sphinx-build -W -b html docs docs/_build/html

# Random fault schedules of fresh seeds, until stopped.
chaos:
	python -m tests.chaos
