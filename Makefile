# The menu. Every target works on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := runs

.PHONY: help demo test lint types format zoo evaluate reproduce evaluate-smoke bench bench-detectors bench-queries bench-monitoring bench-serving bench-dicom pacs-kills docs secrets rehearse-image sbom protocol clean

help: ## show this menu
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.base ## guard the chest phantom: clean, degraded and attacked files over HTTP
	$(BIN)/lazaret demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.kserve ## lint, types, the whole test suite and the release gate
	$(MAKE) lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal $(ARGS)
	$(MAKE) evaluate-smoke

lint: $(VENV)/.dev ## ruff: style and known mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

zoo: $(VENV)/.dev ## make the phantom model, its guard and the demo's files again (about 15 minutes)
	rm -rf $(RUN)/zoo && mkdir -p $(RUN)/zoo
	$(BIN)/lazaret phantom dataset --out $(RUN)/zoo/data --images 8000 --size 128
	$(BIN)/lazaret train --data $(RUN)/zoo/data --out $(RUN)/zoo/phantom --name phantom --size 128 \
		--widths 16,32,64,96 --blocks 1,1,1,1 --epochs 16 --licence "Apache-2.0 (made by this project)"
	$(BIN)/lazaret fit --model $(RUN)/zoo/phantom --data $(RUN)/zoo/data --out $(RUN)/zoo/bundle \
		--reject 0.005 --quality 0.005 --fit-images 80 --attack-images 80
	$(BIN)/lazaret phantom demo-images --model $(RUN)/zoo/phantom --out $(RUN)/zoo/demo
	rm -rf models/zoo/phantom && mv $(RUN)/zoo/phantom models/zoo/phantom
	mv $(RUN)/zoo/bundle $(RUN)/zoo/demo models/zoo/phantom/

evaluate: $(VENV)/.dev ## fit and judge the chest X-ray guard on $$LAZARET_DATA (about 30 minutes)
	@test -d "$(LAZARET_DATA)/cxr_kermany" || { echo "set LAZARET_DATA to a folder that holds cxr_kermany"; exit 2; }
	rm -rf $(RUN)/chest-xray
	$(BIN)/lazaret fit --model chest-xray --data $(LAZARET_DATA)/cxr_kermany --out $(RUN)/chest-xray
	$(BIN)/lazaret evaluate --bundle $(RUN)/chest-xray --data $(LAZARET_DATA)/cxr_kermany \
		--other $(LAZARET_DATA)/cxr_hannover_covid --other $(LAZARET_DATA)/derm_isic2017 \
		--other $(LAZARET_DATA)/fundus_idrid --images 220 --out docs/results/chest-xray

reproduce: $(VENV)/.dev ## Ma et al. (2021) on four modalities of $$LAZARET_DATA (trains three models; hours)
	$(BIN)/lazaret reproduce --data $(LAZARET_DATA) --out $(RUN)/reproduction

# GATE=--write, at a release: its numbers are what the next one is held against
evaluate-smoke: $(VENV)/.dev ## fail when the phantom guard lets more by than at the last release
	rm -rf $(RUN)/smoke
	$(BIN)/lazaret phantom dataset --out $(RUN)/smoke --images 700 --seed 41
	$(BIN)/lazaret gate --bundle models/zoo/phantom/bundle --data $(RUN)/smoke \
		--baseline docs/results/release_gate.json $(GATE)

bench-detectors: $(VENV)/.dev ## what every detector adds: alone, fused, in the graph (needs $$LAZARET_DATA; ten minutes)
	PYTHONPATH=. $(BIN)/python benchmarks/detector_evidence.py --data $(LAZARET_DATA) --out docs/results/detectors.md

bench: $(VENV)/.peers ## cost of the guard; attacks beside other libraries (needs $$LAZARET_DATA; an hour)
	$(BIN)/python -m benchmarks.guard_cost --models chest-xray,resnet18 --rounds 60 --out docs/results/guard_cost.md
	$(BIN)/python benchmarks/attack_speed.py --out docs/results/attack_speed.md
	$(BIN)/python benchmarks/dicom_render.py --out docs/results/dicom_render.md
	rm -rf $(RUN)/nine-findings
	$(BIN)/python benchmarks/nine_findings.py --data $(LAZARET_DATA) --out $(RUN)/nine-findings
	$(BIN)/lazaret phantom dataset --out $(RUN)/bench-phantoms --images 2000 --size 128
	$(BIN)/python -m benchmarks.agreement --model phantom --data $(RUN)/bench-phantoms --images 50 \
		--json $(RUN)/two-classes.json
	$(BIN)/python -m benchmarks.agreement --model $(RUN)/nine-findings/model \
		--data $(RUN)/nine-findings/data --images 50 --json $(RUN)/nine-classes.json
	$(BIN)/python -m benchmarks.agreement --rows $(RUN)/two-classes.json \
		--rows $(RUN)/nine-classes.json --page docs/results/attacks.md

pacs-kills: $(VENV)/.dev ## kill the PACS node 20 times: nothing lost, nothing twice (needs dcmtk, Orthanc; an hour)
	$(BIN)/python benchmarks/pacs_kills.py --out docs/results/pacs_kills.md

