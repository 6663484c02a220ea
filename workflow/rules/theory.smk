# Points where the theory is checked, besides random ones: trained runs.
SEEN = [f"{RESULTS}/{block.path}" for block in seen_blocks(chosen.grid)]


# Not part of `all`: `make theory` asks for it.
rule theory:
    input:
        data=DATA,
        blocks=[f"{block}.parquet" for block in SEEN],
        weights=[f"{block}.safetensors" for block in SEEN],
    output:
        table=f"{RESULTS}/theory.parquet",
        report=report(
            f"{RESULTS}/theory.md",
            caption="../report/theory.rst",
            category="Theory",
            labels={"shows": "every statement, measured", "as": "Markdown"},
        ),
        figures=[
            report(
                f"{RESULTS}/figures/theory_{name}.{suffix}",
                caption="../report/theory_figures.rst",
                category="Theory",
                labels={"shows": name, "as": suffix},
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
        options=options(chosen.network),
        source=source_digest("equireg.jobs.theory", "equireg.runtime", "equireg.settings"),
    message:
        "Check the theory, statement by statement"
    shell:
        "python -m equireg theory --data {input.data} {params.blocks} {params.options}"
        " --output {output.table} --report {output.report} {params.figures}"
        " --device cpu --threads {threads} > {log} 2>&1"
