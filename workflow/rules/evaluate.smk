"""Answers (once, on the GPU if there is one) and scores (again whenever a parser improves)."""


rule generate:
    input:
        ancient(made_from("generate")),
    output:
        directory("results/answers/{run}/{fingerprint}"),
    log:
        "logs/generate/{run}/{fingerprint}.log",
    benchmark:
        "logs/generate/{run}/{fingerprint}.tsv"
    resources:
        gpu=1,
    conda:
        "../envs/pipeline.yaml"
    message:
        "Asking {wildcards.run}"
    shell:
        "{PIPELINE} generate {wildcards.fingerprint} {STUDY} {MACHINE} > {log} 2>&1"


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
    message:
        "Scoring {wildcards.run}"
    shell:
        "{PIPELINE} score {wildcards.fingerprint} {STUDY} > {log} 2>&1"


rule all_generate:
    input:
        study.paths("generate"),


rule all_score:
    input:
        study.paths("score"),
