"""The dashboards as code. `ops/grafana/generate.py` writes their JSON."""
