# Kept once they are there and right: they take minutes.
UNPREDICTED = [name for name, kept in found.items() if not kept.predicted]
if UNPREDICTED:

    rule predict:
        input:
            data=data_of,
            initial=f"{RESULTS}/initial/{block_name(predicted_seeds(chosen.grid))}.safetensors",
        output:
            predictions=f"{RESULTS}/predictions.parquet",
        log:
            f"{RESULTS}/logs/predict.log",
        benchmark:
            f"{RESULTS}/benchmarks/predict.tsv"
        wildcard_constraints:
            experiment="|".join(map(re.escape, UNPREDICTED)),
        # First, beside the trainings: it waits for none of them, and would else run alone at the end.
        priority: 1
        conda:
            "../../envs/training.yaml"
        # One where cores are few: much of it runs on one core whatever it is given.
        threads: max(chosen.jobs.threads, min(4, (workflow.resource_settings.cores or 1) // 4))
        resources:
            gpu=GPU,
            own_gpu=OWN_GPU,
            device=chosen.jobs.device,
            step=chosen.jobs.step,
            mem_mb=lambda wildcards, attempt: attempt * 3000,
            runtime=lambda wildcards, attempt: attempt * (15 + 5 * of(wildcards).training.epochs),
        params:
            options=lambda wildcards: options(
                *(section(of(wildcards), name) for name in ("network", "training", "selection")),
                replace(of(wildcards).grid, seeds=spell_seeds(list(predicted_seeds(chosen.grid)))),
                without=["seeds_per_job"],
            ),
            source=job_digest("predict"),
        message:
            f"Predict figure 2 of {NAME} from its equivariant runs"
        shell:
            "python -m equireg predict --data {input.data} --initial {input.initial}"
            " --output {output.predictions} {params.options}"
            " --threads {threads} --device {resources.device} --step {resources.step}"
            " {resources.own_gpu} > {log} 2>&1"


rule score:
    input:
        predictions=f"{RESULTS}/predictions.parquet",
        summary=f"{RESULTS}/summary.parquet",
    output:
        report=report(
            f"{RESULTS}/predictions.md",
            caption="../report/predictions.rst",
            category="Tables",
            labels=shown("figure 2, predicted", "Markdown"),
        ),
    log:
        f"{RESULTS}/logs/score.log",
    benchmark:
        f"{RESULTS}/benchmarks/score.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        source=job_digest("score"),
    message:
        "Say how far the predictions of figure 2 are off"
    shell:
        "python -m equireg score --predictions {input.predictions} --summary {input.summary}"
        " --output {output.report} > {log} 2>&1"
