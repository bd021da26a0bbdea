"""What the dashboard shows first: traffic, plan, money, scores, what users feel, quality."""

from __future__ import annotations

from panels import Panel, Query, quantiles


def _heat(title: str, scorer: str, help: str) -> Panel:
    query = Query(
        f'sum by (le) (increase(upshift_score_bucket{{@,scorer="{scorer}"}}[$__rate_interval]))', "{{le}}"
    )
    return Panel(title, [query], "percentunit", "heatmap", 8, 9, help)


_GOOD_LOW = [(None, "green"), (0.01, "orange"), (0.05, "red")]
ROWS: list[tuple[str, list[Panel]]] = [
    (
        "At a glance",
        [
            Panel(
                "Requests a second",
                [Query("sum(rate(upshift_requests_total{@}[$__rate_interval]))")],
                "reqps",
                "stat",
                3,
                4,
                steps=[(None, "blue")],
                decimals=2,
            ),
            Panel(
                "Answered by strong",
                [
                    Query(
                        'sum(increase(upshift_decisions_total{@,decision=~"strong|escalated"}[$__range]))'
                        ' / sum(increase(upshift_decisions_total{@,decision!="pinned"}[$__range]))'
                    )
                ],
                "percentunit",
                "stat",
                3,
                4,
                "Share of routed answers, over the time shown.",
                steps=[(None, "blue")],
            ),
            Panel(
                "Planned",
                [Query('max(upshift_planned_strong_share{@,bound="expected"})')],
                "percentunit",
                "stat",
                3,
                4,
                "The same share on the calibration prompts.",
                steps=[(None, "#5a5a5a")],
            ),
            Panel(
                "Saved",
                [
                    Query(
                        "sum(increase(upshift_baseline_cost_usd_total{@}[$__range]))"
                        " - sum(increase(upshift_cost_usd_total{@}[$__range]))"
                    )
                ],
                "currencyUSD",
                "stat",
                3,
                4,
                "Always-strong minus what was paid, rejected answers included.",
                steps=[(None, "red"), (0, "green")],
            ),
            Panel(
                "Saved of always-strong",
                [
                    Query(
                        "1 - sum(increase(upshift_cost_usd_total{@}[$__range]))"
                        " / sum(increase(upshift_baseline_cost_usd_total{@}[$__range]))"
                    )
                ],
                "percentunit",
                "stat",
                3,
                4,
                steps=[(None, "red"), (0, "green")],
            ),
            Panel(
                "Failed",
                [
                    Query(
                        'sum(increase(upshift_requests_total{@,outcome=~"upstream_error|timeout|shed"}[$__range])'
                        " or vector(0))"
                        " / sum(increase(upshift_requests_total"
                        '{@,outcome!~"client_error|cancelled"}[$__range]))'
                    )
                ],
                "percentunit",
                "stat",
                3,
                4,
                "Errors, timeouts and shed requests; not clients' own mistakes.",
                steps=_GOOD_LOW,
            ),
            Panel(
                "99 % answered within",
                [
                    Query(
                        "histogram_quantile(0.99, sum by (le) "
                        "(increase(upshift_request_seconds_bucket{@}[$__range])))"
                    )
                ],
                "s",
                "stat",
                3,
                4,
                steps=[(None, "green"), (10, "orange"), (30, "red")],
            ),
            Panel(
                "Certificate ends in",
                [Query("(max(upshift_certificate_valid_until_seconds{@}) > 0) - time() or vector(0)")],
                "s",
                "stat",
                3,
                4,
                "Red: it has ended, by its date or by a drift alarm. None: the policy in force has none.",
                steps=[(None, "red"), (0, "orange"), (14 * 86_400, "green")],
                decimals=1,
                names={"0": ("none", "#5a5a5a")},
            ),
        ],
    ),
    (
        "Traffic and decisions",
        [
            Panel(
                "Decisions",
                [
                    Query(
                        "sum by (decision) (rate(upshift_decisions_total{@}[$__rate_interval]))",
                        "{{decision}}",
                    )
                ],
                "reqps",
                width=10,
                stack=True,
            ),
            Panel(
                "Strong answers against plan",
                [
                    Query("upshift:strong_share:ratio_rate30m", "now"),
                    Query("max by (bound) (upshift_planned_strong_share{@})", "{{bound}}"),
                ],
                "percentunit",
                width=8,
                bounds=(0, 1),
                help="Outside the band traffic or scorers have changed.",
            ),
            Panel(
                "Why",
                [Query("sum by (reason) (increase(upshift_decisions_total{@}[$__range]))", "{{reason}}")],
                "short",
                "bargauge",
                6,
                help="Decisions by reason over the time shown.",
                steps=[(None, "blue")],
            ),
            Panel(
                "Outcomes",
                [
                    Query(
                        "sum by (outcome) (rate(upshift_requests_total{@}[$__rate_interval]))", "{{outcome}}"
                    )
                ],
                "reqps",
                width=8,
                stack=True,
            ),
            Panel(
                "By API and strategy",
                [
                    Query(
                        "sum by (api, strategy) (rate(upshift_requests_total{@}[$__rate_interval]))",
                        "{{api}} {{strategy}}",
                    )
                ],
                "reqps",
                width=8,
                stack=True,
            ),
            Panel(
                "In flight",
                [Query("sum by (instance) (upshift_in_flight_requests{@})", "{{instance}}")],
                width=8,
                bounds=(0, None),
                help="What the autoscaler follows.",
            ),
        ],
    ),
    (
        "Money",
        [
            Panel(
                "Cost against always-strong",
                [
                    Query("3600 * sum(rate(upshift_cost_usd_total{@}[$__rate_interval]))", "upshift"),
                    Query(
                        "3600 * sum(rate(upshift_baseline_cost_usd_total{@}[$__rate_interval]))",
                        "always strong",
                    ),
                ],
                "currencyUSD",
                width=8,
                help="US dollars an hour.",
            ),
            Panel(
                "Cost by tier",
                [
                    Query(
                        "3600 * sum by (tier) (rate(upshift_cost_usd_total{@}[$__rate_interval]))", "{{tier}}"
                    )
                ],
                "currencyUSD",
                width=8,
                stack=True,
                help="US dollars an hour, rejected answers included.",
            ),
            Panel(
                "Tokens that nobody saw",
                [
                    Query(
                        'sum by (tier) (rate(upshift_tokens_total{@,served="false"}[$__rate_interval]))',
                        "{{tier}}",
                    )
                ],
                "short",
                width=8,
                help="Tokens a second of rejected and abandoned answers.",
            ),
        ],
    ),
    (
        "Scores",
        [
            _heat(
                "P(strong should answer), pre-router",
                "mf",
                "Calibrated; what lies above the threshold shifts up.",
            ),
            _heat(
                "Difficulty",
                "difficulty",
                "Calibrated P(strong should answer) of the prompt classifier, where a rule asks for it.",
            ),
            _heat("P(adequate), evaluator", "evaluator", "Calibrated, of answers that were judged."),
        ],
    ),
    (
        "What users feel",
        [
            Panel(
                "Time to first token by decision", quantiles("time_to_first_token_seconds", "decision"), "s"
            ),
            Panel("Whole request", quantiles("request_seconds"), "s"),
            Panel("Whole request by decision", quantiles("request_seconds", "decision"), "s"),
        ],
    ),
    (
        "Is it still good?",
        [
            Panel(
                "Quality of strong's",
                [Query("min by (bound) (upshift_live_quality{@})", "{{bound}}")],
                "percentunit",
                help="From judged shadow answers, with its interval.",
            ),
            Panel(
                "Drift",
                [Query("max by (signal) (upshift_drift{@})", "{{signal}}")],
                bounds=(0, None),
                help="Distance from the calibration prompts; above 0.25 is an alert.",
            ),
            Panel(
                "Shadow answers",
                [
                    Query(
                        "sum by (outcome) (rate(upshift_shadow_total{@}[$__rate_interval])) or vector(0)",
                        "{{outcome}}",
                    )
                ],
                "reqps",
                help="`ok`: strong was asked too; `strong_answered`: it had answered; the rest: dropped.",
            ),
            Panel(
                "Feedback",
                [
                    Query(
                        "sum by (decision, rating) (rate(upshift_feedback_total{@}[$__rate_interval]))"
                        " or vector(0)",
                        "{{decision}} {{rating}}",
                    )
                ],
                "reqps",
                help="Ratings by clients, who choose what they rate: no part of the quality beside it.",
            ),
            Panel(
                "On trial",
                [
                    Query(
                        "sum by (arm, result) (rate(upshift_canary_requests_total{@}[$__rate_interval]))"
                        " or vector(0)",
                        "{{arm}} {{result}}",
                    )
                ],
                "reqps",
                help="By who decides, the bundle in force or the one on trial, and how they end.",
            ),
            Panel(
                "Share on trial",
                [
                    Query("max(upshift_canary_share{@})", "share"),
                    Query("max(upshift_canary_rolled_back{@})", "rolled back"),
                ],
                "percentunit",
                bounds=(0, 1),
                help="Of sessions that the bundle on trial decides for; rolled back: it was sent back.",
            ),
        ],
    ),
]
