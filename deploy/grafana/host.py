"""*Host and GPU*: what it runs on."""

from __future__ import annotations

from deploy.grafana.board import BYTES, SECONDS, SHARE, Board, Panel, Query, Row, query
from deploy.grafana.reasons import CERTIFICATES, GPU, NODE, WORKERS

DISKS = 'fstype!~"tmpfs|ramfs|overlay|squashfs"'

BOARD = Board(
    "host",
    "Host and GPU",
    "Processes by Prometheus's own client, machines by node-exporter, GPUs by dcgm-exporter.",
    (
        Row(
            "Replicas",
            (
                Panel(
                    "CPU", "Cores in use, by replica.",
                    query(
                        'sum by (instance) (rate(process_cpu_seconds_total{job="lazaret"}[$__rate_interval]))',
                        "{{instance}}",
                    ),
                ),
                Panel(
                    "Memory", "Resident, by replica.",
                    query('process_resident_memory_bytes{job="lazaret"}', "{{instance}}"), unit=BYTES,
                ),
                Panel(
                    "Open files", "Against their limit.",
                    query(
                        'process_open_fds{job="lazaret"} / process_max_fds{job="lazaret"}', "{{instance}}"
                    ),
                    unit=SHARE, bad=0.9,
                ),
                Panel(
                    "Up since", "By replica.",
                    query('time() - process_start_time_seconds{job="lazaret"}', "{{instance}}"),
                    unit=SECONDS,
                ),
                Panel(
                    "Worker processes", "That answer, and that were replaced in 15 minutes.",
                    (
                        Query('sum(lazaret_workers{job="lazaret"})', "workers"),
                        Query('sum(increase(lazaret_worker_restarts_total{job="lazaret"}[15m]))', "replaced"),
                    ),
                    needs=WORKERS,
                ),
                Panel(
                    "Certificates", "Time until each expires.",
                    query(
                        'min by (use) (lazaret_certificate_expiry_timestamp_seconds{job="lazaret"}) - time()',
                        "{{use}}",
                    ),
                    unit=SECONDS, needs=CERTIFICATES,
                ),
            ),
        ),
        Row(
            "Machine",
            (
                Panel(
                    "CPU", "Share in use, by machine.",
                    query(
                        '1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))',
                        "{{instance}}",
                    ),
                    unit=SHARE, needs=NODE, width=8,
                ),
                Panel(
                    "Memory left", "By machine.",
                    query("node_memory_MemAvailable_bytes", "{{instance}}"),
                    unit=BYTES, needs=NODE, width=8,
                ),
                Panel(
                    "Disks left", "Below 5 % pages.",
                    query(
                        f"min by (instance, mountpoint) (node_filesystem_avail_bytes{{{DISKS}}} "
                        f"/ node_filesystem_size_bytes{{{DISKS}}})",
                        "{{instance}} {{mountpoint}}",
                    ),
                    unit=SHARE, needs=NODE, width=8,
                ),
            ),
        ),
        Row(
            "GPU",
            (
                Panel(
                    "GPU in use", "By GPU.",
                    query("DCGM_FI_DEV_GPU_UTIL / 100", "{{Hostname}} {{gpu}}"),
                    unit=SHARE, needs=GPU,
                ),
                Panel(
                    "GPU memory", "Share in use; above 95 % is a ticket.",
                    query(
                        "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
                        "{{Hostname}} {{gpu}}",
                    ),
                    unit=SHARE, needs=GPU, bad=0.95,
                ),
            ),
        ),
    ),
)  # fmt: skip
