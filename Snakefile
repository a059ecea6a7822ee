"""One study, from its datasets to its report: fetch, prompts, audit, base, train, choose, distill, generate, score, report."""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


rule all:
    input:
        study.paths("report"),


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    study_run.start(
        [job.rule.name for job in workflow.dag.needrun_jobs()],
        device=config.get("device", "auto"),
        runs_here=workflow.local_exec,
        pods=kubernetes.read_pods(workflow),
    )
    job_lines.show_job_lines(study, workflow.output_settings)


onerror:
    job_lines.print_failures()


onsuccess:
    closing.print_closing(study)
    status.remind_of_commit(study)
