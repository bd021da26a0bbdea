"""The Ray job: well formed, of the Ray that is pinned, and a command line that our parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from trainer.cli_collect import read_options


def test_the_job_runs_a_command_there_is_on_the_ray_that_is_pinned(repository: Path) -> None:
    job = yaml.safe_load((repository / "deploy/ray/collect-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("upshift", "collect")
    options = read_options(arguments)
    options.check()
    assert options.engine == "ray"
    assert [endpoint.tier for endpoint in options.models] == ["weak", "strong"]
    cluster = job["spec"]["rayClusterSpec"]
    pins = (repository / "requirements/constraints.txt").read_text()
    pinned = re.search(r"^ray==(.+)$", pins, re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    head = cluster["headGroupSpec"]["template"]["spec"]
    mounted = head["containers"][0]["volumeMounts"][0]
    assert str(options.out).startswith(mounted["mountPath"] + "/")
    assert mounted["name"] == head["volumes"][0]["name"]
    groups = [head, *(group["template"]["spec"] for group in cluster["workerGroupSpecs"])]
    assert all(g["containers"][0]["envFrom"][0]["secretRef"]["name"] == "upshift-keys" for g in groups)
