# Kept once it is there, and made of the files in the folder where there is one.
if not found.data:

    rule fetch:
        input:
            # of a folder of one's own
            folder=data_files(chosen.data),
        output:
            data=DATA,
            sums=DATA.replace(".safetensors", ".json"),
        log:
            f"results/data/logs/{chosen.data.name}.log",
        benchmark:
            f"results/data/benchmarks/{chosen.data.name}.tsv"
        conda:
            "../../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            # No digest of the source: the sums say what must come, however it was obtained, and a new
            # download would train everything anew.
            options=options(part(SourceSettings, chosen.data)),
            # no input: fetch adds the sums of a data set that it sees for the first time
            list=str(HERE / "workflow/checksums.txt"),
        message:
            f"Fetch the data set {chosen.data.name}"
        shell:
            "python -m equireg fetch {params.options} --output {output.data} --sums {params.list}"
            " > {log} 2>&1"
