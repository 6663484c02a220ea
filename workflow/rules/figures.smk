rule draw:
    input:
        trajectories=f"{RESULTS}/trajectories.parquet",
        summary=f"{RESULTS}/summary.parquet",
        predictions=f"{RESULTS}/predictions.parquet",
        function=f"{RESULTS}/function.parquet",
    output:
        pdf=f"{RESULTS}/figures/figure2.pdf",
        png=report(
            f"{RESULTS}/figures/figure2.png",
            caption="../report/figure2.rst",
            category="Figures",
            labels=shown("distance to E along training", "image"),
        ),
        page=report(
            f"{RESULTS}/figures/figure2.html",
            caption="../report/figure2_page.rst",
            category="Figures",
            labels=shown("distance to E along training", "page to move about in"),
        ),
        function_pdf=f"{RESULTS}/figures/function.pdf",
        function_png=report(
            f"{RESULTS}/figures/function.png",
            caption="../report/function.rst",
            category="Figures",
            labels=shown("what a turn changes along training", "image"),
        ),
    log:
        f"{RESULTS}/logs/draw/figure2.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw/figure2.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        source=job_digest("draw"),
    message:
        "Draw figure 2, and the functions beside it"
    shell:
        "python -m equireg draw --trajectories {input.trajectories} --summary {input.summary}"
        " --predictions {input.predictions}"
        " --output {output.pdf} --output {output.png} --output {output.page}"
        " --function {input.function} --function-output {output.function_pdf}"
        " --function-output {output.function_png} > {log} 2>&1"


rule compare:
    input:
        evaluations=[
            f"{RESULTS}/evaluation.parquet",
            *(f"results/{name}/evaluation.parquet" for name in chosen.compare),
        ],
        critical=f"{RESULTS}/critical.parquet" if chosen.mark_critical else [],
    output:
        table=report(
            f"{RESULTS}/comparison.md",
            caption="../report/comparison_table.rst",
            category="Tables",
            labels=shown("trained networks against gamma", "Markdown"),
        ),
        pdf=f"{RESULTS}/figures/comparison.pdf",
        png=report(
            f"{RESULTS}/figures/comparison.png",
            caption="../report/comparison.rst",
            category="Figures",
            labels=shown("trained networks against gamma", "image"),
        ),
    log:
        f"{RESULTS}/logs/compare.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        tables=lambda wildcards, input: [
            f"--name {name} --evaluation {table}"
            for name, table in zip((of(wildcards).experiment, *chosen.compare), input.evaluations)
        ],
        critical=lambda wildcards, input: (f"--critical {input.critical}" if input.critical else ""),
        source=job_digest("compare"),
    message:
        f"Compare {', '.join((NAME, *chosen.compare))}"
    shell:
        "python -m equireg compare {params.tables} {params.critical} --output {output.table}"
        " --figure {output.pdf} --figure {output.png} > {log} 2>&1"
