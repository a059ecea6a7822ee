"""Tables, figures and the page. The report's manifest carries its fingerprint: a missing one means out of date."""


rule report:
    input:
        ancient(made_from("report")),
    output:
        "reports/{study}/manifest-{fingerprint}.json",
    log:
        "logs/report/{study}-{fingerprint}.log",
    benchmark:
        "logs/report/{study}-{fingerprint}.tsv"
    conda:
        "../envs/pipeline.yaml"
    params:
        pipeline=PIPELINE,
    message:
        "Writing reports/{wildcards.study}/index.html"
    shell:
        "{params.pipeline} report {wildcards.fingerprint} --study {wildcards.study} > {log} 2>&1"


rule all_report:
    input:
        study.paths("report"),
