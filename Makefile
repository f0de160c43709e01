SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PY := .venv/bin/python
EXTRAS ?= dev
SCALE ?= micro
TABLE ?= cross
CLUSTER ?= slurm
ARGS ?=
RM := # not make's own, which is rm -f
# Overrides pass through: make reproduce-table-cross SCALE=small ARGS='seed=7 run.jobs=4'
# Tables that have a meaning in the micro world only.
MICRO := $(if $(filter micro smoke,$(SCALE)),ceiling floors planted planted_bsr)
TABLES := $(PY) scripts/reproduce.py scale=$(SCALE) $(ARGS)
STAGE := $(PY) scripts/run.py scale=$(SCALE) $(ARGS)

help: ## This list
	@awk -F":.*## " '/^[a-z% -]+:.*## /{printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

INSTALL = $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'

setup: .venv/ready ## Make .venv with pinned versions (1.8 GB; several more with the CUDA build of torch); EXTRAS=dev,lora adds some
	@grep -qx '$(EXTRAS)' .venv/ready || { $(INSTALL) && echo '$(EXTRAS)' >> .venv/ready; }

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit(f"Python 3.11 is needed, {v[0]}.{v[1]} found: say make PYTHON=python3.11"); v[:2] == (3, 11) or print(f"warning: tested on Python 3.11 only, not {v[0]}.{v[1]}")'
	@echo "installing into .venv: about 1.8 GB, several more with the CUDA build of torch"
	$(PYTHON) -m venv .venv
	$(INSTALL)
	@echo '$(EXTRAS)' > $@

smoke: .venv/ready ## The whole chain in its smallest size, and facts that must hold at any size
	$(PY) scripts/reproduce.py table=cross scale=smoke seed=0 $(ARGS)
	$(PY) scripts/reproduce.py table=cross scale=smoke seed=0 action=facts $(ARGS)

