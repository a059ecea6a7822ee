"""Names that all rules use: the study's run, its paths, and the options of the jobs."""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(str(workflow.current_basedir)).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pipeline.commands.run import job_lines
from pipeline.commands.run.deployment import kubernetes
from pipeline.commands.run.deployment.engine import read_engine
from pipeline.commands.run.workflow import GROUP_DONE, plan_run
from pipeline.params.templates import TEMPLATE_NAMES
from pipeline.results import closing, status

study_run = plan_run(config, root=ROOT, engine=read_engine(workflow, ROOT))
job_lines.summarize_plan(workflow.output_settings)
study = study_run.study
inputs_of = study_run.inputs_of

PIPELINE = study_run.command
STUDY = study_run.study_options
DATA_ROOT = f"--data-root {shlex.quote(str(config.get('data_root') or os.environ.get('PIPELINE_DATA_ROOT', '')))}"
DEVICE = f"--device {config.get('device', 'auto')}"
MACHINE = study_run.machine_options
PROCESSES = study_run.devices.processes
NODES = study_run.nodes
THREADS = study_run.machine.threads or 1


# Each is done in seconds: on a cluster they run beside snakemake, where the network is, and cost no submission.
localrules:
    fetch,
    prompts,
    audit,
    fetch_base,
    distilled_set,
    choose,
    tie,
    query,
    query_teacher,
    score,
    report,


# used with `--sdm apptainer` alone
container: study_run.image


# One job at a time uses an endpoint, so that its limits hold. No profile can know the addresses of a study's cards.
for resource, limit in study_run.endpoint_limits.items():
    workflow.register_resource(resource, limit)

shell.prefix(study_run.shell_prefix)


wildcard_constraints:
    fingerprint="[0-9a-f]{12}",
    group="[0-9a-f]{12}",
