# Kept once it is there, and made of the files in the folder where there is one.
MISSING = sorted({POINTS[name].data.name for name, kept in found.items() if not kept.data})
DATA_SET = "{data}" if chosen.sweep else chosen.data.name


if MISSING:

    rule fetch:
        input:
            # of a folder of one's own
            folder=lambda wildcards: data_files(source_of(wildcards).data),
        output:
            data=f"results/data/{DATA_SET}.safetensors",
            sums=f"results/data/{DATA_SET}.json",
        log:
            f"results/data/logs/{DATA_SET}.log",
        benchmark:
            f"results/data/benchmarks/{DATA_SET}.tsv"
        wildcard_constraints:
            data="|".join(map(re.escape, MISSING)),
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            # No digest of the source: the sums say what must come, however it was obtained, and a new
            # download would train everything anew.
            options=lambda wildcards: options(section(source_of(wildcards), "source")),
            # no input: fetch adds the sums of a data set that it sees for the first time
            list=str(HERE / "workflow/checksums.txt"),
        message:
            f"Fetch the data set {DATA_SET}".replace("{data}", "{wildcards.data}")
        shell:
            "python -m equireg fetch {params.options} --output {output.data} --sums {params.list}"
            " > {log} 2>&1"
