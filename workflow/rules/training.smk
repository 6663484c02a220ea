# A network of the user's own is tried before anything else, and its file is an input.
rule inspect:
    input:
        network=network_of,
        data=data_of,
    output:
        report=f"{RESULTS}/network.md",
    log:
        f"{RESULTS}/logs/inspect.log",
    benchmark:
        f"{RESULTS}/benchmarks/inspect.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        options=options_of("network"),
        source=job_digest("inspect"),
    message:
        f"Inspect the network of {NAME}"
    shell:
        "python -m equireg inspect --data {input.data} {params.options}"
        " --output {output.report} > {log} 2>&1"


rule initialize:
    input:
        network=network_of,
        inspected=lambda wildcards: (
            [f"results/{wildcards.experiment}/network.md"] if network_of(wildcards) else []
        ),
        # One that other code or settings made is dated back: older than anything.
        older=lambda wildcards: (
            [str(HERE / "Snakefile")]
            if f"results/{wildcards.experiment}/initial/seeds-{wildcards.seeds}.safetensors"
            in OUTDATED
            else []
        ),
    output:
        initial=f"results/{{experiment}}/initial/seeds-{{seeds}}.safetensors",
    log:
        f"results/{{experiment}}/logs/initialize/seeds-{{seeds}}.log",
    benchmark:
        f"results/{{experiment}}/benchmarks/initialize/seeds-{{seeds}}.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        seeds=lambda wildcards: seeds_option(wildcards.seeds),
        options=options_of("network", "initialization"),
        source=job_digest("initialize"),
    message:
        "Draw the initial weights of seeds {wildcards.seeds}"
    shell:
        "python -m equireg initialize {params.seeds} {params.options} --output {output.initial}"
        " > {log} 2>&1"


rule train:
    input:
        data=data_of,
        initial=f"results/{{experiment}}/initial/seeds-{{seeds}}.safetensors",
        network=network_of,
    output:
        trajectory=f"{BLOCK}.parquet",
        weights=f"{BLOCK}.safetensors",
        provenance=f"{BLOCK}.json",
        function=f"{BLOCK}.function.parquet",
    log:
        f"results/{{experiment}}/logs/train/{RUN}.log",
    benchmark:
        f"results/{{experiment}}/benchmarks/train/{RUN}.tsv"
    wildcard_constraints:
        experiment=folders_but_for({n: kept.trained for n, kept in found.items()}),
    conda:
        "../../envs/training.yaml"
    threads: chosen.jobs.threads
    resources:
        # Not parameters: one that changes trains anew, and these need not. The same for all jobs
        # of a rule: a SLURM array asks for what its first job does.
        gpu=GPU,
        own_gpu=OWN_GPU,
        device=chosen.jobs.device,
        step=chosen.jobs.step,
        # 10 seeds for 10 epochs took 1.1 GB and a minute of one core, and 2 GB and 7 minutes with
        # the reference step; exact augmentation and D4 multiply the images.
        mem_mb=lambda wildcards, attempt: attempt
        * (3000 + 50 * runs_per_job(of(wildcards).grid, stacked="gamma" not in wildcards.keys())),
        runtime=lambda wildcards, attempt: attempt
        * (
            15
            + runs_per_job(of(wildcards).grid, stacked="gamma" not in wildcards.keys())
            * of(wildcards).training.epochs
            // 2
        ),
    params:
        # With the output: such a parameter is no reason to train anew, and it differs with
        # stack_gammas.
        blocks=lambda wildcards, output: blocks_options(
            wildcards.mode, [wildcards.gamma], wildcards.seeds, [output.trajectory]
        ),
        options=lambda wildcards: train_options(
            *(section(of(wildcards), name) for name in ("network", "training")),
            wildcards.mode,
            section(of(wildcards), "selection"),
        ),
        source=job_digest("train"),
    message:
        "Train {wildcards.mode}, gamma {wildcards.gamma}, seeds {wildcards.seeds}"
    shell:
        "python -m equireg train {params.blocks} --data {input.data} --initial {input.initial}"
        " {params.options}"
        " --threads {threads} --device {resources.device} --step {resources.step}"
        " {resources.own_gpu} --parent $PPID > {log} 2>&1"