comma := ,
space := $(subst ,, )
# FULL=1: every table, and what claims and figures ask for beside them.
ALL := $(basename $(notdir $(wildcard conf/table/*.yaml)))
GRID := $(if $(filter paper,$(SCALE)),normbt-grid)
ELSEWHERE := $(if $(filter micro smoke,$(SCALE)),normbt-grid,ceiling floors knowledge noise planted planted_bsr policies)
EVERY := $(strip $(filter-out $(ELSEWHERE),$(ALL)))
PLAN := $(strip $(if $(FULL),$(EVERY),cross bsr-3 bsr-5 normbt-1a coupling $(MICRO)))

reproduce: .venv/ready ## Data, SFT, reward models, policies, tables, figures, claims: results/report.html
	$(TABLES) table=$(subst $(space),$(comma),$(PLAN))
	$(PY) scripts/figures.py scale=$(SCALE) $(ARGS)
	$(PY) scripts/claims.py scale=$(SCALE) $(if $(FULL),action=run) $(ARGS)
	$(PY) scripts/report.py scale=$(SCALE) $(ARGS)

reproduce-table-%: .venv/ready ## One table, e.g. reproduce-table-cross
	$(TABLES) table=$*

plan-%: .venv/ready ## What a table would run, and why; GPU=h200 (or h100-80, a100-80, a6000, 4090): what it would cost there
	$(TABLES) table=$* action=plan $(if $(GPU),gpu=$(GPU))

settings: .venv/ready ## What TABLE is made with, and who says so: the papers, their code, we
	@$(TABLES) table=$(TABLE) action=settings

submit-%: .venv/ready ## What a table lacks, as jobs of SLURM; conf/cluster/$(CLUSTER).yaml says how. Then this is done
	$(TABLES) table=$* cluster=$(CLUSTER)

status: .venv/ready ## Where every artefact of TABLE stands
	$(TABLES) table=$(TABLE) cluster=$(CLUSTER) action=status

wait: .venv/ready ## Until all of TABLE that was submitted has ended; fails if not all is there
	$(TABLES) table=$(TABLE) cluster=$(CLUSTER) action=wait

logs: .venv/ready ## What the job of artefact KEY said
	@$(TABLES) table=$(TABLE) cluster=$(CLUSTER) action=logs key=$(KEY)

cancel: .venv/ready ## KEY, or KEY=all of TABLE: out of SLURM's queue, with what waits for it
	$(TABLES) table=$(TABLE) cluster=$(CLUSTER) action=cancel key=$(KEY)

retry: .venv/ready ## Submit TABLE again; what waits (all, or KEY) is taken back first
	$(TABLES) table=$(TABLE) cluster=$(CLUSTER) action=retry key=$(KEY)

doctor-slurm: .venv/ready ## Does this cluster do what conf/cluster/$(CLUSTER).yaml needs?
	$(PY) scripts/doctor_slurm.py cluster=$(CLUSTER) $(ARGS)

render: .venv/ready ## TABLE from what is there
	$(TABLES) table=$(TABLE) action=render

claims: .venv/ready ## The papers' claims with verdicts from what is there, into results/claims/; ARGS=action=run makes what lacks
	$(PY) scripts/claims.py scale=$(SCALE) $(ARGS)

figures: .venv/ready ## Every figure into results/figures/, with what it lacks made first
	$(PY) scripts/figures.py scale=$(SCALE) $(ARGS)

figure-%: .venv/ready ## One figure, e.g. figure-hidden-norms
	$(PY) scripts/figures.py scale=$(SCALE) $(ARGS) figure=$*

report: .venv/ready ## All that is there in one page, results/report.html; opens from disk
	$(PY) scripts/report.py scale=$(SCALE) $(ARGS)

sft rm rloo: .venv/ready ## One stage with what it needs: make rm ARGS='loss=bsr seed=1'; sweep: ARGS='-m loss=bt,bsr seed=0,1'
	$(STAGE) stage=$@

eval: .venv/ready ## The benchmarks of one reward model; RM=folder or hub id (BENCH=some,of,them): of an existing one, doctor first
	$(if $(RM),$(PY) scripts/eval.py rm=$(RM) $(if $(BENCH),bench=$(BENCH)) scale=$(SCALE) $(ARGS),$(STAGE) stage=bench)

best-of-n: .venv/ready ## Gold reward of what a reward model picks among N samples of the SFT model: make best-of-n ARGS='loss=norm_bt'
	$(STAGE) stage=best_of_n

prefetch: .venv/ready ## Models and data of the hub that TABLE lacks, sizes first; or MODEL=id@revision, DATASET=id@revision
	$(PY) scripts/prefetch.py $(if $(MODEL)$(DATASET),repository=$(if $(MODEL),models/$(MODEL),datasets/$(DATASET)) $(if $(SPLIT),split=$(SPLIT)) $(if $(CONFIG),config=$(CONFIG)) $(if $(FILE),file=$(FILE)),table=$(TABLE) scale=$(SCALE)) $(ARGS)

doctor: .venv/ready ## Can scores of RM=folder or hub id be trusted? DATA=my.jsonl: lengths and ties on your own texts; ARGS=--json
	@$(PY) scripts/doctor.py rm=$(RM) $(if $(DATA),data=$(DATA)) $(ARGS)

score: .venv/ready ## Rewards of RM=folder or hub id for DATA=my.jsonl, into my.rewards.jsonl
	$(PY) scripts/score_data.py rm=$(RM) data=$(DATA) $(ARGS)

audit: .venv/ready ## Preference data DATA=my.jsonl: unreadable rows, identical and contradicting pairs, length, repeats
	@$(PY) scripts/audit.py data=$(DATA) $(ARGS)

leak: .venv/ready ## Benchmark prompts that nearly repeat training prompts, and scores without them; ARGS='rm=FOLDER loss=bt seed=0'
	@$(PY) scripts/leak.py scale=$(SCALE) $(ARGS)

alpaca: .venv/ready ## The win rate of one policy
	$(STAGE) stage=alpaca_eval

card: .venv/ready ## The data card of the micro world into results/world/
	$(PY) scripts/card.py scale=$(SCALE) $(ARGS)

try: .venv/ready ## Ask: gold explained, policies' answers, rewards; ARGS='prompt="What is 72 + 6?" response="It is 78."'
	@$(PY) scripts/try.py scale=$(SCALE) table=$(TABLE) $(ARGS)

verify: .venv/ready ## Re-read every artefact; damaged ones are no longer done
	$(TABLES) table=$(TABLE) action=verify

verify-scorers: .venv/ready ## Published numbers beside ours; REWARD_REFERENCE=<folder> checks all of them
	$(PY) scripts/verify_scorers.py $(if $(REWARD_REFERENCE),reference=$(REWARD_REFERENCE))

gc: .venv/ready ## What no table reaches; ARGS=yes=true deletes it
	$(TABLES) table=$(TABLE) action=gc

wandb-sync: .venv/ready ## Upload runs made with log.mode=offline
	@shopt -s nullglob; runs=(results/runs/*/*/log/wandb/offline-run-*); [ $${#runs[@]} -gt 0 ] || { echo "no offline runs: make some with ARGS=log.mode=offline"; exit 1; }; .venv/bin/wandb sync "$${runs[@]}"

test: .venv/ready ## The fast tests
	$(PY) -m pytest -n 2 --dist loadfile -m 'not slow and not slurm'

test-slow: .venv/ready ## The kill tests
	$(PY) -m pytest -m slow

test-slurm: .venv/ready ## Against a SLURM of its own; its programs: tests/slurm/start-slurm start --install
	$(PY) -m pytest -m slurm tests/slurm

lint: .venv/ready ## ruff and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

bench: .venv/ready ## Measure, write docs/performance.md; BENCH=name for one
	$(PY) -m benchmarks $(BENCH)

docs: .venv/ready ## docs/losses.md from the losses and their settings
	$(PY) scripts/losses.py

readme: ## The current result table into README.md
	$(PYTHON) scripts/readme.py

clean-runs: ## Delete results/runs; say YES=1
	@[ "$(YES)" = 1 ] || { du -sh results/runs 2>/dev/null || true; echo "make clean-runs YES=1 deletes it"; exit 1; }
	rm -rf results/runs

.PHONY: help setup smoke reproduce settings status wait logs cancel retry doctor-slurm render claims report verify-scorers sft rm rloo eval best-of-n doctor score audit leak alpaca card try verify gc wandb-sync test test-slow test-slurm lint bench docs readme clean-runs figures prefetch
