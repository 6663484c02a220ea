# Once `make theory` has been called, its table is a part of the result and kept up to date with it.
THEORY = [name for name in [f"{RESULTS}/theory.md"] if Path(name).is_file()]


rule overview:
    input:
        figure=f"{RESULTS}/figures/figure2.png",
        documents=[f"{RESULTS}/claims.md", f"{RESULTS}/comparison.md", *THEORY],
    output:
        page=report(
            f"{RESULTS}/overview.html",
            caption="../report/overview.rst",
            category="Result",
            labels=shown("figure, claims and numbers", "page"),
        ),
    log:
        f"{RESULTS}/logs/overview.log",
    benchmark:
        f"{RESULTS}/benchmarks/overview.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        experiment=lambda wildcards: of(wildcards).experiment,
        documents=lambda wildcards, input: [f"--document {name}" for name in input.documents],
        source=job_digest("overview"),
    message:
        "Write the overview"
    shell:
        "python -m equireg overview --experiment {params.experiment} --figure {input.figure}"
        " {params.documents} --output {output.page} > {log} 2>&1"