# each peer in an environment of its own: their dependencies contradict one another and ours
bench-serving: $(VENV)/.dev ## serving beside other model servers, with wrk (installs them; half an hour)
	for peer in litserve mosec mlserver bentoml kserve 'ray[serve]' 'fastapi uvicorn uvloop httptools'; do \
		name=$$(echo $$peer | sed 's/\[.*//; s/ .*//; s/fastapi/plain/'); \
		test -d $(RUN)/peers/$$name || { $(PYTHON) -m venv $(RUN)/peers/$$name && \
		$(RUN)/peers/$$name/bin/pip install -q $$peer onnxruntime pillow numpy python-multipart; }; done
	$(BIN)/python -m benchmarks.serving --out docs/results/serving.md
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.serving.stages --out docs/results/serving_stages.md
	$(BIN)/python -m benchmarks.serving.idle --out docs/results/serving_idle.md
	$(BIN)/python -m benchmarks.serving.larger --peers $(RUN)/peers --out docs/results/serving_larger.md
	$(BIN)/python -m benchmarks.serving.scaling --out docs/results/serving_scaling.md

bench-monitoring: $(VENV)/.dev ## how soon a drift is told; what metrics cost (ten minutes)
	$(BIN)/python benchmarks/drift_delay.py --out docs/results/drift.md
	$(BIN)/python benchmarks/metrics_cost.py --out docs/results/metrics_cost.md

bench-dicom: $(VENV)/.dev ## receiving DICOM beside dcmtk, pynetdicom and Orthanc (ten minutes)
	PYTHONPATH=. $(BIN)/python benchmarks/dicom_receive.py --rounds 3 --count 100 --out docs/results/dicom_receive.md

bench-queries: $(VENV)/.dev ## the query history: attacks, benign patterns, fingerprints, disguises, cost (needs redis-server; an hour)
	$(BIN)/lazaret phantom dataset --out $(RUN)/query-phantoms --images 1500 --seed 7
	$(BIN)/python -m benchmarks.query_attacks --model phantom --data $(RUN)/query-phantoms --short 24 \
		--full-images 12 --full 150 --page $(RUN)/query_attacks.md
	$(BIN)/python -m benchmarks.query_adaptive --model phantom --data $(RUN)/query-phantoms \
		--page $(RUN)/query_adaptive.md
	$(BIN)/python -m benchmarks.query_benign --model phantom --requests 37000 --page $(RUN)/query_benign.md
	cat $(RUN)/query_attacks.md $(RUN)/query_adaptive.md $(RUN)/query_benign.md
	$(BIN)/python -m benchmarks.query_fingerprints --model phantom --data $(RUN)/query-phantoms \
		--page docs/results/query_fingerprints.md
	$(BIN)/python -m benchmarks.query_disguises --data $(RUN)/query-phantoms \
		--page docs/results/query_disguises.md
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/query_history_cost.py --out docs/results/query_history_cost.md

docs: $(VENV)/.dev ## write the pages that come from the code
	$(BIN)/python -m service.settings > docs/settings.md
	$(BIN)/python -m service.metrics > docs/metrics.md
	$(BIN)/python -m service.settings_example > deploy/lazaret.example.toml
	$(BIN)/python -m deploy.prometheus_rule > deploy/kubernetes/components/monitoring/prometheusrule.yaml
	$(BIN)/python -m deploy.grafana
	$(BIN)/python -m attacks.catalogue > docs/attack_list.md
	$(BIN)/python -m detectors.evaluation_schema > docs/evaluation.schema.json

.PHONY: pictures
pictures: $(VENV)/.dev ## draw the dashboards in docs/images from a minute of real traffic (needs prometheus)
	$(BIN)/python -m deploy.grafana.pictures --out docs/images --seconds 60

secrets: ## make the passwords and the API key that docker-compose.yml mounts, once
	$(PYTHON) deploy/make_secrets.py

rehearse-image: $(VENV)/.dev ## do what the image does without a container engine (needs a package index)
	$(BIN)/python -m deploy.rehearse

sbom: $(VENV)/.dev ## list what the image installs, as CycloneDX, in runs/sbom.cdx.json
	rm -rf $(RUN)/image && $(PYTHON) -m venv $(RUN)/image
	$(RUN)/image/bin/pip install -q -c constraints.txt '.[postgres,dicom,pacs,signing,grpc,otel,fast]'
	$(RUN)/image/bin/pip uninstall -q -y pip setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file $(RUN)/sbom.cdx.json $(RUN)/image/bin/python

protocol: $(VENV)/.dev ## make the Python of the gRPC protocol from its .proto again
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
		service/inference/protocol/open_inference.proto

clean: ## remove what was installed and built here
	rm -rf $(VENV) build dist *.egg-info $(RUN)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Lazaret needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

# KServe's client, to test with; it asks for an older protobuf than ours
$(VENV)/.kserve: $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/kserve
	$(VENV)/kserve/bin/python -m pip --disable-pip-version-check install -q kserve==0.21.0
	@touch $@

# libraries to compare with; without what they ask for, which would draw in other builds of torch
$(VENV)/.peers: $(VENV)/.dev
	$(PIP) install -q --no-deps torchattacks==3.5.1 pyautoattack==0.2.0 adv-lib==0.2.8
	$(PIP) install -q -c constraints.txt multiprocess requests
	@touch $@

# torch alone and first, so that nothing else draws in another build of it
$(VENV)/.dev: $(VENV)/.base
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[train,fast,dicom,grpc,otel,pacs,dev]'
	@touch $@
