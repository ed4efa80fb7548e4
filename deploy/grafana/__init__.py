"""Grafana's dashboards as code.

One file a dashboard says what it shows; ``board`` holds the words they use, ``render`` turns them
into Grafana's JSON with its own SDK. ``python -m deploy.grafana`` writes ``dashboards/``, which
Compose mounts and Kubernetes takes as ConfigMaps. Nobody edits the JSON.
"""
