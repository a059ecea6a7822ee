"""Training sets that a teacher writes: its answers, and what is left of them."""


rule distill:
    input:
        ancient(inputs_of("distill")),
    output:
        directory("results/distilled/answers/{teacher}/{dataset}/{fingerprint}"),
        study_run.records_of(
            "distill", "results/distilled/answers/{teacher}/{dataset}/{fingerprint}"
        ),
    log:
        "logs/distill/{teacher}/{dataset}-{fingerprint}.log",
    benchmark:
        "logs/distill/{teacher}/{dataset}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **study_run.resources_of("distill"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        device=DEVICE,
        machine=study_run.machine_options_of("distill"),
    message:
        "Answering the training questions of {wildcards.dataset} with {wildcards.teacher}"
    shell:
        "{params.pipeline} distill {wildcards.fingerprint} {params.study} {params.device} {params.machine} > {log:q} 2>&1"


# Answers of a teacher behind an endpoint: like those of the rule query.
rule query_teacher:
    input:
        ancient(inputs_of("distill")),
    output:
        directory("results/distilled/answers/{teacher}/{dataset}/{fingerprint}"),
    log:
        "logs/query_teacher/{teacher}/{dataset}-{fingerprint}.log",
    benchmark:
        "logs/query_teacher/{teacher}/{dataset}-{fingerprint}.tsv"
    wildcard_constraints:
        teacher=study_run.endpoint_teachers,
    conda:
        "../envs/pipeline.yaml"
    resources:
        **study_run.endpoint_resources("teacher"),
    params:
        pipeline=PIPELINE,
        study=STUDY,
        machine=MACHINE,
    message:
        "Getting rationales to {wildcards.dataset} from the endpoint of {wildcards.teacher}"
    shell:
        "{params.pipeline} distill {wildcards.fingerprint} {params.study} {params.machine} > {log:q} 2>&1"


ruleorder: query_teacher > distill


# No model is loaded, so the job needs no GPU.
rule distilled_set:
    input:
        ancient(inputs_of("distill")),
    output:
        directory("results/distilled/sets/{dataset}/{fingerprint}"),
    log:
        "logs/distilled_set/{dataset}-{fingerprint}.log",
    benchmark:
        "logs/distilled_set/{dataset}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
        study=STUDY,
    message:
        "Judging the answers that {wildcards.dataset} is made of"
    shell:
        "{params.pipeline} distill {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule all_distill:
    input:
        study.paths("distill"),
