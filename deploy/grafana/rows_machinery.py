"""What the dashboard shows last: backends, and what Upshift itself costs."""

from __future__ import annotations

from panels import Panel, Query, quantiles

MACHINERY: list[tuple[str, list[Panel]]] = [
    (
        "Backends",
        [
            Panel(
                "Up",
                [Query("min by (tier) (upshift_backend_up{@})", "{{tier}}")],
                "short",
                "state-timeline",
                6,
                steps=[(None, "red"), (1, "green")],
            ),
            Panel(
                "Circuits open",
                [Query("max by (tier) (upshift_circuit_open{@})", "{{tier}}")],
                width=6,
                bounds=(0, None),
            ),
            Panel(
                "Calls",
                [
                    Query(
                        "sum by (tier, outcome) (rate(upshift_backend_requests_total{@}[$__rate_interval]))",
                        "{{tier}} {{outcome}}",
                    )
                ],
                "reqps",
                width=6,
                stack=True,
            ),
            Panel("Seconds a call", quantiles("backend_seconds", "tier"), "s", width=6),
            Panel(
                "Repeats",
                [
                    Query(
                        "sum by (tier) (rate(upshift_backend_retries_total{@}[$__rate_interval]))", "{{tier}}"
                    )
                ],
                "reqps",
                width=12,
            ),
            Panel(
                "Races",
                [
                    Query(
                        "sum by (outcome) (rate(upshift_hedges_total{@}[$__rate_interval])) or vector(0)",
                        "{{outcome}}",
                    )
                ],
                "reqps",
                width=12,
                help="Strong started early: won, lost, or denied by the budget.",
            ),
        ],
    ),
    (
        "Upshift's own work",
        [
            Panel(
                "Overhead by stage, p95",
                [
                    Query(
                        "histogram_quantile(0.95, sum by (le, stage) (rate(upshift_overhead_seconds_bucket{@}"
                        "[$__rate_interval])))",
                        "{{stage}}",
                    )
                ],
                "s",
                width=6,
                help="`total` is all that no backend did.",
            ),
            Panel("Scorers: seconds a batch", quantiles("scorer_seconds", "scorer"), "s", width=6),
            Panel(
                "Scorers: texts a batch",
                [
                    Query(
                        "sum by (scorer) (rate(upshift_scorer_batch_size_sum{@}[$__rate_interval]))"
                        " / sum by (scorer) (rate(upshift_scorer_batch_size_count{@}[$__rate_interval]))",
                        "{{scorer}}",
                    )
                ],
                width=6,
            ),
            Panel(
                "Cache hits",
                [
                    Query(
                        "sum by (cache) "
                        '(rate(upshift_cache_requests_total{@,result="hit"}[$__rate_interval]))'
                        " / sum by (cache) (rate(upshift_cache_requests_total{@}[$__rate_interval]))",
                        "{{cache}}",
                    )
                ],
                "percentunit",
                width=6,
                bounds=(0, 1),
            ),
            Panel(
                "Scorers failing open",
                [
                    Query(
                        "sum by (scorer, reason) "
                        "(rate(upshift_fail_open_total{@}[$__rate_interval])) or vector(0)",
                        "{{scorer}} {{reason}}",
                    )
                ],
                "reqps",
                width=12,
                help="These answers are outside the certificate.",
            ),
            Panel(
                "Log rows lost",
                [Query("sum(increase(upshift_log_rows_dropped_total{@}[$__rate_interval]))", "rows")],
                width=12,
                bounds=(0, None),
            ),
        ],
    ),
]
