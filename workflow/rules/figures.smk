rule draw:
    input:
        trajectories=f"{RESULTS}/trajectories.parquet",
        summary=f"{RESULTS}/summary.parquet",
    output:
        pdf=f"{RESULTS}/figures/figure2.pdf",
        png=report(f"{RESULTS}/figures/figure2.png", category="Figures"),
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
        # the settings spell the gammas that it shows
        source=source_digest("equireg.jobs.draw", "equireg.settings"),
    message:
        "Draw figure 2"
    shell:
        "python -m equireg draw --trajectories {input.trajectories} --summary {input.summary}"
        " --output {output.pdf} --output {output.png} > {log} 2>&1"
