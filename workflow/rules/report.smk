"""Tables, figures and the page. The fingerprint is in the name of the report's manifest: a missing file means a stale report."""


rule report:
    input:
        ancient(inputs_of("report")),
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
        study=STUDY,
    message:
        "Writing reports/{wildcards.study}/index.html"
    shell:
        "{params.pipeline} report {wildcards.fingerprint} {params.study} > {log:q} 2>&1"


rule all_report:
    input:
        study.paths("report"),
