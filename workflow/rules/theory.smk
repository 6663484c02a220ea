# Points where the theory is checked, besides random ones: trained runs.
SEEN = [f"{RESULTS}/{block.path}" for block in seen_blocks(chosen.grid)]


# Not part of `all`: `make theory` asks for it.
rule theory:
    input:
        data=data_of,
        blocks=[f"{block}.parquet" for block in SEEN],
        weights=[f"{block}.safetensors" for block in SEEN],
    output:
        table=f"{RESULTS}/theory.parquet",
        report=report(
            f"{RESULTS}/theory.md",
            caption="../report/theory.rst",
            category="Theory",
            labels=shown("every statement, measured", "Markdown"),
        ),
        figures=[
            report(
                f"{RESULTS}/figures/theory_{name}.{suffix}",
                caption="../report/theory_figures.rst",
                category="Theory",
                labels=shown(name, suffix),
            )
            for name in ("rates", "plateau", "spectrum")
            for suffix in ("pdf", "png")
        ],
    log:
        f"{RESULTS}/logs/theory.log",
    benchmark:
        f"{RESULTS}/benchmarks/theory.tsv"
    conda:
        "../../envs/theory.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        blocks=lambda wildcards, input: [f"--block {block}" for block in input.blocks],
        figures=lambda wildcards, output: [f"--figure {figure}" for figure in output.figures],
        options=options_of("network"),
        source=job_digest("theory"),
    message:
        "Check the theory, statement by statement"
    shell:
        "python -m equireg theory --data {input.data} {params.blocks} {params.options}"
        " --output {output.table} --report {output.report} {params.figures}"
        " --threads {threads} > {log} 2>&1"


# Where the configuration says mark_critical.
if chosen.mark_critical:
    CRITICAL = critical_block(chosen.grid)

    rule critical:
        input:
            data=data_of,
            initial=f"{RESULTS}/initial/{CRITICAL.name}.safetensors",
            trained=f"{RESULTS}/{CRITICAL.path}.safetensors",
        output:
            table=f"{RESULTS}/critical.parquet",
        log:
            f"{RESULTS}/logs/critical.log",
        benchmark:
            f"{RESULTS}/benchmarks/critical.tsv"
        conda:
            "../../envs/theory.yaml"
        threads: 2
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            modes=[f"--mode {mode}" for mode in chosen.grid.modes],
            seeds=f"--seeds {spell_seeds(list(CRITICAL.seeds[:CRITICAL_SEEDS]))}",
            options=options_of("network", "training"),
            source=job_digest("critical"),
        message:
            "Find the penalty above which E attracts"
        shell:
            "python -m equireg critical --data {input.data} --initial {input.initial}"
            " --trained {input.trained} {params.modes} {params.seeds} {params.options}"
            " --output {output.table} --threads {threads} > {log} 2>&1"