if chosen.jobs.stack_gammas:
    STACK = [
        f"results/{{experiment}}/runs/{{mode}}/gamma-{spell_gamma(gamma)}/seeds-{{seeds}}"
        for gamma in chosen.grid.gammas
    ]

    ruleorder: train_stacked > train  # the equivariant mode has no gamma

    use rule train as train_stacked with:
        output:
            trajectory=[f"{block}.parquet" for block in STACK],
            weights=[f"{block}.safetensors" for block in STACK],
            provenance=[f"{block}.json" for block in STACK],
            function=[f"{block}.function.parquet" for block in STACK],
        log:
            f"results/{{experiment}}/logs/train/{{mode}}/seeds-{{seeds}}.log",
        benchmark:
            f"results/{{experiment}}/benchmarks/train/{{mode}}/seeds-{{seeds}}.tsv"
        wildcard_constraints:
            experiment=folders_but_for({n: kept.trained for n, kept in found.items()}, len(STACK)),
        params:
            blocks=lambda wildcards, output: blocks_options(
                wildcards.mode,
                list(map(spell_gamma, chosen.grid.gammas)),
                wildcards.seeds,
                output.trajectory,
            ),
            options=lambda wildcards: train_options(
                *(section(of(wildcards), name) for name in ("network", "training")),
                wildcards.mode,
                section(of(wildcards), "selection"),
            ),
            source=job_digest("train"),
        message:
            "Train {wildcards.mode}, every gamma, seeds {wildcards.seeds}"


# All seeds of a mode and gamma at once: their ensembles need them together.
SEEDS = [block_name(seeds) for seeds in seed_blocks(chosen.grid)]
CONDITION = f"results/{{experiment}}/runs/{{mode}}/gamma-{{gamma}}"
TWINS = f"results/{{experiment}}/runs/equivariant/gamma-{NO_PENALTY}"


rule evaluate:
    input:
        blocks=[f"{CONDITION}/{seeds}.parquet" for seeds in SEEDS],
        weights=[f"{CONDITION}/{seeds}.safetensors" for seeds in SEEDS],
        # the equivariant runs of the same seeds, where the grid has them
        twins=lambda wildcards: [
            f"{TWINS.format(**wildcards)}/{seeds}.safetensors"
            for seeds in SEEDS
            if "equivariant" in of(wildcards).grid.modes
        ],
        data=data_of,
        network=network_of,
    output:
        evaluations=[f"{CONDITION}/{seeds}.evaluation.parquet" for seeds in SEEDS],
        ensembles=f"{CONDITION}/{ENSEMBLES}",
    log:
        f"results/{{experiment}}/logs/evaluate/{{mode}}/gamma-{{gamma}}.log",
    benchmark:
        f"results/{{experiment}}/benchmarks/evaluate/{{mode}}/gamma-{{gamma}}.tsv"
    wildcard_constraints:
        experiment=folders_but_for_conditions({n: kept.evaluated for n, kept in found.items()}),
    conda:
        "../../envs/training.yaml"
    threads: chosen.jobs.threads
    resources:
        gpu=GPU,
        own_gpu=OWN_GPU,
        device=chosen.jobs.device,
        step=chosen.jobs.step,
        # 30 seeds took 1 GB and 15 s of one core
        mem_mb=lambda wildcards, attempt: attempt * (2000 + 50 * chosen.grid.seeds_per_job),
        runtime=lambda wildcards, attempt: attempt
        * (15 + chosen.grid.seeds_per_job * len(SEEDS) // 5),
    params:
        blocks=lambda wildcards, input: block_options(input.blocks),
        twins=lambda wildcards, input: (
            f"--twins {TWINS.format(**wildcards)}" if input.twins else ""
        ),
        options=options_of("network", "selection"),
        source=job_digest("evaluate"),
    message:
        "Evaluate {wildcards.mode}, gamma {wildcards.gamma}"
    shell:
        "python -m equireg evaluate {params.blocks} {params.twins} --data {input.data}"
        " {params.options}"
        " --threads {threads} --device {resources.device} --step {resources.step}"
        " {resources.own_gpu} > {log} 2>&1"
