rule fetch:
    input:
        # ancient: fetch adds the sums of a data set that it sees for the first time
        sums=ancient(str(HERE / "workflow/checksums.txt")),
        # of a folder of one's own
        folder=data_files(chosen.data),
    output:
        data=DATA,
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
        options=options(chosen.data),
    message:
        f"Fetch the data set {chosen.data.name}"
    shell:
        "python -m equireg fetch {params.options} --output {output.data} --sums {input.sums}"
        " > {log} 2>&1"
