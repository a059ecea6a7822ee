"""Datasets, their prompts, and the audit of test questions in the training sets."""


rule fetch:
    output:
        "data/raw/{dataset}/{split}-{fingerprint}.jsonl",
    log:
        "logs/fetch/{dataset}-{split}-{fingerprint}.log",
    benchmark:
        "logs/fetch/{dataset}-{split}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
        data_root=DATA_ROOT,
    message:
        "Fetching {wildcards.dataset}, {wildcards.split}"
    shell:
        "{params.pipeline} fetch {wildcards.fingerprint} {params.study} {params.data_root} > {log:q} 2>&1"


rule prompts:
    input:
        ancient(inputs_of("prompts")),
    output:
        "data/prompts/{dataset}/{split}-{template}-{fingerprint}.parquet",
    log:
        "logs/prompts/{dataset}-{split}-{template}-{fingerprint}.log",
    benchmark:
        "logs/prompts/{dataset}-{split}-{template}-{fingerprint}.tsv"
    wildcard_constraints:
        template="|".join(TEMPLATE_NAMES),
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Writing the prompts of {wildcards.dataset}, {wildcards.split}"
    shell:
        "{params.pipeline} prompts {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule audit:
    input:
        ancient(inputs_of("audit")),
    output:
        "results/audit/{trainset}/{task}-{fingerprint}.json",
    log:
        "logs/audit/{trainset}-{task}-{fingerprint}.log",
    benchmark:
        "logs/audit/{trainset}-{task}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Looking for test questions in {wildcards.trainset}"
    shell:
        "{params.pipeline} audit {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule all_fetch:
    input:
        study.paths("fetch"),


rule all_prompts:
    input:
        study.paths("prompts"),


rule all_audit:
    input:
        study.paths("audit"),
