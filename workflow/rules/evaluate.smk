"""Answers, generated once, and their scores, computed again whenever a parser changes."""


rule generate_group:
    input:
        ancient(study_run.group_inputs),
    output:
        temp(touch(GROUP_DONE)),
    log:
        "logs/generate_group/{group}.log",
    benchmark:
        "logs/generate_group/{group}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **study_run.resources_of("generate_group"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        device=DEVICE,
        machine=study_run.machine_options_of("generate_group"),
        answers=study_run.group_fingerprints,
    message:
        "Evaluating models at one load of their base: {params.answers}"
    shell:
        "{params.pipeline} generate-group {params.answers} {params.study} {params.device} {params.machine} > {log:q} 2>&1"


# where these jobs only rename what a group has written
if "generate" in study_run.local_rules:

    localrules:
        generate,


rule generate:
    input:
        ancient(study_run.generation_inputs),
    output:
        directory("results/answers/{run}/{fingerprint}"),
        study_run.records_of("generate", "results/answers/{run}/{fingerprint}"),
    log:
        "logs/generate/{run}/{fingerprint}.log",
    benchmark:
        "logs/generate/{run}/{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **study_run.resources_of("generate"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        device=DEVICE,
        machine=study_run.machine_options_of("generate"),
    message:
        "Evaluating {wildcards.run}"
    shell:
        "{params.pipeline} generate {wildcards.fingerprint} {params.study} {params.device} {params.machine} > {log:q} 2>&1"


# Answers made elsewhere: no model is loaded, so the job needs no GPU.
rule tie:
    input:
        ancient(inputs_of("generate")),
    output:
        directory("results/answers/references/{run}/{fingerprint}"),
    log:
        "logs/tie/{run}/{fingerprint}.log",
    benchmark:
        "logs/tie/{run}/{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Tying the answers of {wildcards.run} to our examples"
    shell:
        "{params.pipeline} generate {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


# Answers of models behind an endpoint: the job waits for responses and computes nothing. It runs where snakemake does, since
# nodes of a cluster mostly have no network.
rule query:
    input:
        ancient(inputs_of("generate")),
    output:
        directory("results/answers/{run}/{fingerprint}"),
    log:
        "logs/query/{run}/{fingerprint}.log",
    benchmark:
        "logs/query/{run}/{fingerprint}.tsv"
    wildcard_constraints:
        run=study_run.endpoints,
    conda:
        "../envs/pipeline.yaml"
    resources:
        **study_run.endpoint_resources("run"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        machine=MACHINE,
    message:
        "Getting the answers of {wildcards.run} from its endpoint"
    shell:
        "{params.pipeline} generate {wildcards.fingerprint} {params.study} {params.machine} > {log:q} 2>&1"


ruleorder: tie > query > generate


rule score:
    input:
        ancient(inputs_of("score")),
    output:
        "results/scores/{run}/{fingerprint}.json",
    log:
        "logs/score/{run}/{fingerprint}.log",
    benchmark:
        "logs/score/{run}/{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Scoring {wildcards.run}"
    shell:
        "{params.pipeline} score {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule all_generate:
    input:
        study.paths("generate"),


rule all_score:
    input:
        study.paths("score"),
