"""Answers (once, on the GPU if there is one) and scores (again whenever a parser improves)."""


rule ask:
    input:
        ancient(group_inputs),
    output:
        temp(touch(GROUP_DONE)),
    log:
        "logs/ask/{load}.log",
    benchmark:
        "logs/ask/{load}.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        gpu=1,
    params:
        pipeline=PIPELINE,
        study=STUDY,
        machine=MACHINE,
        answers=group_fingerprints,
    message:
        "Asking the models of one base at one load of it: {params.answers}"
    shell:
        "{params.pipeline} ask {params.answers} {params.study} {params.machine} > {log} 2>&1"


rule generate:
    input:
        ancient(made_from("generate")),
        ancient(group_before),
    output:
        directory("results/answers/{run}/{fingerprint}"),
    log:
        "logs/generate/{run}/{fingerprint}.log",
    benchmark:
        "logs/generate/{run}/{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        gpu=1,
    params:
        pipeline=PIPELINE,
        study=STUDY,
        machine=MACHINE,
    message:
        "Asking {wildcards.run}"
    shell:
        "{params.pipeline} generate {wildcards.fingerprint} {params.study} {params.machine} > {log} 2>&1"


rule score:
    input:
        ancient(made_from("score")),
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
        "{params.pipeline} score {wildcards.fingerprint} {params.study} > {log} 2>&1"


rule all_generate:
    input:
        study.paths("generate"),


rule all_score:
    input:
        study.paths("score"),
