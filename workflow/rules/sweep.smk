# All combinations of a sweep, in one table.
if chosen.sweep:

    rule sweep:
        input:
            evaluations=[f"results/{name}/evaluation.parquet" for name in POINTS],
            beside=[f"results/{name}/sweep.parquet" for name in chosen.compare],
        output:
            table=f"{SWEEP}/sweep.parquet",
            report=report(
                f"{SWEEP}/sweep.md",
                caption="../report/sweep_table.rst",
                category="Tables",
                labels={"shows": "every combination", "as": "Markdown"},
            ),
            pdf=f"{SWEEP}/figures/sweep.pdf",
            png=report(
                f"{SWEEP}/figures/sweep.png",
                caption="../report/sweep.rst",
                category="Figures",
                labels={"shows": "trained networks along each key", "as": "image"},
            ),
            # against gamma, where a mode has one
            gammas=(
                [
                    report(
                        f"{SWEEP}/figures/gammas.png",
                        caption="../report/sweep_gammas.rst",
                        category="Figures",
                        labels={"shows": "trained networks against gamma", "as": "image"},
                    ),
                    f"{SWEEP}/figures/gammas.pdf",
                ]
                if {"augmented", "nominal"} & {*chosen.grid.modes}
                else []
            ),
        log:
            f"{SWEEP}/logs/sweep.log",
        benchmark:
            f"{SWEEP}/benchmarks/sweep.tsv"
        conda:
            "../../envs/figures.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            # the folder and the sweep: the names of a thousand tables would not fit into a command
            experiment=SWEEP,
            over=shlex.quote(spell_sweep(chosen.sweep)),
            gammas=lambda wildcards, output: [f"--figure {figure}" for figure in output.gammas],
            beside=[f"--beside results/{name}" for name in chosen.compare],
            source=job_digest("sweep"),
        message:
            f"Put the {len(POINTS)} combinations of {SWEEP} into one table"
        shell:
            "python -m equireg sweep --experiment {params.experiment} --over {params.over}"
            " --output {output.table} --report {output.report}"
            " --figure {output.pdf} --figure {output.png} {params.gammas}"
            " {params.beside}"
            " > {log} 2>&1"

    use rule overview as overview_of_sweep with:
        input:
            figure=f"{SWEEP}/figures/sweep.png",
            documents=[f"{SWEEP}/sweep.md"],
        output:
            page=report(
                f"{SWEEP}/overview.html",
                caption="../report/sweep.rst",
                category="Result",
                labels={"shows": "figure and numbers", "as": "page"},
            ),
        log:
            f"{SWEEP}/logs/overview.log",
        benchmark:
            f"{SWEEP}/benchmarks/overview.tsv"
        params:
            experiment=chosen.experiment,
            documents=lambda wildcards, input: [f"--document {name}" for name in input.documents],
            source=job_digest("overview"),
        message:
            "Write the overview of the sweep"
