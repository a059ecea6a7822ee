"""Datasets, their prompts, and what the training sets hold of the tests."""


rule fetch:
    output:
        "data/raw/{dataset}/{split}-{fingerprint}.jsonl",
    log:
        "logs/fetch/{dataset}-{split}-{fingerprint}.log",
    benchmark:
        "logs/fetch/{dataset}-{split}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    message:
        "Fetching {wildcards.dataset}, {wildcards.split}"
    shell:
        "{PIPELINE} fetch {wildcards.fingerprint} {STUDY} {DATA_ROOT} > {log} 2>&1"


rule prompts:
    input:
        ancient(made_from("prompts")),
    output:
        "data/prompts/{dataset}/{split}-{template}-{fingerprint}.parquet",
    log:
        "logs/prompts/{dataset}-{split}-{template}-{fingerprint}.log",
    benchmark:
        "logs/prompts/{dataset}-{split}-{template}-{fingerprint}.tsv"
    wildcard_constraints:
        split="[a-z]+",
    conda:
        "../envs/pipeline.yaml"
    message:
        "Writing the prompts of {wildcards.dataset}, {wildcards.split}"
    shell:
        "{PIPELINE} prompts {wildcards.fingerprint} {STUDY} > {log} 2>&1"


rule audit:
    input:
        ancient(made_from("audit")),
    output:
        "results/audit/{trainset}/{task}-{fingerprint}.json",
    log:
        "logs/audit/{trainset}-{task}-{fingerprint}.log",
    benchmark:
        "logs/audit/{trainset}-{task}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    message:
        "Looking for questions of {wildcards.task} in {wildcards.trainset}"
    shell:
        "{PIPELINE} audit {wildcards.fingerprint} {STUDY} > {log} 2>&1"


rule all_fetch:
    input:
        study.paths("fetch"),


rule all_prompts:
    input:
        study.paths("prompts"),


rule all_audit:
    input:
        study.paths("audit"),
