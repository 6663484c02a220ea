rule aggregate:
    input:
        trajectories=blocks_of("parquet"),
        evaluations=blocks_of("evaluation.parquet"),
        functions=blocks_of("function.parquet"),
        ensembles=lambda wildcards: [
            f"{results_of(wildcards)}/{group[0].path.parent}/{ENSEMBLES}"
            for group in conditions(of(wildcards).grid).values()
        ],
    output:
        trajectories=f"{RESULTS}/trajectories.parquet",
        summary=f"{RESULTS}/summary.parquet",
        evaluation=f"{RESULTS}/evaluation.parquet",
        ensembles=f"{RESULTS}/{ENSEMBLES}",
        function=f"{RESULTS}/function.parquet",
    log:
        f"{RESULTS}/logs/aggregate.log",
    benchmark:
        f"{RESULTS}/benchmarks/aggregate.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 3000,
        runtime=lambda wildcards, attempt: attempt * 60,
    params:
        # the folder and the grid: the names of thousands of blocks would not fit into a command
        experiment=lambda wildcards, output: Path(output.summary).parent,
        options=options_of("grid"),
        source=job_digest("aggregate"),
    message:
        f"Aggregate the runs of {NAME} into its tables"
    shell:
        "python -m equireg aggregate --experiment {params.experiment} {params.options}"
        " > {log} 2>&1"


rule check:
    input:
        trajectories=f"{RESULTS}/trajectories.parquet",
        summary=f"{RESULTS}/summary.parquet",
        evaluation=f"{RESULTS}/evaluation.parquet",
        numbers=str(HERE / "workflow/authors.json"),
    output:
        claims=report(
            f"{RESULTS}/claims.md",
            caption="../report/claims.rst",
            category="Tables",
            labels=shown("the paper's claims, checked", "Markdown"),
        ),
    log:
        f"{RESULTS}/logs/check.log",
    benchmark:
        f"{RESULTS}/benchmarks/check.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # which say whether the authors' numbers are of the same experiment
        options=options_of("data", "network", "training"),
        source=job_digest("check"),
    message:
        "Check what the paper says of its figure"
    shell:
        "python -m equireg check --trajectories {input.trajectories} --summary {input.summary}"
        " --evaluation {input.evaluation} --numbers {input.numbers} {params.options}"
        " --output {output.claims} > {log} 2>&1"
