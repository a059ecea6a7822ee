"""Base models and the adapters trained on them."""


rule base:
    input:
        ancient(inputs_of("base")),
    output:
        directory("results/bases/{model}/{fingerprint}"),
        study_run.records_of("base", "results/bases/{model}/{fingerprint}"),
    log:
        "logs/base/{model}-{fingerprint}.log",
    benchmark:
        "logs/base/{model}-{fingerprint}.tsv"
    wildcard_constraints:
        model=study_run.bases_of(pretrained=True),
    conda:
        "../envs/pipeline.yaml"
    resources:
        **study_run.resources_of("base"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        device=DEVICE,
        machine=MACHINE,
    message:
        "Preparing the base model {wildcards.model}"
    shell:
        "{params.pipeline} base {wildcards.fingerprint} {params.study} {params.device} {params.machine} > {log:q} 2>&1"


use rule base as fetch_base with:
    wildcard_constraints:
        model=study_run.bases_of(pretrained=False),


rule train:
    input:
        ancient(inputs_of("train")),
    output:
        directory(
            "results/adapters/{model}/{method}/{trainset}/seed{seed}/{fingerprint}"
        ),
        study_run.records_of(
            "train",
            "results/adapters/{model}/{method}/{trainset}/seed{seed}/{fingerprint}",
        ),
    log:
        "logs/train/{model}-{method}-{trainset}-seed{seed}-{fingerprint}.log",
    benchmark:
        "logs/train/{model}-{method}-{trainset}-seed{seed}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS * PROCESSES
    resources:
        **study_run.resources_of("train"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        device=DEVICE,
        machine=study_run.machine_options_of("train"),
        processes=PROCESSES,
        nodes=NODES,
    message:
        "Fine-tuning {wildcards.model} with {wildcards.method} on {wildcards.trainset}, seed {wildcards.seed}"
    shell:
        "exec {params.pipeline} train {wildcards.fingerprint} {params.study} {params.device} --processes {params.processes} --nodes {params.nodes} {params.machine} > {log:q} 2>&1"


rule combine:
    input:
        ancient(inputs_of("combine")),
    output:
        directory(
            "results/combined/{model}/{method}/{trainsets}/seed{seed}/{fingerprint}"
        ),
        study_run.records_of(
            "combine",
            "results/combined/{model}/{method}/{trainsets}/seed{seed}/{fingerprint}",
        ),
    log:
        "logs/combine/{model}-{method}-{trainsets}-seed{seed}-{fingerprint}.log",
    benchmark:
        "logs/combine/{model}-{method}-{trainsets}-seed{seed}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        **study_run.resources_of("combine"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        machine=MACHINE,
    message:
        "Combining adapters of {wildcards.model} as {wildcards.method}, seed {wildcards.seed}"
    shell:
        "{params.pipeline} combine {wildcards.fingerprint} {params.study} {params.machine} > {log:q} 2>&1"


# Between trainings: its inputs are those of trials, and the trainings of the study are made of it.
rule choose:
    input:
        ancient(inputs_of("choose")),
    output:
        "results/choices/{model}/{method}/{trainset}/{fingerprint}.json",
    log:
        "logs/choose/{model}-{method}-{trainset}-{fingerprint}.log",
    benchmark:
        "logs/choose/{model}-{method}-{trainset}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Choosing settings of {wildcards.model} with {wildcards.method} on {wildcards.trainset}"
    shell:
        "{params.pipeline} choose {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule all_base:
    input:
        study.paths("base"),


rule all_train:
    input:
        study.paths("train"),


rule all_combine:
    input:
        study.paths("combine"),


rule all_choose:
    input:
        study.paths("choose"),
